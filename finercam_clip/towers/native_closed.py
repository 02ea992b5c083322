"""The closed forms of open_clip's own ViT: its class token in the last block, the one query of its attention pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from finercam_clip.towers.closed import QueryTail, Rest, plain, query_of, query_tails, recorded_rest
from finercam_clip.towers.temporary import attributes
from finercam_clip.towers.tower import Transformer


def closed_form(
    tower: Transformer, block: Callable[[Tensor], Tensor], tokens: Tensor, pooling: str
) -> Callable[[], Iterator[QueryTail]] | None:
    """The tails in closed form, where there are any, of the last block, whose input are `tokens` [B, n, C]."""
    if pooling != "mean" and reads_with_class_token(tower.visual):
        return partial(class_token_tails, tower, tokens)
    if pooling == "model" and pools_by_one_query(tower.visual):
        return partial(pool_query_tails, tower, block, tokens)
    return None


def reads_with_class_token(visual: Any) -> bool:
    """Whether the class token alone is pooled, and reads keys and values that are linear in `ln_1`'s output."""
    block = visual.transformer.resblocks[-1]
    return (
        visual.pool_type == "tok"
        and visual.attn_pool is None
        and type(block) is ResidualAttentionBlock  # a subclass may compute something else
        and not hasattr(block, "ln_1_kv")  # keys and values of their own norm
        and block.attn.in_proj_weight is not None  # keys and values of other widths
        and block.attn.bias_k is None  # a key besides the tokens'
        and not block.attn.add_zero_attn  # a token besides
        and plain(block.attn, nn.MultiheadAttention)  # adapters (LoRA) add to what a layer's own weights say
        and len(block.mlp) == 3
        and all(plain(layer, nn.Linear) for layer in (block.mlp[0], block.mlp[2]))
        and plain(block.attn.out_proj, nn.Linear)
    )


@torch.no_grad()
def class_token_tails(tower: Transformer, tokens: Tensor) -> Iterator[QueryTail]:
    """What the class token reads in the last block, whose input are `tokens` [B, n, C]."""
    block = tower.blocks()[-1]
    attention, normed = block.attn, block.ln_1(tokens)
    weight = attention.in_proj_weight
    bias = attention.in_proj_bias if attention.in_proj_bias is not None else weight.new_zeros(len(weight))
    width = normed.shape[-1]
    query = F.linear(normed[:, 0], weight[:width], bias[:width]).view(len(tokens), attention.num_heads, -1)
    return query_tails(
        normed, 1, query, weight[width:], bias[width:], lambda i, o: _class_token_rest(tower, tokens[i, 0], o)
    )


@torch.no_grad()
def _class_token_rest(tower: Transformer, residual: Tensor, attended: Tensor) -> Rest:
    """From the class token's attention output o [C], before its projection, to f.

    Both ways are chains of matrix products; autograd would loop over the K cotangents.
    """
    visual, block = tower.visual, tower.blocks()[-1]
    widen, activation, narrow = block.mlp
    x = residual + block.ls_1(block.attn.out_proj(attended.to(residual.dtype)))
    hidden = widen(block.ln_2(x))
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        (slope,) = torch.autograd.grad(activation(leaf).sum(), leaf)  # it acts on each element alone
    y = x + block.ls_2(narrow(activation(hidden)))
    z = visual.ln_post(y) if visual.proj is None else visual.ln_post(y) @ visual.proj
    embedding = tower.scored(z)

    @torch.no_grad()
    def pull_back(g: Tensor) -> Tensor:
        if tower.unit_norm:
            g = (g - (g @ embedding)[:, None] * embedding) / z.float().norm()
        g = g.to(residual.dtype) if visual.proj is None else g.to(residual.dtype) @ visual.proj.T
        g = _through_norm(visual.ln_post, y, g)
        inner = (_scaled(block.ls_2, g) @ narrow.weight * slope) @ widen.weight
        g = g + _through_norm(block.ln_2, x, inner)
        back: Tensor = _scaled(block.ls_1, g) @ block.attn.out_proj.weight
        return back

    @torch.no_grad()
    def push(t: Tensor) -> Tensor:
        t = _scaled(block.ls_1, t.to(residual.dtype) @ block.attn.out_proj.weight.T)
        inner = (_pushed_through_norm(block.ln_2, x, t) @ widen.weight.T * slope) @ narrow.weight.T
        t = _pushed_through_norm(visual.ln_post, y, t + _scaled(block.ls_2, inner))
        t = t.float() if visual.proj is None else (t @ visual.proj).float()
        return (t - (t @ embedding)[:, None] * embedding) / z.float().norm() if tower.unit_norm else t

    return Rest(embedding, pull_back, push)


def pools_by_one_query(visual: Any) -> bool:
    """Whether the embedding is one query of the attention pool (CoCa), the others serving its text decoder."""
    return (
        visual.attn_pool is not None
        and visual.attn_pool_contrastive is None
        and visual.pool_type == "tok"
        and plain(visual.attn_pool.attn, nn.MultiheadAttention)
    )


def first_query_alone(visual: Any) -> AbstractContextManager[None]:
    """Inside, the attention pool has no queries but the one that the embedding is made of."""
    if not pools_by_one_query(visual):
        return nullcontext()
    return attributes(visual.attn_pool, query=nn.Parameter(visual.attn_pool.query[:1].detach(), requires_grad=False))


@torch.no_grad()
def pool_query_tails(tower: Transformer, block: Callable[[Tensor], Tensor], tokens: Tensor) -> Iterator[QueryTail]:
    """What the first query of the attention pool reads of the output of the last block, whose input are `tokens`."""
    visual, pool = tower.visual, tower.visual.attn_pool
    query, weight, bias = query_of(pool.attn, pool.ln_q(pool.query))

    def finish(attended: Tensor) -> Tensor:
        pooled: Tensor = visual.ln_post(pool.attn.out_proj(attended))
        return pooled if visual.proj is None else pooled @ visual.proj

    return query_tails(
        pool.ln_k(block(tokens)),
        1,
        query,
        weight,
        bias,
        lambda i, o: recorded_rest(visual, o, finish, tower.scored),
    )


def _through_norm(norm: Any, x: Tensor, g: Tensor) -> Tensor:
    """Cotangents g [K, C] at a layer norm's output, pulled back to its input x [C]."""
    g = g.float() if norm.weight is None else g.float() * norm.weight.float()
    return _standardised(norm, x, g).to(x.dtype)


def _pushed_through_norm(norm: Any, x: Tensor, t: Tensor) -> Tensor:
    """Tangents t [K, C] at a layer norm's input x [C], pushed to its output."""
    pushed = _standardised(norm, x, t.float())
    return (pushed if norm.weight is None else pushed * norm.weight.float()).to(x.dtype)


def _standardised(norm: Any, x: Tensor, rows: Tensor) -> Tensor:
    """The derivative of standardising x [C], which is symmetric, times rows [K, C]."""
    centred = x.float() - x.float().mean()
    deviation = (centred.square().mean() + norm.eps).sqrt()
    unit = centred / deviation
    result: Tensor = (rows - rows.mean(1, keepdim=True) - unit * (rows * unit).mean(1, keepdim=True)) / deviation
    return result


def _scaled(scale: Any, g: Tensor) -> Tensor:
    """Through a layer scale, or the identity in its place."""
    through: Tensor = g * scale.gamma if hasattr(scale, "gamma") else g
    return through
