"""Methods that give every patch an embedding of its own, by a path beside the model's; the map is its cosine with the
direction. All are linear in the direction. The score stays the model's own: only the map comes from the other path.

An attention pool reads each patch as if there were no other: its weight is 1, and its value goes the pool's own way to
the embedding, through the MLP as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finercam_clip.towers.attention import mixed
from finercam_clip.towers.forward import ForwardPass
from finercam_clip.towers.passes import (
    attentions,
    embedded_patches,
    pools_of,
    tokens_after,
    tokens_before,
    tokens_with,
    transformer_of,
)


def maskclip(forward: ForwardPass, directions: Tensor) -> Tensor:
    """MaskCLIP (Zhou et al., ECCV 2022, sec. 3.2): in the last attention every patch attends to itself alone. That is
    the attention pool where there is one (as in the paper's ResNets), else the last block's."""
    return directions @ forward.once("maskclip", lambda: _maskclip_features(forward)).T


def sclip(forward: ForwardPass, directions: Tensor) -> Tensor:
    """SCLIP (Wang et al., ECCV 2024, eq. 4): in the last block tokens attend to what is like them, with weights
    softmax(q q^T / sqrt(c)) + softmax(k k^T / sqrt(c))."""
    return directions @ forward.once("sclip", lambda: _sclip_features(forward)).T


def clip_surgery(forward: ForwardPass, directions: Tensor) -> Tensor:
    """CLIP Surgery (Li et al., 2023, eq. 4-6): a second path runs through the last six blocks, or half of the blocks
    if there are fewer than twelve. Each block adds values weighed by softmax(v v^T / sqrt(c)), and no MLP.

    This is its architecture surgery. Its feature surgery subtracts what texts have in common. Here the contrasts do
    that.
    """
    return directions @ forward.once("clip-surgery", lambda: _surgery_features(forward)).T


def _maskclip_features(forward: ForwardPass) -> Tensor:
    if pools_of(forward) == "attention":
        return embedded_patches(forward, tokens_after(forward))
    attention = attentions(forward, 1)
    value = attention.projected(-1)[2]
    itself = torch.eye(value.shape[1], device=value.device).expand(len(value), -1, -1)
    return embedded_patches(forward, tokens_with(forward, mixed(attention.modules[-1], itself, value)))


def _sclip_features(forward: ForwardPass) -> Tensor:
    attention = attentions(forward, 1)
    query, key, value = attention.projected(-1)
    attended = mixed(attention.modules[-1], _alike(query) + _alike(key), value)
    return embedded_patches(forward, tokens_with(forward, attended))


@torch.no_grad()
def _surgery_features(forward: ForwardPass) -> Tensor:
    blocks = transformer_of(forward).blocks()
    blocks = blocks[-6 if len(blocks) >= 12 else -max(len(blocks) // 2, 1) :]
    attention = attentions(forward, len(blocks))
    tokens = tokens_before(forward, blocks[0])
    for i, (block, module) in enumerate(zip(blocks, attention.modules, strict=True)):
        value = attention.projected(i)[2]
        scale = getattr(block, "ls_1", None) or getattr(block, "ls1", None)
        added = mixed(module, _alike(value), value)
        tokens = tokens + (added if scale is None else scale(added))
    return embedded_patches(forward, tokens)


def _alike(x: Tensor) -> Tensor:
    """softmax(x x^T / sqrt(c)) of [H, n, c]."""
    return torch.softmax(x.float() @ x.float().mT * x.shape[-1] ** -0.5, -1)
