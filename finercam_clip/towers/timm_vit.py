"""timm's transformers: SigLIP, EVA, PE, ViTamin, MobileCLIP's ViT, DINOv2, ..."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.format import Format
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from finercam_clip.errors import InputError
from finercam_clip.towers.attention import TimmAttention
from finercam_clip.towers.closed import QueryTail, plain, query_tails, recorded_rest
from finercam_clip.towers.receptive import convolutional_shift
from finercam_clip.towers.tails import Cut, arguments_of, input_of
from finercam_clip.towers.temporary import attributes
from finercam_clip.towers.tower import Family, Transformer

_MODULES = ("vision_transformer", "eva", "vitamin", "vision_transformer_relpos", "vision_transformer_hybrid")


def is_token_trunk(trunk: Any) -> bool:
    """Whether a model of timm is a transformer with patch tokens, and not one of feature maps."""
    return all(hasattr(trunk, name) for name in ("blocks", "num_prefix_tokens", "patch_embed", "forward_head"))


def in_timm(config: dict[str, Any], *modules: str) -> bool:
    """Whether a "vision_cfg" names an architecture that lies in one of these modules of timm."""
    name = config.get("timm_model_name")
    return name is not None and bool(timm.models.is_model_in_modules(name, modules))


class TimmViT(Transformer):
    """A `trunk` of timm, and open_clip's `head` behind it. See `Tower`."""

    family = Family(
        name="timm-vit",
        towers="SigLIP and SigLIP 2, EVA, PE-Core, ViTamin, MobileCLIP-B and -L; of timm DINOv2 and other ViTs",
        layer="`norm1` of the last block, or its input if it normalises late; with attention pooling the last norm",
        pooling="class token, mean, attention",
    )

    @staticmethod
    def matches(visual: Any) -> bool:
        return is_token_trunk(getattr(visual, "trunk", None))

    @staticmethod
    def matches_config(config: dict[str, Any]) -> bool:
        return in_timm(config, *_MODULES)

    @property
    def trunk(self) -> Any:
        """timm's model."""
        return self.visual.trunk

    def blocks(self) -> list[Any]:
        return list(self.trunk.blocks)

    def layers(self) -> list[Any]:
        # As in the native ViT. A block that normalises after its attention reads its input as it is: the block before.
        late = isinstance(self.trunk.blocks[-1], EvaBlockPostNorm)
        layers = list(self.trunk.blocks[:-1]) if late else [block.norm1 for block in self.trunk.blocks]
        return [*layers, self.trunk.norm] if self.pools == "attention" else layers

    def patches(self, output: Tensor) -> Tensor:
        return output[:, self.trunk.num_prefix_tokens :]

    @property
    def stride(self) -> tuple[int, int]:
        height, width = self.trunk.patch_embed.feat_ratio(as_scalar=False)
        return height, width

    @property
    def shift(self) -> tuple[float, float]:
        embed = self.trunk.patch_embed
        return convolutional_shift(embed, tuple(embed.img_size)) if isinstance(embed, HybridEmbed) else (0.0, 0.0)

    @property
    def pools(self) -> str:
        if getattr(self.trunk, "attn_pool", None) is not None:
            return "attention"
        return "token" if self.trunk.global_pool == "token" else "mean"

    def check_pooling(self, pooling: str) -> None:
        super().check_pooling(pooling)
        if pooling == "token" and not self.trunk.num_prefix_tokens:
            raise InputError(f"{type(self.trunk).__name__} has no class token to pool; use pooling 'model' or 'mean'")

    @contextmanager
    def sized(self, size: tuple[int, int]) -> Iterator[None]:
        """timm's own switches for dynamic sizes: positions resampled in the forward pass, rotary ones made anew."""
        trunk = self.trunk
        if tuple(trunk.patch_embed.img_size) == tuple(size):
            yield
            return
        if not hasattr(trunk, "dynamic_img_size"):
            raise self.takes_one_size()
        rope = getattr(trunk, "rope", None)
        with (
            attributes(trunk, dynamic_img_size=True),
            attributes(trunk.patch_embed, strict_img_size=False, flatten=False, output_fmt=Format.NHWC),
            nullcontext() if rope is None else attributes(rope, pos_embed=rope.pos_embed, feat_shape=rope.feat_shape),
        ):
            if rope is not None:
                rope.update_feat_shape(list(self.grid(size)))
            yield

    def cut(self, pixels: Tensor, pooling: str) -> Cut:
        trunk = self.trunk
        if self.pools == "attention":
            with torch.no_grad():
                features = trunk.forward_features(pixels)
            by_latent = partial(self._latent_tails, features) if self._reads_with_one_latent() else None
            return Cut(features, lambda x: self.visual.head(trunk.forward_head(x)), closed=by_latent)
        layer = self.layers()[-1]
        tokens, block = input_of(trunk.blocks[-1], lambda: trunk.forward_features(pixels))
        if pooling == "mean" or (pooling == "model" and self.pools != "token"):
            rest: Callable[[Tensor], Tensor] = lambda x: self.finish(block(x), pooling)  # noqa: E731
            closed = None
        else:
            rest = lambda x: self._finish_class_token(block, x, pooling)  # noqa: E731
            closed = (
                partial(self._class_token_tails, tokens, block, pooling) if self._reads_with_class_token() else None
            )
        return Cut(tokens, rest, None if layer in list(trunk.blocks) else layer, closed)

    def finish(self, tokens: Tensor, pooling: str) -> Tensor:
        trunk = self.trunk
        normed = trunk.norm(tokens)
        if pooling == "model":
            pooled = trunk.forward_head(normed)
        else:
            self.check_pooling(pooling)
            one = normed[:, 0] if pooling == "token" else self.patches(normed).mean(1)
            return self._projected(one)
        output: Tensor = self.visual.head(pooled)
        return output

    def averaged(self, tokens: Tensor, pooling: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        trunk = self.trunk
        if pooling == "model" and (trunk.global_pool != "avg" or getattr(trunk, "pool_include_prefix", False)):
            raise InputError(f"{type(trunk).__name__} does not average its patches alone: choose another layer")
        return self.patches(trunk.norm(tokens)), self._projected

    def _projected(self, pooled: Tensor) -> Tensor:
        output: Tensor = self.visual.head(self.trunk.head(self.trunk.fc_norm(pooled)))
        return output

    def project(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        if self.pools == "attention":
            if getattr(trunk.attn_pool, "pos_embed", None) is not None:
                raise InputError(
                    f"the attention pool of {type(trunk).__name__} adds positions: it reads no single token"
                )
            with attributes(trunk, **({"pool_include_prefix": True} if hasattr(trunk, "pool_include_prefix") else {})):
                return self.finish(tokens[:, None], "model")
        return self._projected(trunk.norm(tokens))

    def _finish_class_token(self, block: Callable[[Tensor], Tensor], tokens: Tensor, pooling: str) -> Tensor:
        """`finish` of the last block's output, where its class token alone is read.

        The block's MLP is run on the class token only, which saves two thirds of the block's cost. What it says is
        added to every token: that is wrong for the others, which nothing reads any more.
        """
        mlp = getattr(self.trunk.blocks[-1], "mlp", None)
        if not isinstance(mlp, (Mlp, GluMlp, SwiGLU)):  # those that take each token by itself
            return self.finish(block(tokens), pooling)
        handle = mlp.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :1], *inputs[1:]))
        try:
            return self.finish(block(tokens), pooling)
        finally:
            handle.remove()

    # --------------------------------------------------------------------------------------------- closed forms

    def _reads_with_class_token(self) -> bool:
        """Whether the last block's attention is to keys and values that are linear in its normed input."""
        block = self.trunk.blocks[-1]
        return (
            (type(block), type(getattr(block, "attn", None))) in ((Block, Attention), (EvaBlock, EvaAttention))
            and getattr(block.attn, "gate", None) is None  # a gate on the output
            and isinstance(block.attn.k_norm, nn.Identity)  # a norm on the keys
            and all(plain(layer, nn.Linear) for layer in _projections(block.attn))  # no adapters (LoRA) beside them
        )

    @torch.no_grad()
    def _class_token_tails(self, tokens: Tensor, run: Callable[[Tensor], Tensor], pooling: str) -> Iterator[QueryTail]:
        """What the class token reads in the last block, whose input are `tokens` [B, n, C]; `run` is that block."""
        trunk, block = self.trunk, self.trunk.blocks[-1]
        attention = TimmAttention(block.attn)
        (normed, *_), named = arguments_of(block.attn, lambda: run(tokens))
        rope = named.get("rope")
        layers = _projections(block.attn)
        weight, bias = torch.cat([layer.weight for layer in layers]), attention.qkv_bias()
        width = len(weight) // 3
        query = F.linear(normed[:, 0], weight[:width], bias[:width]).view(len(tokens), block.attn.num_heads, -1)

        def finish(i: int, attended: Tensor) -> Tensor:
            # The block itself on the class token, given what that reads of all tokens.
            handle = block.attn.register_forward_hook(lambda *_: attention.merged(attended)[None])
            try:
                return self.finish(block(tokens[i : i + 1, :1]), pooling)
            finally:
                handle.remove()

        return query_tails(
            normed,
            trunk.num_prefix_tokens,
            block.attn.q_norm(query),
            weight[width:],
            bias[width:],
            lambda i, o: recorded_rest(self.visual, o, lambda leaf: finish(i, leaf), self.scored),
            None if rope is None else partial(_turned, block.attn, rope),
        )

    def _reads_with_one_latent(self) -> bool:
        """Whether the pool is attention of one query, the same for every image, to keys and values linear in tokens."""
        pool = self.trunk.attn_pool
        return (
            type(pool) is AttentionPoolLatent
            and (pool.latent_len == 1 or pool.pool == "token")  # of several latents the first alone is read
            and pool.pos_embed is None  # positions are added to the tokens
            and isinstance(pool.k_norm, nn.Identity)  # a norm on the keys
            and plain(pool.kv, nn.Linear)
        )

    @torch.no_grad()
    def _latent_tails(self, features: Tensor) -> Iterator[QueryTail]:
        """What the latent query of the attention pool reads of its input, `features` [B, n, C]."""
        trunk, prefix = self.trunk, self.trunk.num_prefix_tokens
        pool = trunk.attn_pool
        if not getattr(trunk, "pool_include_prefix", True):
            features, prefix = features[:, prefix:], 0
        query = pool.q_norm(pool.q(pool.latent[:, :1]).view(1, pool.num_heads, -1))
        weight = pool.kv.weight
        bias = pool.kv.bias if pool.kv.bias is not None else weight.new_zeros(len(weight))

        def finish(attended: Tensor) -> Tensor:
            x = pool.proj(attended)
            x = x if pool.mlp is None else x + pool.mlp(pool.norm(x))
            output: Tensor = self.visual.head(trunk.head(trunk.fc_norm(x)))
            return output

        return query_tails(
            features, prefix, query, weight, bias, lambda i, o: recorded_rest(self.visual, o, finish, self.scored)
        )


def _projections(attention: Any) -> list[Any]:
    """The layers of queries, keys and values, in this order: one for all, or three."""
    return [attention.qkv] if attention.qkv is not None else [attention.q_proj, attention.k_proj, attention.v_proj]


def _turned(attention: Any, rope: Tensor, keys: Tensor) -> Tensor:
    """Keys [B, n, H, c] by their places' rotations: as `attention` itself turns them."""
    prefix, half = attention.num_prefix_tokens, getattr(attention, "rotate_half", False)
    by_head = keys.transpose(1, 2)
    patches = apply_rot_embed_cat(by_head[:, :, prefix:], rope.to(keys.dtype), **({"half": True} if half else {}))
    return torch.cat([by_head[:, :, :prefix], patches], 2).transpose(1, 2)
