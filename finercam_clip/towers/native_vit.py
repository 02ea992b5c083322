"""open_clip's own ViT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from finercam_clip.towers.closed import PullBack, QueryTail, query_tails, recorded_rest
from finercam_clip.towers.tails import Cut, input_of
from finercam_clip.towers.temporary import resized_positions
from finercam_clip.towers.tower import Family, Transformer, pooled_by_attention


class NativeViT(Transformer):
    """A class token first, then the patches. See `Tower`."""

    family = Family(
        name="vit",
        towers="open_clip's own ViT: OpenAI, LAION, BioCLIP, CLIPA, CoCa, multilingual ones",
        layer="`ln_1` of the last block; with attention pooling the pool's `ln_k`",
        pooling="class token, mean, attention",
    )

    @staticmethod
    def matches(visual: Any) -> bool:
        return isinstance(visual, VisionTransformer)

    @staticmethod
    def matches_config(config: dict[str, Any]) -> bool:
        return "timm_model_name" not in config and not isinstance(config.get("layers"), list)

    def blocks(self) -> list[Any]:
        return list(self.visual.transformer.resblocks)

    def layers(self) -> list[Any]:
        # `ln_1` of the last block, as CLIP-ES and grad-cam's users have it: after it, patches reach a class token only
        # as keys and values, and what comes later gets no gradient at all. With attention pooling the pool's own norm
        # stands in that place: the last layer whose output is read as keys and values only.
        pool = [] if self.visual.attn_pool is None else [self.visual.attn_pool.ln_k]
        return [block.ln_1 for block in self.blocks()] + pool

    def patches(self, output: Tensor) -> Tensor:
        return output[:, 1:]

    @property
    def stride(self) -> tuple[int, int]:
        height, width = self.visual.patch_size
        return height, width

    @property
    def pools(self) -> str:
        if self.visual.attn_pool is not None:
            return "attention"
        return "token" if self.visual.pool_type == "tok" else "mean"

    def sized(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        return resized_positions(self.visual, self.visual.grid_size, self.grid(size))

    def cut(self, pixels: Tensor, pooling: str) -> Cut:
        tokens, block = input_of(self.blocks()[-1], lambda: self.visual(pixels))
        closed: Callable[[], Iterator[QueryTail]] | None = None
        if pooling != "mean" and self._reads_with_class_token():
            closed = partial(self._class_token_tails, tokens)
        elif pooling == "model" and self._pools_by_one_query():
            closed = partial(self._pool_query_tails, tokens, block)
        return Cut(tokens, lambda x: self.finish(block(x), pooling), self.layers()[-1], closed)

    def finish(self, tokens: Tensor, pooling: str) -> Tensor:
        visual = self.visual
        if pooling == "model":
            pooled: Tensor = visual._pool(tokens)[0]
            return pooled if visual.proj is None else pooled @ visual.proj
        after = visual.final_ln_after_pool
        tokens = tokens if after else visual.ln_post(tokens)
        pooled = tokens[:, 0] if pooling == "token" else tokens[:, 1:].mean(1)  # CLIP-ES's mean over the patch tokens
        pooled = visual.ln_post(pooled) if after else pooled
        return pooled if visual.proj is None else pooled @ visual.proj

    def project(self, tokens: Tensor) -> Tensor:
        if self.pools == "attention":
            raise pooled_by_attention("an embedding of every patch")
        normed: Tensor = self.visual.ln_post(tokens)
        return normed if self.visual.proj is None else normed @ self.visual.proj

    # --------------------------------------------------------------------------------------------- closed forms

    def _reads_with_class_token(self) -> bool:
        """Whether the class token alone is pooled, and reads keys and values that are linear in `ln_1`'s output."""
        block = self.blocks()[-1]
        return (
            self.visual.pool_type == "tok"
            and self.visual.attn_pool is None
            and type(block) is ResidualAttentionBlock  # a subclass may compute something else
            and not hasattr(block, "ln_1_kv")  # keys and values of their own norm
            and block.attn.in_proj_weight is not None  # keys and values of other widths
            and block.attn.bias_k is None  # a key besides the tokens'
            and not block.attn.add_zero_attn  # a token besides
        )

    @torch.no_grad()
    def _class_token_tails(self, tokens: Tensor) -> Iterator[QueryTail]:
        """What the class token reads in the last block, whose input are `tokens` [B, n, C]."""
        block = self.blocks()[-1]
        attention, normed = block.attn, block.ln_1(tokens)
        weight = attention.in_proj_weight
        bias = attention.in_proj_bias if attention.in_proj_bias is not None else weight.new_zeros(len(weight))
        width = normed.shape[-1]
        query = F.linear(normed[:, 0], weight[:width], bias[:width]).view(len(tokens), attention.num_heads, -1)
        return query_tails(
            normed, 1, query, weight[width:], bias[width:], lambda i, o: self._class_token_rest(tokens[i, 0], o)
        )

    @torch.no_grad()
    def _class_token_rest(self, residual: Tensor, attended: Tensor) -> tuple[Tensor, PullBack]:
        """From the class token's attention output o [C], before its projection, to f, and back.

        The way back is a chain of matrix products; autograd would loop over the K cotangents.
        """
        visual, block = self.visual, self.blocks()[-1]
        widen, activation, narrow = block.mlp
        x = residual + block.ls_1(block.attn.out_proj(attended.to(residual.dtype)))
        hidden = widen(block.ln_2(x))
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            (slope,) = torch.autograd.grad(activation(leaf).sum(), leaf)  # it acts on each element alone
        y = x + block.ls_2(narrow(activation(hidden)))
        z = visual.ln_post(y) if visual.proj is None else visual.ln_post(y) @ visual.proj
        embedding = self.scored(z)

        @torch.no_grad()
        def pull_back(g: Tensor) -> Tensor:
            if self.unit_norm:
                g = (g - (g @ embedding)[:, None] * embedding) / z.float().norm()
            g = g.to(residual.dtype) if visual.proj is None else g.to(residual.dtype) @ visual.proj.T
            g = _through_norm(visual.ln_post, y, g)
            inner = (_scaled(block.ls_2, g) @ narrow.weight * slope) @ widen.weight
            g = g + _through_norm(block.ln_2, x, inner)
            back: Tensor = _scaled(block.ls_1, g) @ block.attn.out_proj.weight
            return back

        return embedding, pull_back

    def _pools_by_one_query(self) -> bool:
        """Whether the embedding is one query of the attention pool (CoCa), the others serving its text decoder."""
        visual = self.visual
        return visual.attn_pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok"

    @torch.no_grad()
    def _pool_query_tails(self, tokens: Tensor, block: Callable[[Tensor], Tensor]) -> Iterator[QueryTail]:
        """What the first query of the attention pool reads of the last block's output, its input `tokens` [B, n, C]."""
        visual, pool = self.visual, self.visual.attn_pool
        attention, width = pool.attn, pool.attn.embed_dim
        own = attention.in_proj_weight
        parts = own.chunk(3) if own is not None else [getattr(attention, f"{x}_proj_weight") for x in "qkv"]
        bias = attention.in_proj_bias
        query = F.linear(pool.ln_q(pool.query[:1]), parts[0], bias[:width]).view(1, attention.num_heads, -1)

        def finish(attended: Tensor) -> Tensor:
            pooled: Tensor = visual.ln_post(attention.out_proj(attended))
            return pooled if visual.proj is None else pooled @ visual.proj

        return query_tails(
            pool.ln_k(block(tokens)),
            1,
            query,
            torch.cat(tuple(parts[1:])),
            bias[width:],
            lambda i, o: recorded_rest(visual, o, finish, self.scored),
        )


def _through_norm(norm: Any, x: Tensor, g: Tensor) -> Tensor:
    """Cotangents g [K, C] at a layer norm's output, pulled back to its input x [C]."""
    dtype, x = x.dtype, x.float()
    centred = x - x.mean()
    deviation = (centred.square().mean() + norm.eps).sqrt()
    unit = centred / deviation
    g = g.float() if norm.weight is None else g.float() * norm.weight.float()
    back: Tensor = (g - g.mean(1, keepdim=True) - unit * (g * unit).mean(1, keepdim=True)) / deviation
    return back.to(dtype)


def _scaled(scale: Any, g: Tensor) -> Tensor:
    """Through a layer scale, or the identity in its place."""
    through: Tensor = g * scale.gamma if hasattr(scale, "gamma") else g
    return through
