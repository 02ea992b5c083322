"""Further passes of the tower over an image that is already encoded, for methods that need more than its tail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finercam_clip import progress
from finercam_clip.attention import Attentions, attentions_of
from finercam_clip.batches import in_batches
from finercam_clip.errors import InputError
from finercam_clip.families import Tokens, as_scored, embedding_of, frozen, pooled_by_attention, uncompiled

if TYPE_CHECKING:
    from finercam_clip.explainer import ImageEncoding

_BATCH = 64


def attentions(
    encoding: ImageEncoding, count: int | None = None, *, end: int | None = None, graph: bool = False
) -> Attentions:
    """The self-attention of `count` blocks (default: all) up to block `end` (default: the last), and the embedding of
    the tokens after it. graph: recorded, so that gradients can be asked for."""
    tokens, visual = _tokens(encoding), encoding.visual
    blocks = tokens.blocks(visual)[: None if end is None else end + 1]
    with _ready(encoding):
        return attentions_of(
            blocks if count is None else blocks[-count:],
            lambda: visual(encoding.pixels),
            lambda x: as_scored(visual, tokens.finish(visual, x, encoding.pooling)),
            graph=graph,
        )


def blocks_of(encoding: ImageEncoding) -> list[Any]:
    """The blocks of a transformer, from first to last."""
    return _tokens(encoding).blocks(encoding.visual)


def pooling_of(encoding: ImageEncoding) -> str:
    """What the embedding is made of: "token", "mean" or "attention"."""
    return _tokens(encoding).pools(encoding.visual) if encoding.pooling == "model" else encoding.pooling


def patches_of(encoding: ImageEncoding, values: Tensor) -> Tensor:
    """[..., n] -> [..., N]: of all tokens those of patches."""
    return values[..., values.shape[-1] - encoding.grid[0] * encoding.grid[1] :]


def pooled_row(encoding: ImageEncoding, matrix: Tensor) -> Tensor:
    """What the pooled tokens have of each patch, [N], of a matrix between tokens [n, n]."""
    pools = pooling_of(encoding)
    if pools == "attention":
        raise pooled_by_attention("this method")
    rows = matrix[:1] if pools == "token" else matrix[-encoding.grid[0] * encoding.grid[1] :]
    return patches_of(encoding, rows.mean(0))


@torch.no_grad()
def tokens_before(encoding: ImageEncoding, block: Any) -> Tensor:
    """The tokens that go into a block, [n, C]."""
    kept: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    try:
        with _ready(encoding):
            encoding.visual(encoding.pixels)
    finally:
        handle.remove()
    return kept[0][0]


@torch.no_grad()
def tokens_with(encoding: ImageEncoding, attended: Tensor) -> Tensor:
    """The tokens after the last block, [n, C], if its attention gave `attended` [n, C]."""
    block = blocks_of(encoding)[-1]
    kept: list[Tensor] = []

    def give(module: Any, args: Any, output: Any) -> Any:
        return (attended[None], None) if isinstance(output, tuple) else attended[None]

    handles = [
        block.attn.register_forward_hook(give),
        block.register_forward_hook(lambda _, __, output: kept.append(output)),
    ]
    try:
        with _ready(encoding):
            encoding.visual(encoding.pixels)
    finally:
        for handle in handles:
            handle.remove()
    return kept[0][0]


@torch.no_grad()
def embedded_patches(encoding: ImageEncoding, tokens: Tensor) -> Tensor:
    """Tokens after the last block, [n, C], to unit-norm embeddings of the patches [N, D]."""
    embedded = _tokens(encoding).project(encoding.visual, tokens)
    return as_scored(encoding.visual, patches_of(encoding, embedded.T).T)


@torch.no_grad()
def embed_changed(encoding: ImageEncoding, settings: Tensor, change: Callable[[Tensor], Tensor], name: str) -> Tensor:
    """The embeddings [M, D] of M changed pictures: `change` makes them of a chunk of `settings` [M, ...]."""
    family, visual = encoding.explainer.family, encoding.visual
    bar = progress.bar(len(settings), desc=name, leave=False)

    def embed(chunk: Tensor) -> list[Tensor]:
        pixels = change(chunk)
        if encoding.pooling == "model":
            found = as_scored(visual, embedding_of(visual(pixels)))
        else:
            found = torch.stack([tail.embedding for tail in family.encode(visual, pixels, encoding.pooling)])
        bar.update(len(chunk))
        return list(found)

    with _ready(encoding), bar:
        return torch.stack(in_batches(embed, settings, _BATCH))


@contextmanager
def _ready(encoding: ImageEncoding) -> Iterator[None]:
    """The tower without gradients of its own and, inside, of the size of the image's pixels."""
    size = (encoding.pixels.shape[-2], encoding.pixels.shape[-1])
    explainer, visual = encoding.explainer, encoding.visual
    own = explainer.own_size
    with uncompiled(), frozen(visual), nullcontext() if size == own else explainer.family.sized(visual, size):
        yield


def _tokens(encoding: ImageEncoding) -> Tokens:
    tokens = encoding.explainer.family.tokens
    if tokens is None:
        raise InputError(
            f"this method is for transformers; the image tower is of family {encoding.explainer.family.name}: "
            "use hirescam, gradcam, occlusion or rise"
        )
    return tokens
