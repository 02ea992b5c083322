"""The papers' formulas written out on a ViT whose attention is written out, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip.explainer import Explainer


@dataclass
class Block:
    """What a block saw and did, with its graph: attention A [H, n, n], heads o [n, C], and the tokens after it."""

    before: Tensor
    normed: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor
    heads: Tensor
    after: Tensor


def _heads(x: Tensor, count: int) -> Tensor:
    return x.view(len(x), count, -1).permute(1, 0, 2)


def _rest_of_block(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + attended
    return x + block.mlp(block.ln_2(x))


def spelt_out(explainer: Explainer, pixels: Tensor) -> list[Block]:
    """The image tower, block by block, with a graph."""
    visual = explainer.loaded.tower.visual
    x = visual._embeds(pixels)[0].requires_grad_()
    blocks = []
    for block in visual.transformer.resblocks:
        before, normed, count = x, block.ln_1(x), block.attn.num_heads
        q, k, v = (
            _heads(normed @ w.T + b, count)
            for w, b in zip(block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True)
        )
        attention = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
        heads = (attention @ v).permute(1, 0, 2).flatten(1)
        x = _rest_of_block(block, x, block.attn.out_proj(heads))
        blocks.append(Block(before, normed, q, k, v, attention, heads, x))
    return blocks


def embedded(explainer: Explainer, tokens: Tensor, pool_type: str | None = None) -> Tensor:
    """f, [D], of tokens after the last block: "tok", the class token's; "avg", the patches' mean; None, the model's."""
    visual = explainer.loaded.tower.visual
    normed = visual.ln_post(tokens)
    pooled = normed[0] if (pool_type or visual.pool_type) == "tok" else normed[1:].mean(0)
    return F.normalize(pooled @ visual.proj, dim=-1)


def score(explainer: Explainer, tokens: Tensor, d: Tensor) -> Tensor:
    """f . d of tokens after the last block."""
    return embedded(explainer, tokens) @ d


def _patch_scores(explainer: Explainer, tokens: Tensor, d: Tensor) -> Tensor:
    visual = explainer.loaded.tower.visual
    return F.normalize(visual.ln_post(tokens[1:]) @ visual.proj, dim=-1) @ d


def _grad_eclip(explainer: Explainer, blocks: list[Block], d: Tensor) -> Tensor:
    last = blocks[-1]
    (slope,) = torch.autograd.grad(score(explainer, last.after, d), last.heads)
    q, k, v = (part.permute(1, 0, 2).flatten(1) for part in (last.query, last.key, last.value))
    loose = torch.stack([q[0] @ one / (q[0].norm() * one.norm()) for one in k[1:]])
    loose = (loose - loose.min()) / (loose.max() - loose.min())
    return torch.stack([(slope[0] * one).sum() for one in v[1:]]) * loose


def _legrad(explainer: Explainer, blocks: list[Block], d: Tensor) -> Tensor:
    total = torch.zeros(len(blocks[0].after))
    for block in blocks[-2:]:
        (slope,) = torch.autograd.grad(score(explainer, block.after, d), block.attention, retain_graph=True)
        total += slope.clamp(min=0).mean((0, 1))
    return total[1:]


def _chefer(explainer: Explainer, blocks: list[Block], d: Tensor) -> Tensor:
    slopes = torch.autograd.grad(score(explainer, blocks[-1].after, d), [block.attention for block in blocks])
    relevance = torch.eye(len(blocks[0].after))
    for block, slope in zip(blocks, slopes, strict=True):
        relevance += (block.attention * slope).clamp(min=0).mean(0) @ relevance
    pooled = relevance[0] if explainer.loaded.tower.visual.pool_type == "tok" else relevance[1:].mean(0)
    return pooled[1:]


def _rollout(explainer: Explainer, blocks: list[Block], d: Tensor) -> Tensor:
    flow = torch.eye(len(blocks[0].after))
    for block in blocks:
        step = block.attention.mean(0) + torch.eye(len(flow))
        flow = (step / step.sum(1, keepdim=True)) @ flow
    return flow[0, 1:] if explainer.loaded.tower.visual.pool_type == "tok" else flow[1:].mean(0)[1:]


def _maskclip(explainer: Explainer, blocks: list[Block], d: Tensor) -> Tensor:
    block, last = explainer.loaded.tower.visual.transformer.resblocks[-1], blocks[-1]
    attended = block.attn.out_proj(last.value.permute(1, 0, 2).flatten(1))
    return _patch_scores(explainer, _rest_of_block(block, last.before, attended), d)


def _sclip(explainer: Explainer, blocks: list[Block], d: Tensor) -> Tensor:
    block, last = explainer.loaded.tower.visual.transformer.resblocks[-1], blocks[-1]
    alike = sum(torch.softmax(x @ x.mT / math.sqrt(x.shape[-1]), -1) for x in (last.query, last.key))
    attended = block.attn.out_proj((alike @ last.value).permute(1, 0, 2).flatten(1))
    return _patch_scores(explainer, _rest_of_block(block, last.before, attended), d)


def _clip_surgery(explainer: Explainer, blocks: list[Block], d: Tensor) -> Tensor:
    towers = explainer.loaded.tower.visual.transformer.resblocks
    start = len(blocks) - len(blocks) // 2
    tokens = blocks[start].before
    for block, seen in list(zip(towers, blocks, strict=True))[start:]:
        v = seen.value
        alike = torch.softmax(v @ v.mT / math.sqrt(v.shape[-1]), -1)
        tokens = tokens + block.attn.out_proj((alike @ v).permute(1, 0, 2).flatten(1))
    return _patch_scores(explainer, tokens, d)


FORMULAS: dict[str, Callable[[Explainer, list[Block], Tensor], Tensor]] = {
    "grad-eclip": _grad_eclip,
    "legrad": _legrad,
    "chefer": _chefer,
    "rollout": _rollout,
    "maskclip": _maskclip,
    "sclip": _sclip,
    "clip-surgery": _clip_surgery,
}
