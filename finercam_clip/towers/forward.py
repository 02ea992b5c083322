"""One run of a tower over one image: all that a method may read. For further passes over it see `passes`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from finercam_clip.batches import through_model
from finercam_clip.errors import InputError
from finercam_clip.options import Layer
from finercam_clip.towers.layers import tails_at
from finercam_clip.towers.tails import AutogradTail, Tail
from finercam_clip.towers.tower import Tower

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """An image tower run over one image. It knows no text.

    Attributes:
        tower: The tower.
        pixels: What it saw, [1, 3, H, W].
        pooling: How its tokens were pooled: "model", "token" or "mean".
        tails: Activations, embedding and Jacobian, one per target layer.
        grid: (h, w) of the target layers.
        stride: (height, width) of a cell, in pixels of the model's input.
        kept: What methods have made of this image once (`once`).
    """

    tower: Tower
    pixels: Tensor
    pooling: str
    tails: tuple[Tail, ...]
    grid: tuple[int, int]
    stride: tuple[int, int]
    kept: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def tail(self) -> Tail:
        """The tail of the (first) target layer."""
        return self.tails[0]

    @property
    def embedding(self) -> Tensor:
        """f, float32 [D]."""
        return self.tail.embedding

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of what the tower saw, pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` gives, made when first asked for and kept as long as this pass is."""
        if key not in self.kept:
            self.kept[key] = make()
        value: Value = self.kept[key]
        return value

    def recently(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """As `once`, but kept for the last image only: all attention of a large tower takes hundreds of MB."""
        lately = self.tower.lately
        if (self, key) in lately:
            value: Value = lately[self, key]
            return value
        if any(forward is not self for forward, _ in lately):
            lately.clear()
        value = lately[self, key] = make()
        return value


def run(tower: Tower, pixels: Tensor, pooling: str = "model", layer: Layer = None) -> list[ForwardPass]:
    """Runs a tower over a batch of images of one size: one pass per image.

    Args:
        tower: The tower.
        pixels: [B, 3, H, W].
        pooling: How tokens are pooled (see `Options`).
        layer: Target layer, or several.

    Raises:
        InputError: The tower cannot do it this way.
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    layers = layer if isinstance(layer, tuple) else (layer,)

    def tails_of(part: Tensor) -> list[tuple[Tail, ...]]:
        per_layer = [
            tower.tails(part, pooling) if one is None else tails_at(tower, part, pooling, one) for one in layers
        ]
        return list(zip(*per_layer, strict=True))

    with tower.ready(size):  # once, for all threads
        per_image = through_model(tails_of, pixels, hooked=tower.hooked or layers != (None,))
        grids = {_grid(tower, tail, size) for tail in per_image[0]}
    if len(grids) > 1:
        raise InputError("these layers have grids of different sizes: give layers of one stage")
    ((grid, stride),) = grids
    return [ForwardPass(tower, pixels[i : i + 1], pooling, tails, grid, stride) for i, tails in enumerate(per_image)]


def _grid(tower: Tower, tail: Tail, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (h, w) of a tail's layer, and its stride: earlier stages of convolutional networks have a finer grid."""
    h, w = tower.grid(size)
    if len(tail.activations) == h * w:
        return (h, w), tower.stride
    cells = tower.cells(tail.leaf) if isinstance(tail, AutogradTail) else None
    if cells is None or size[0] % cells[0] or size[1] % cells[1] or tower.shift != (0.0, 0.0):
        raise InputError("where the cells of this layer lie on the image is not known for this tower")
    return cells, (size[0] // cells[0], size[1] // cells[1])
