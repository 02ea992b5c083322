"""open_clip's own ViT. Its closed forms lie beside it, in `native_closed`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from open_clip.transformer import VisionTransformer
from torch import Tensor

from finercam_clip.towers.native_closed import closed_form, first_query_alone
from finercam_clip.towers.tails import Cut, input_of
from finercam_clip.towers.temporary import resized_positions
from finercam_clip.towers.tower import Family, Transformer


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
        closed = closed_form(self, block, tokens, pooling)
        return Cut(tokens, lambda x: self.finish(block(x), pooling), self.layers()[-1], closed)

    def finish(self, tokens: Tensor, pooling: str) -> Tensor:
        visual = self.visual
        if pooling == "model":
            pooled: Tensor = visual._pool(tokens)[0]
            return pooled if visual.proj is None else pooled @ visual.proj
        if pooling == "token":
            return self.project(tokens[:, 0])
        patches, rest = self.averaged(tokens, pooling)  # CLIP-ES's mean over the patch tokens
        return rest(patches.mean(1))

    def averaged(self, tokens: Tensor, pooling: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        visual = self.visual
        if visual.final_ln_after_pool:
            return tokens[:, 1:], self.project
        return visual.ln_post(tokens)[:, 1:], lambda mean: mean if visual.proj is None else mean @ visual.proj

    def project(self, tokens: Tensor) -> Tensor:
        if self.pools == "attention":
            with first_query_alone(self.visual):
                return self.finish(tokens[:, None], "model")
        normed: Tensor = self.visual.ln_post(tokens)
        return normed if self.visual.proj is None else normed @ self.visual.proj
