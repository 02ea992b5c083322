"""Any module with a linear head: the user's own network, its target layer found where that is sure, or told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam_clip.errors import InputError
from finercam_clip.towers.receptive import shift_of, strided_steps
from finercam_clip.towers.tails import Cut
from finercam_clip.towers.temporary import evaluating, frozen
from finercam_clip.towers.tower import Family, Tower

_CANDIDATES = 16  # feature maps that are tried, the last one first

TargetLayer = str | tuple[str, tuple[int, int]]  # a module's name, perhaps with the (h, w) of its grid


class Layout(NamedTuple):
    """How a layer's output is a grid.

    Attributes:
        grid: (h, w).
        channels: The axis of the channels: 1 in maps [B, C, h, w], -1 in maps [B, h, w, C] and tokens [B, n, C].
        prefix: How many tokens come before the patches.
    """

    grid: tuple[int, int]
    channels: int
    prefix: int = 0


class HeadInput(nn.Module):
    """A user's model up to its linear head: pixels [B, 3, H, W] -> what the head reads, and a 1, [B, D + 1].

    Attributes:
        model: The whole model, which is not changed.
        head: Its linear layer.
    """

    def __init__(self, model: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.train(model.training)

    def forward(self, pixels: Tensor) -> Tensor:
        inputs: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        try:
            self.model(pixels)
        finally:
            handle.remove()
        return F.pad(inputs[-1], (0, 1), value=1.0)


class AnyModule(Tower):
    """A `HeadInput` and its target layer. The whole model is run for each image, with a graph from that layer on.

    Attributes:
        layer: The target layer.
        layout: How its output is a grid, at the model's own size.
    """

    family = Family(
        name="any",
        towers="any module with a linear head, in memory (`finercam_clip.wrap`)",
        layer="the feature map that is averaged, or the one that the user names",
        pooling="its own",
    )

    def __init__(self, visual: HeadInput, size: tuple[int, int], layer: nn.Module, layout: Layout) -> None:
        super().__init__(visual, size, unit_norm=False)
        self.layer, self.layout = layer, layout
        self._shift = (0.0, 0.0)
        self._stride = (math.ceil(size[0] / layout.grid[0]), math.ceil(size[1] / layout.grid[1]))
        if layout.channels == 1:
            steps = strided_steps(visual.model, size)
            jumps = tuple(math.prod(step.stride for step in axis) for axis in steps)
            if all(math.ceil(side / jump) == cells for side, jump, cells in zip(size, jumps, layout.grid, strict=True)):
                self._stride = (jumps[0], jumps[1])
                self._shift = (shift_of(steps[0]), shift_of(steps[1]))

    @staticmethod
    def matches(visual: Any) -> bool:
        return False  # it needs to be told its layer

    def layers(self) -> list[Any]:
        return [self.layer]

    def patches(self, output: Tensor) -> Tensor:
        if output.ndim == 3:
            return output[:, self.layout.prefix :]
        return output.flatten(2).mT if self.layout.channels == 1 else output.flatten(1, 2)

    def cells(self, output: Tensor) -> tuple[int, int] | None:
        if output.ndim != 4:
            return None
        return (output.shape[2], output.shape[3]) if self.layout.channels == 1 else (output.shape[1], output.shape[2])

    @property
    def stride(self) -> tuple[int, int]:
        return self._stride

    @property
    def shift(self) -> tuple[float, float]:
        return self._shift

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return math.ceil(size[0] / self._stride[0]), math.ceil(size[1] / self._stride[1])

    def sized(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        if self.layout.channels != 1:
            raise self.takes_one_size()
        return nullcontext()

    def listens(self, pooling: str) -> bool:
        return True  # to the head (`HeadInput`)

    def cut(self, pixels: Tensor, pooling: str) -> Cut:
        return Cut(pixels, self.visual, self.layer)


def head_of(model: nn.Module, pixels: Tensor) -> nn.Linear:
    """The linear layer that gives a model's output.

    Args:
        model: Pixels -> logits [B, K], or an output with `logits`.
        pixels: [1, 3, H, W], anything.

    Raises:
        InputError: There is none: the head is not linear, or something follows it.
    """
    outputs: list[tuple[nn.Linear, Tensor]] = []
    with _listening(model, nn.Linear, lambda layer, output: outputs.append((layer, output))):
        result = model(pixels)
    logits = getattr(result, "logits", result)
    for layer, output in reversed(outputs):
        if isinstance(logits, Tensor) and output.shape == logits.shape and torch.equal(output, logits):
            return layer
    raise InputError(
        f"no linear layer (nn.Linear) gives the output of {type(model).__name__}: its head is not linear, or something "
        "follows it"
    )


def layout_of(
    model: nn.Module, head: nn.Linear, pixels: Tensor, target: TargetLayer | None
) -> tuple[nn.Module, Layout]:
    """The target layer of a model, and how its output is a grid.

    Args:
        model: The model.
        head: Its head.
        pixels: [1, 3, H, W], noise.
        target: The layer as the user names it. None: the last feature map, if the head reads nothing but its average.

    Raises:
        InputError: It is not sure; the message says how to tell.
    """
    outputs: dict[nn.Module, Tensor] = {}  # by the order in which they end: a part before the whole
    features: list[Tensor] = []

    def note(module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            outputs.pop(module, None)
            outputs[module] = output

    handle = head.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    try:
        with _listening(model, nn.Module, note):
            model(pixels)
    finally:
        handle.remove()
    if target is None:
        return _averaged(model, head, pixels, outputs, features[-1])
    name, grid = (target, None) if isinstance(target, str) else target
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the model has no module '{name}': target_layer is the name of one, as 'layer4'") from error
    if layer not in outputs:
        raise InputError(f"'{name}' gives no feature map [B, C, h, w] and no tokens [B, n, C]: name another module")
    return layer, _layout(name, outputs[layer], grid or _patch_grid(model, outputs))


def _averaged(
    model: nn.Module, head: nn.Linear, pixels: Tensor, outputs: dict[nn.Module, Tensor], features: Tensor
) -> tuple[nn.Module, Layout]:
    """The last feature map that can be replaced by its average everywhere, without a change of what the head reads."""
    maps = [(layer, output) for layer, output in outputs.items() if output.ndim == 4 and min(output.shape[2:]) > 1]
    for layer, output in reversed(maps[-_CANDIDATES:]):
        for rectified in (False, True):  # DenseNet's last ReLU is no module
            again = _features_of_average(model, head, pixels, layer, rectified=rectified)
            if torch.allclose(again, features, rtol=1e-3, atol=1e-3 * float(features.abs().max())):
                return layer, Layout((output.shape[2], output.shape[3]), 1)
    raise InputError(
        f"where the patches of {type(model).__name__} are is not sure: its head reads no average of a feature map. "
        "Name the layer, target_layer='layer4', or with its grid target_layer=('encoder.norm', (14, 14))"
    )


def _features_of_average(
    model: nn.Module, head: nn.Linear, pixels: Tensor, layer: nn.Module, *, rectified: bool
) -> Tensor:
    """What the head reads if a layer's map is its average everywhere."""
    features: list[Tensor] = []

    def average(_: Any, __: Any, output: Tensor) -> Tensor:
        output = output.relu() if rectified else output
        return output.mean((2, 3), keepdim=True).expand_as(output).clone()

    handles = [
        layer.register_forward_hook(average),
        head.register_forward_pre_hook(lambda _, args: features.append(args[0])),
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return features[-1]


def _patch_grid(model: nn.Module, outputs: dict[nn.Module, Tensor]) -> tuple[int, int] | None:
    """(h, w) of a convolution that cuts the image into patches, if there is one."""
    for module, output in outputs.items():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and output.ndim == 4:
            return output.shape[2], output.shape[3]
    return None


def _layout(name: str, output: Tensor, grid: tuple[int, int] | None) -> Layout:
    shape = list(output.shape)
    if output.ndim == 3 and grid is not None and 0 <= shape[1] - grid[0] * grid[1] <= 8:
        return Layout(grid, -1, shape[1] - grid[0] * grid[1])
    if output.ndim == 4:
        first, last = (shape[2], shape[3]), (shape[1], shape[2])
        if grid == first or (grid != last and shape[2] == shape[3] != shape[1]):
            return Layout(first, 1)
        if grid == last or shape[1] == shape[2] != shape[3]:
            return Layout(last, -1)
    raise InputError(
        f"'{name}' gives {shape}: say which grid that is, target_layer=('{name}', (h, w)); class tokens come first"
    )


@contextmanager
def _listening(model: nn.Module, kind: type[nn.Module], note: Callable[[Any, Any], None]) -> Iterator[None]:
    """Inside, `note` gets every module of a kind and its output. Nothing learns and nothing is recorded."""

    def listen(module: nn.Module, args: Any, output: Any) -> None:
        note(module, output)

    handles = [module.register_forward_hook(listen) for module in model.modules() if isinstance(module, kind)]
    try:
        with evaluating(model), frozen(model), torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
