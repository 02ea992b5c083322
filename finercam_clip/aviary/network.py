"""The small CLIP in training: its architecture, and what it makes of pictures and texts.

Shapes: B pictures, N patches per picture, C channels per patch, D dimensions of the embedding, K directions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from torch import Tensor

CONFIG = Path(__file__).parent / "weights" / "open_clip_config.json"


def read_config() -> dict[str, Any]:
    """The bundled model's open_clip configuration: "model_cfg" and "preprocess_cfg"."""
    config: dict[str, Any] = json.loads(CONFIG.read_text())
    return config


def build_model(size: int) -> open_clip.CLIP:
    """The bundled architecture with fresh weights, for pictures of `size` pixels."""
    config = read_config()["model_cfg"]
    config["vision_cfg"]["image_size"] = size
    return open_clip.CLIP(**config, init_logit_scale=math.log(25.0))


def resized(model: open_clip.CLIP, size: int) -> open_clip.CLIP:
    """The same weights for pictures of `size` pixels, with interpolated position embeddings."""
    state = model.state_dict()
    larger = build_model(size)
    resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    return larger


@dataclass(frozen=True, eq=False)
class Look:
    """What the model makes of a batch of pictures.

    The product of `patches` and `pull_back(direction)` is what each patch adds to a similarity. That is HiResCAM at the
    last block, with the slopes of `tails.QueryTail.gate_features`, but it has a gradient of its own.

    Attributes:
        embeddings: Unit norm, [B, D].
        patches: What the class token reads off each patch, [B, N, C].
        pull_back: From directions [K, B, D] to their slopes at the patches, [K, B, C].
    """

    embeddings: Tensor
    patches: Tensor
    pull_back: Callable[[Tensor], Tensor]

    def evidence(self, directions: Tensor) -> Tensor:
        """What each patch says for each direction, [B, K, N].

        Args:
            directions: [K, D], or one per picture, [K, B, D].
        """
        if directions.ndim == 2:
            directions = directions[:, None].expand(-1, len(self.embeddings), -1)
        return torch.einsum("kbc,bnc->bkn", self.pull_back(directions), self.patches)


def look(model: open_clip.CLIP, pixels: Tensor, *, borrowed: bool, local: bool) -> Look:
    """The image tower, by a path that can keep what is known about a place at that place.

    At inference neither of the two habits is there. By then the model has learned not to care.

    Args:
        model: The model.
        pixels: [B, 3, S, S].
        borrowed: Give each picture the class token of another one before the last block. So the embedding can hold
            nothing of this picture but what that token reads off the patches in the last block, which is what a map at
            that block explains.
        local: In the blocks before, let a patch attend to its neighbours only, and to no class token. So a patch learns
            of nothing but its surroundings.
    """
    visual = model.visual
    *blocks, last = visual.transformer.resblocks
    x = visual._embeds(pixels)
    mask = local_attention(visual.grid_size).to(x) if local else None
    for block in blocks:
        x = block(x, attn_mask=mask)
    if borrowed:
        x = torch.cat([x[:, :1].roll(1, 0), x[:, 1:]], 1)
    # Only the class token's row of the last block is ever read. It is in float32, because its slopes are trained too.
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        tokens, heads = last.ln_1(x), last.attn.num_heads
        projected = F.linear(tokens, last.attn.in_proj_weight, last.attn.in_proj_bias)
        query, keys, values = (part.view(*part.shape[:2], heads, -1) for part in projected.chunk(3, -1))
        scores = torch.einsum("bhc,bnhc->bnh", query[:, 0] * query.shape[-1] ** -0.5, keys)
        weights = scores.softmax(1)[..., None]
        attended = (weights * values).sum(1, keepdim=True)
        width = tokens.shape[-1]
        key_bias, value_bias = (part.view(heads, -1) for part in last.attn.in_proj_bias[width:].chunk(2))
        match = torch.einsum("bhc,bnhc->bnh", query[:, 0] * query.shape[-1] ** -0.5, keys - key_bias)
        patches = weights * (values - value_bias + match[..., None] * (values - attended))

        def rest(o: Tensor) -> Tensor:
            y = x[:, 0] + last.attn.out_proj(o)
            y = y + last.mlp(last.ln_2(y))
            return F.normalize(visual.ln_post(y) @ visual.proj, dim=-1)

        embeddings, pull_back, *_ = torch.func.vjp(rest, attended[:, 0].flatten(1))
    return Look(embeddings, patches[:, 1:].flatten(2), torch.func.vmap(lambda d: pull_back(d)[0]))


def local_attention(grid: tuple[int, int]) -> Tensor:
    """An additive mask [1 + N, 1 + N]: patches attend to patches at most one cell away, and to no class token."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    cells = torch.stack([rows.flatten(), columns.flatten()], 1)
    mask = torch.zeros(1 + len(cells), 1 + len(cells))
    mask[1:, 0] = -torch.inf
    mask[1:, 1:].masked_fill_((cells[:, None] - cells).abs().amax(-1) > 1, -torch.inf)
    return mask
