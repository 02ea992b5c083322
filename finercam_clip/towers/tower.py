"""What the engine knows about an image tower. A family is one subclass of `Tower`; nothing else knows a model.

The few abstract methods are what a family answers; the rest follows from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.tensors import unit_norm
from finercam_clip.towers.attention import Attention, attention_of
from finercam_clip.towers.tails import AutogradTail, Cut, Tail, record
from finercam_clip.towers.temporary import evaluating, frozen, uncompiled


class Family(NamedTuple):
    """A kind of tower, for people: its name, which towers these are, where the target layer is, how they pool."""

    name: str
    towers: str
    layer: str
    pooling: str


class Tower(ABC):
    """An image tower of one family. It is never changed, but for what is taken back at once.

    Attributes:
        family: The kind of tower, for people.
        hooked: Whether its tails are taken with hooks, so that only one batch at a time can go through it.
        visual: The module: open_clip's `model.visual`, or one like it.
        size: (H, W) of its own input, pixels.
        unit_norm: Whether scores are taken from features of unit norm (CLIP), or from the features as they are (a
            linear head).
        lately: Further passes over the last image that was asked about (`ForwardPass.recently`).
    """

    family: ClassVar[Family]
    hooked: ClassVar[bool] = True

    def __init__(self, visual: Any, size: tuple[int, int], *, unit_norm: bool = True) -> None:
        self.visual, self.size, self.unit_norm = visual, size, unit_norm
        self.lately: dict[Any, Any] = {}

    # ---------------------------------------------------------------------------------- what a family answers

    @staticmethod
    @abstractmethod
    def matches(visual: Any) -> bool:
        """Whether a module is a tower of this family."""

    @staticmethod
    def matches_config(config: dict[str, Any]) -> bool:
        """The same, told from open_clip's "vision_cfg" without building the tower."""
        return False

    @abstractmethod
    def layers(self) -> list[Any]:
        """The modules whose output can be A, from first to last. The last is the target layer."""

    @abstractmethod
    def patches(self, output: Tensor) -> Tensor:
        """The output of a layer -> [B, N, C]: the patch tokens or cells, row by row.

        It must be a view, because it is also applied to gradients.
        """

    @property
    @abstractmethod
    def stride(self) -> tuple[int, int]:
        """(height, width) of a cell, in pixels of the model's input."""

    @abstractmethod
    def cut(self, pixels: Tensor, pooling: str) -> Cut:
        """Runs the trunk over pixels [B, 3, H, W], up to the state that the target layer lies behind."""

    # --------------------------------------------------------------------------- what a family answers if need be

    @property
    def shift(self) -> tuple[float, float]:
        """(y, x): pixels from the middle of a cell's block of pixels to where its receptive field is centred."""
        return 0.0, 0.0

    def sized(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        """Inside, the tower takes images of (H, W) pixels; afterwards it is as it was.

        Raises:
            InputError: It takes its own size only.
        """
        if size != self.size:
            raise self.takes_one_size()
        return nullcontext()

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (h, w) of the grid for model input of (H, W) pixels."""
        return size[0] // self.stride[0], size[1] // self.stride[1]

    def cells(self, output: Tensor) -> tuple[int, int] | None:
        """The (h, w) that the output of another layer has by its shape. None if its shape does not tell."""
        return None

    def check_pooling(self, pooling: str) -> None:
        """Raises InputError if the tower cannot pool so."""
        if pooling != "model":
            raise InputError(f"pooling '{pooling}' is for transformers with patch tokens; use pooling 'model'")

    def features(self, pixels: Tensor, pooling: str = "model") -> Tensor:
        """The embeddings before normalising, [B, D], of pixels [B, 3, H, W], by the tower's own forward pass."""
        output = self.visual(pixels)
        features: Tensor = output[0] if isinstance(output, tuple) else output  # some return their tokens, too
        return features

    def listens(self, pooling: str) -> bool:
        """Whether `features` listens to modules with hooks, so that only one batch at a time can go through."""
        return pooling != "model"

    def tails(self, pixels: Tensor, pooling: str = "model") -> list[Tail]:
        """One tail per image at the target layer: in closed form where there is one, else as recorded."""
        self.check_pooling(pooling)
        cut = self.cut(pixels, pooling)
        return list(cut.closed()) if cut.closed is not None else list(self.recorded(cut))

    def recorded(self, cut: Cut) -> list[AutogradTail]:
        """One tail per image: the graph of the rest of the tower."""
        return record(self.visual, cut, self.patches, self.scored)

    def scored(self, features: Tensor) -> Tensor:
        """Features [..., D] as scores are taken from them, float32."""
        return unit_norm(features) if self.unit_norm else features.float()

    @contextmanager
    def ready(self, size: tuple[int, int]) -> Iterator[None]:
        """Inside, the tower takes images of (H, W) pixels, runs as it is written, and neither learns nor drops out."""
        resized = nullcontext() if size == self.size else self.sized(size)
        with uncompiled(), evaluating(self.visual), frozen(self.visual), resized:
            yield

    def takes_one_size(self) -> InputError:
        """The error for another input size than the tower's own."""
        kind = type(getattr(self.visual, "trunk", self.visual)).__name__
        return InputError(
            f"{kind} takes images of {self.size[0]} x {self.size[1]} only; leave image_size out for this model"
        )


class Transformer(Tower):
    """A tower of transformer blocks. Its output has one token per patch, behind a few others."""

    @abstractmethod
    def blocks(self) -> list[Any]:
        """The blocks, from first to last."""

    @property
    @abstractmethod
    def pools(self) -> str:
        """What the model's own embedding is made of: "token" (the class token), "mean" or "attention"."""

    @abstractmethod
    def finish(self, tokens: Tensor, pooling: str) -> Tensor:
        """Tokens after the last block [B, n, C] -> the embedding before normalising, [B, D]."""

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block [n, C], each pooled by itself -> embedding space [n, D]."""

    @abstractmethod
    def averaged(self, tokens: Tensor, pooling: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What is averaged of tokens after the last block, [B, N, C], and the way from the mean to the embedding."""

    def attention(self, block: Any) -> Attention:
        """The self-attention of a block."""
        return attention_of(block.attn)

    def tokens_of(self, output: Any) -> Tensor:
        """The tokens [B, n, C] in what a block gives."""
        tokens: Tensor = output
        return tokens

    def check_pooling(self, pooling: str) -> None:
        if pooling != "model" and self.pools == "attention":
            raise pooled_by_attention(f"pooling '{pooling}'")

    def features(self, pixels: Tensor, pooling: str = "model") -> Tensor:
        return super().features(pixels) if pooling == "model" else self.finish(self.tokens(pixels), pooling)

    def tokens(self, pixels: Tensor) -> Tensor:
        """The tokens after the last block, [B, n, C], of pixels [B, 3, H, W]."""
        outputs: list[Any] = []
        handle = self.blocks()[-1].register_forward_hook(lambda _, __, output: outputs.append(output))
        try:
            self.visual(pixels)
        finally:
            handle.remove()
        return self.tokens_of(outputs[0])


def pooled_by_attention(what: str) -> InputError:
    """The error for what a tower with attention pooling cannot give."""
    return InputError(f"{what} needs a tower that pools the class token or the mean; this one pools by attention")
