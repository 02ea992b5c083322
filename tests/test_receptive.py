"""Where convolutions look."""

from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from finercam_clip.towers.receptive import Step, convolutional_shift, shift_of, strided_steps

THIRD = Step(kernel=3, stride=2, padding=1)
# Layers of known networks: the pixel offset of a cell's field from the middle of its block, worked out by hand.
KNOWN: dict[str, tuple[list[Step], float]] = {
    "no layer": ([], 0.0),
    "patches of 16": ([Step(16, 16, 0)], 0.0),  # pixels 0 to 15: their middle is the block's
    "one of kernel 3, stride 2": ([THIRD], -0.5),  # pixels -1 to 1, centred on 0; the middle of 0 and 1 is 0.5
    "two of them": ([THIRD, THIRD], -1.5),  # centred on 0; the middle of 0 to 3 is 1.5
    "without padding": ([Step(3, 2, 0)], 0.5),  # pixels 0 to 2, centred on 1
    "a kernel of the stride, then one of 3": ([Step(4, 4, 0), THIRD], -2.0),  # -4 to 7: 1.5; 0 to 7: 3.5
    "ResNet": ([Step(7, 2, 3), *[THIRD] * 4], -15.5),  # centred on 0; the middle of 0 to 31 is 15.5
    "ConvNeXt": ([Step(4, 4, 0), *[Step(2, 2, 0)] * 3], 0.0),
    "a kernel of 5, all its padding at the end": ([Step(5, 2, 0)], 1.5),  # pixels 0 to 4, centred on 2
}


def _by_intervals(steps: list[Step], cell: int) -> float:
    """The same from the first and last pixel that a cell sees, followed back layer by layer."""
    first = last = cell
    jump = 1
    for step in reversed(steps):
        first = first * step.stride - step.padding
        last = last * step.stride - step.padding + step.kernel - 1
        jump *= step.stride
    return (first + last) / 2 - (cell * jump + (jump - 1) / 2)


@pytest.mark.parametrize(("steps", "shift"), KNOWN.values(), ids=KNOWN)
def test_the_shift_of_known_networks(steps: list[Step], shift: float) -> None:
    assert shift_of(steps) == shift


@pytest.mark.parametrize("cell", [0, 1, 5])
@pytest.mark.parametrize("order", range(4))
def test_the_shift_is_that_of_the_pixels_which_a_cell_sees(order: int, cell: int) -> None:
    """Kernels, strides and paddings that have nothing to do with each other, in several orders."""
    steps = [Step(7, 3, 1), Step(2, 2, 0), Step(5, 1, 2), Step(4, 3, 3)]
    steps = steps[order:] + steps[:order]
    assert shift_of(steps) == pytest.approx(_by_intervals(steps, cell))


@torch.enable_grad()
def _seen(part: nn.Module, size: tuple[int, int], cell: tuple[int, int]) -> tuple[float, float]:
    """The middle (y, x) of the pixels that an output cell depends on, from its gradient, in pixels."""
    pixels = torch.rand(1, 3, *size, requires_grad=True)
    (gradient,) = torch.autograd.grad(part(pixels)[0, :, cell[0], cell[1]].sum(), pixels)
    rows, columns = torch.nonzero(gradient[0].abs().sum(0), as_tuple=True)
    return (int(rows.min()) + int(rows.max())) / 2, (int(columns.min()) + int(columns.max())) / 2


def _positive(part: nn.Module) -> nn.Module:
    for parameter in part.parameters():
        parameter.data.abs_()
    return part


PARTS: dict[str, nn.Module] = {
    "odd kernels": nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
    ),
    "other along the width": nn.Conv2d(3, 2, (3, 8), (2, 4), (1, 2)),
    "an average pool": nn.Sequential(nn.Conv2d(3, 2, 4, 4), nn.AvgPool2d(3, 2, 1)),
    "TensorFlow's padding": nn.Sequential(Conv2dSame(3, 2, 3, 2), Conv2dSame(2, 2, 5, 2)),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_chain_of_layers_looks_where_its_gradient_comes_from(name: str) -> None:
    part, size, cell = _positive(PARTS[name]), (64, 96), (6, 7)
    with torch.no_grad():
        grid = part(torch.zeros(1, 3, *size)).shape[-2:]
    seen = _seen(part, size, cell)
    for axis in (0, 1):
        jump = size[axis] // grid[axis]
        middle = cell[axis] * jump + (jump - 1) / 2
        assert seen[axis] - middle == convolutional_shift(part, size)[axis]


def test_steps_are_the_layers_that_shrink_the_image_from_first_to_last() -> None:
    part = nn.Sequential(
        nn.Conv2d(3, 4, (7, 5), 2, (3, 2)), nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.MaxPool2d(3, 2, 1)
    )
    down, across = strided_steps(part.eval(), (32, 48))
    assert down == [Step(7, 2, 3), Step(3, 2, 1)]
    assert across == [Step(5, 2, 2), Step(3, 2, 1)]


def test_of_parallel_branches_the_first_counts() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.other = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.first(x) + self.other(x)
            return output

    assert strided_steps(Branches(), (32, 32)) == ([THIRD], [THIRD])


@pytest.mark.parametrize(("length", "padding"), [(32, 0), (33, 1)])
def test_tensorflows_padding_depends_on_the_size(length: int, padding: int) -> None:
    """Of an even length one pixel is missing, and padded at the end; of an odd one two, one at each end."""
    assert strided_steps(Conv2dSame(3, 4, 3, 2), (length, 64))[0] == [Step(3, 2, padding)]


def test_nothing_stays_with_the_layers() -> None:
    part = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1))
    strided_steps(part, (32, 32))
    assert not part[0]._forward_hooks
