"""One run of a tower over one image: all that a method may read, and further passes for methods that need more."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.options import Layer
from finercam_clip.towers.attention import Attentions, attentions_of
from finercam_clip.towers.tails import AutogradTail, Tail
from finercam_clip.towers.tower import Tower, Transformer, pooled_by_attention

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

    # ------------------------------------------------------------------------------------------ of transformers

    @property
    def transformer(self) -> Transformer:
        """The tower. Raises InputError where it is no transformer."""
        if not isinstance(self.tower, Transformer):
            raise InputError(
                f"this method is for transformers; the image tower is of family {self.tower.family.name}: "
                "use hirescam, gradcam, occlusion or rise"
            )
        return self.tower

    @property
    def pools(self) -> str:
        """What the embedding is made of: "token", "mean" or "attention"."""
        own = self.transformer.pools
        return own if self.pooling == "model" else self.pooling

    def attentions(self, count: int | None = None, *, end: int | None = None, graph: bool = False) -> Attentions:
        """The self-attention of consecutive blocks, and the embedding of the tokens after them.

        Args:
            count: How many blocks, by default all of them.
            end: The index of the last of them, by default the tower's last block.
            graph: Whether gradients can be asked for.
        """
        return self.recently(("attentions", count, end, graph), lambda: self._attentions(count, end, graph))

    def _attentions(self, count: int | None, end: int | None, graph: bool) -> Attentions:
        tower = self.transformer
        blocks = tower.blocks()[: None if end is None else end + 1]
        blocks = blocks if count is None else blocks[-count:]
        with tower.ready(self._size):
            return attentions_of(
                blocks,
                [tower.attention(block) for block in blocks],
                lambda: tower.visual(self.pixels),
                lambda tokens: tower.scored(tower.finish(tokens, self.pooling)),
                graph=graph,
            )

    @torch.no_grad()
    def tokens_before(self, block: Any) -> Tensor:
        """The tokens that go into a block, [n, C]."""
        inputs: list[Tensor] = []
        handle = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        try:
            with self.tower.ready(self._size):
                self.tower.visual(self.pixels)
        finally:
            handle.remove()
        return inputs[0][0]

    @torch.no_grad()
    def tokens_with(self, attended: Tensor) -> Tensor:
        """The tokens after the last block, [n, C], if its attention gave `attended` [n, C]."""
        block = self.transformer.blocks()[-1]
        outputs: list[Tensor] = []

        def give(module: Any, args: Any, output: Any) -> Any:
            return (attended[None], None) if isinstance(output, tuple) else attended[None]

        handles = [
            self.transformer.attention(block).module.register_forward_hook(give),
            block.register_forward_hook(lambda _, __, output: outputs.append(output)),
        ]
        try:
            with self.tower.ready(self._size):
                self.tower.visual(self.pixels)
        finally:
            for handle in handles:
                handle.remove()
        return outputs[0][0]

    def patches_of(self, values: Tensor) -> Tensor:
        """[..., n] -> [..., N]: the values of the patches among those of all tokens."""
        return values[..., values.shape[-1] - self.grid[0] * self.grid[1] :]

    def pooled_row(self, matrix: Tensor) -> Tensor:
        """What the pooled tokens have of each patch, [N], in a matrix between tokens [n, n]."""
        if self.pools == "attention":
            raise pooled_by_attention("this method")
        rows = matrix[:1] if self.pools == "token" else self.patches_of(matrix.T).T
        return self.patches_of(rows.mean(0))

    @torch.no_grad()
    def embedded_patches(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block [n, C] -> the embeddings of the patches [N, D], as scores are taken from them."""
        return self.tower.scored(self.patches_of(self.transformer.project(tokens).T).T)

    # --------------------------------------------------------------------------------------------- of any tower

    @torch.no_grad()
    def embed_changed(self, pixels: Tensor) -> Tensor:
        """The embeddings [M, D] of changed images, pixels [M, 3, H, W], pooled as this one is."""
        with self.tower.ready(self._size):
            return self.tower.scored(self.tower.features(pixels, self.pooling))

    @property
    def _size(self) -> tuple[int, int]:
        return self.pixels.shape[-2], self.pixels.shape[-1]


def run(tower: Tower, pixels: Tensor, pooling: str = "model", layer: Layer = None) -> list[ForwardPass]:
    """Runs a tower over a batch of images of one size.

    Args:
        tower: The tower.
        pixels: [B, 3, H, W].
        pooling: "model", as the tower pools; "mean", the mean of the patch tokens; "token", the class token.
        layer: Target layer: None, the family's own; an index; a module's name; or several of these.

    Returns:
        One pass per image.

    Raises:
        InputError: The tower cannot do it this way.
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    layers = layer if isinstance(layer, tuple) else (layer,)
    if not layers:
        raise InputError("layer=() names no target layer: give one, or None for the family's own")
    with tower.ready(size):
        per_layer = [
            tower.tails(pixels, pooling) if one is None else tower.tails_at(pixels, pooling, one) for one in layers
        ]
        grids = {_grid(tower, tails[0], size) for tails in per_layer}
    if len(grids) > 1:
        raise InputError("these layers have grids of different sizes: give layers of one stage")
    ((grid, stride),) = grids
    return [
        ForwardPass(tower, pixels[i : i + 1], pooling, tuple(tails[i] for tails in per_layer), grid, stride)
        for i in range(len(pixels))
    ]


def _grid(tower: Tower, tail: Tail, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (h, w) of a tail's layer, and its stride: earlier stages of convolutional networks have a finer grid."""
    h, w = tower.grid(size)
    if len(tail.activations) == h * w:
        return (h, w), tower.stride
    cells = tower.cells(tail.leaf) if isinstance(tail, AutogradTail) else None
    if cells is None or size[0] % cells[0] or size[1] % cells[1] or tower.shift != (0.0, 0.0):
        raise InputError("where the cells of this layer lie on the image is not known for this tower")
    return cells, (size[0] // cells[0], size[1] // cells[1])
