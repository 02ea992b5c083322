"""Where convolutions look: how far the middle of a cell's receptive field lies beside its block of pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn

from finercam_clip.geometry import pair
from finercam_clip.towers.temporary import evaluating

_SAME = (Conv2dSame, MaxPool2dSame, AvgPool2dSame)  # these pad what is missing, the larger half at the end
_SHRINKING = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d)


class Step(NamedTuple):
    """A layer that shrinks its input: its kernel, stride and padding along one axis, in cells of its input."""

    kernel: int
    stride: int
    padding: int


def shift_of(steps: list[Step]) -> float:
    """How far receptive fields lie off the middle of their blocks of pixels, along one axis, in pixels.

    It is not zero for an odd kernel and a stride of 2: the field is centred on the first of the two pixels that the
    layer steps over.

    Args:
        steps: The layers that shrink the image, from first to last.
    """
    centre, jump = 0.0, 1
    for step in steps:
        centre += ((step.kernel - 1) / 2 - step.padding) * jump
        jump *= step.stride
    return centre - (jump - 1) / 2


@torch.no_grad()
def strided_steps(part: nn.Module, size: tuple[int, int]) -> tuple[list[Step], list[Step]]:
    """The steps of a chain of convolutions along (y, x), from a run on an empty image of `size` (H, W).

    Parallel branches get inputs of the same size; they are centred alike, so the first of them counts.
    """
    layers: dict[tuple[int, int], Any] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        height, width = inputs[0].shape[-2:]
        if output.shape[-1] < width:
            layers.setdefault((height, width), module)

    handles = [module.register_forward_hook(note) for module in part.modules() if isinstance(module, _SHRINKING)]
    weight = next(part.parameters())
    try:
        with evaluating(part):
            part(weight.new_zeros(1, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    steps: tuple[list[Step], list[Step]] = ([], [])
    for input_size, layer in layers.items():
        for axis in (0, 1):
            kernel, stride, padding = (pair(value)[axis] for value in (layer.kernel_size, layer.stride, layer.padding))
            if isinstance(layer, _SAME):
                length = input_size[axis]
                padding = max((-(-length // stride) - 1) * stride + kernel - length, 0) // 2
            steps[axis].append(Step(kernel, stride, padding))
    return steps


def convolutional_shift(part: nn.Module, size: tuple[int, int]) -> tuple[float, float]:
    """`Tower.shift` (y, x) of a chain of convolutions."""
    down, across = strided_steps(part, size)
    return shift_of(down), shift_of(across)
