"""Further passes of a tower over an image that it has seen, for methods that need more than a tail."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finercam_clip.batches import through_model
from finercam_clip.errors import InputError
from finercam_clip.towers.attention import Attentions, attentions_of
from finercam_clip.towers.forward import ForwardPass
from finercam_clip.towers.tower import Transformer, pooled_by_attention


def transformer_of(forward: ForwardPass) -> Transformer:
    """The tower. Raises InputError where it is no transformer."""
    if not isinstance(forward.tower, Transformer):
        raise InputError(
            f"this method is for transformers; the image tower is of family {forward.tower.family.name}: "
            "use hirescam, gradcam, occlusion or rise"
        )
    return forward.tower


def pools_of(forward: ForwardPass) -> str:
    """What the embedding is made of: "token", "mean" or "attention"."""
    own = transformer_of(forward).pools
    return own if forward.pooling == "model" else forward.pooling


def attentions(
    forward: ForwardPass, count: int | None = None, *, end: int | None = None, graph: bool = False
) -> Attentions:
    """The self-attention of consecutive blocks, and the embedding of the tokens after them.

    Args:
        forward: The image. Its attention is kept until another image is asked about.
        count: How many blocks, by default all of them.
        end: The index of the last of them, by default the tower's last block.
        graph: Whether gradients can be asked for.
    """
    tower = transformer_of(forward)

    def make() -> Attentions:
        blocks = tower.blocks()[: None if end is None else end + 1]
        blocks = blocks if count is None else blocks[-count:]
        with tower.ready(forward.size):
            return attentions_of(
                blocks,
                [tower.attention(block) for block in blocks],
                lambda: tower.visual(forward.pixels),
                lambda output: tower.scored(tower.finish(tower.tokens_of(output), forward.pooling)),
                graph=graph,
            )

    return forward.recently(("attentions", count, end, graph), make)


@torch.no_grad()
def tokens_before(forward: ForwardPass, block: Any) -> Tensor:
    """The tokens that go into a block, [n, C]."""
    inputs: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        with forward.tower.ready(forward.size):
            forward.tower.visual(forward.pixels)
    finally:
        handle.remove()
    return inputs[0][0]


@torch.no_grad()
def tokens_after(forward: ForwardPass) -> Tensor:
    """The tokens after the last block, [n, C]."""
    tower = transformer_of(forward)
    with tower.ready(forward.size):
        return tower.tokens(forward.pixels)[0]


def tokens_with(forward: ForwardPass, attended: Tensor) -> Tensor:
    """The tokens after the last block, [n, C], if its attention gave `attended` [n, C]."""
    tower = transformer_of(forward)

    def give(module: Any, args: Any, output: Any) -> Any:
        return (attended[None], None) if isinstance(output, tuple) else attended[None]

    handle = tower.attention(tower.blocks()[-1]).module.register_forward_hook(give)
    try:
        return tokens_after(forward)
    finally:
        handle.remove()


def patches_of(forward: ForwardPass, values: Tensor) -> Tensor:
    """[..., n] -> [..., N]: the values of the patches among those of all tokens."""
    return values[..., values.shape[-1] - forward.grid[0] * forward.grid[1] :]


def pooled_tokens(forward: ForwardPass, weights: Tensor) -> Tensor:
    """How much of each token is pooled, [n], where attention weights are [H, n, n]: 1 of the class token, or 1/N each.

    Raises:
        InputError: The tower pools by attention.
    """
    pools = pools_of(forward)
    if pools == "attention":
        raise pooled_by_attention("this method")
    share = weights.new_zeros(weights.shape[-1])
    pooled = share[:1] if pools == "token" else patches_of(forward, share)
    pooled.fill_(1 / len(pooled))
    return share


@torch.no_grad()
def embedded_patches(forward: ForwardPass, tokens: Tensor) -> Tensor:
    """Tokens after the last block [n, C] -> the embeddings of the patches [N, D], as scores are taken from them."""
    tower = transformer_of(forward)
    return tower.scored(patches_of(forward, tower.project(tokens).T).T)


def embed_changed(forward: ForwardPass, pixels: Tensor) -> Tensor:
    """The embeddings [M, D] of changed images, pixels [M, 3, H, W], pooled as this one is. For any tower.

    They go through the tower in batches, on a CPU side by side.
    """
    tower = forward.tower

    @torch.no_grad()  # holds for the thread that it is called in
    def embed(part: Tensor) -> list[Tensor]:
        return list(tower.scored(tower.features(part, forward.pooling)))

    with tower.ready(forward.size):  # once, for all threads
        return torch.stack(through_model(embed, pixels, hooked=tower.listens(forward.pooling)))
