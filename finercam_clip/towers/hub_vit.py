"""The image towers of Hugging Face's CLIP, SigLIP, SigLIP 2 and their like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finercam_clip.towers.attention import Attention
from finercam_clip.towers.closed import QueryTail, plain, query_of, query_tails, recorded_rest
from finercam_clip.towers.tails import Cut, Tail, input_of
from finercam_clip.towers.temporary import attributes
from finercam_clip.towers.tower import Family, Transformer


class HubVisual(nn.Module):
    """A vision model of Hugging Face and its projection as one module: pixels [B, 3, H, W] -> embeddings [B, D].

    Attributes:
        vision_model: With embeddings, encoder, `post_layernorm` and perhaps an attention pool `head`.
        projection: From what it pools to the embedding.
        resampled: Whether positions are interpolated for another input size.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model, self.projection = vision_model, projection
        self.resampled = False
        self.train(vision_model.training)

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Any = self.vision_model.embeddings
        if isinstance(embeddings.patch_embedding, nn.Linear):
            output = self.vision_model(*_patchified(pixels, embeddings.patch_size))
        else:
            output = self.vision_model(pixels, interpolate_pos_encoding=self.resampled)
        embedding: Tensor = self.projection(output.pooler_output)
        return embedding


def _patchified(pixels: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """What SigLIP 2 of any size takes, in its order: patches [B, N, 3 side^2], a mask [B, N] and grids [B, 2]."""
    batch, _, height, width = pixels.shape
    rows, columns = height // side, width // side
    cells = pixels.unfold(2, side, side).unfold(3, side, side)  # [B, 3, rows, columns, side, side]
    patches = cells.permute(0, 2, 3, 4, 5, 1).reshape(batch, rows * columns, -1)
    mask = torch.ones(batch, rows * columns, dtype=torch.long, device=pixels.device)
    return patches, mask, torch.tensor([(rows, columns)] * batch, device=pixels.device)


@dataclass(frozen=True)
class HubAttention:
    """Hugging Face's attention, whatever implementation it runs (eager, scaled dot product, flash)."""

    module: Any

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        tokens: Tensor = args[0] if args else kwargs["hidden_states"]
        return tokens

    @contextmanager
    def weights_into(self, weights: list[Tensor]) -> Iterator[None]:
        # Which implementation runs, and whether it returns weights, differs by version: they are made of its queries
        # and keys. That these are all its output comes from is checked (`attentions_of`).
        def listen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            query, key, _ = self.projected(self.read(args, kwargs)[0])
            scores = (query * query.shape[-1] ** -0.5) @ key.mT
            weights.append(scores.detach().float().softmax(-1))

        handle = self.module.register_forward_hook(listen, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def projected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = self.module
        query, key, value = (
            layer(tokens).view(len(tokens), module.num_heads, -1).transpose(0, 1)
            for layer in (module.q_proj, module.k_proj, module.v_proj)
        )
        return query, key, value

    def merged(self, heads: Tensor) -> Tensor:
        output: Tensor = self.module.out_proj(heads)
        return output


class HubViT(Transformer):
    """A `HubVisual`. See `Tower`."""

    family = Family(
        name="hub-vit",
        towers="of Hugging Face transformers CLIP, MetaCLIP 2, SigLIP, SigLIP 2",
        layer="`layer_norm1` of the last block; with attention pooling `post_layernorm`",
        pooling="class token, attention",
    )

    @staticmethod
    def matches(visual: Any) -> bool:
        return isinstance(visual, HubVisual)

    @property
    def model(self) -> Any:
        """The vision model."""
        return self.visual.vision_model

    def blocks(self) -> list[Any]:
        return list(self.model.encoder.layers)

    def layers(self) -> list[Any]:
        norms = [block.layer_norm1 for block in self.blocks()]
        return [*norms, self.model.post_layernorm] if self.pools == "attention" else norms

    def patches(self, output: Tensor) -> Tensor:
        return output[:, self.prefix :]

    @property
    def prefix(self) -> int:
        """How many tokens come before the patches."""
        return int(hasattr(self.model.embeddings, "class_embedding"))

    @property
    def stride(self) -> tuple[int, int]:
        side = self.model.embeddings.patch_size
        return side, side

    @property
    def pools(self) -> str:
        return "attention" if hasattr(self.model, "head") else "token"

    def sized(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        return attributes(self.visual, resampled=True)

    def attention(self, block: Any) -> Attention:
        return HubAttention(block.self_attn)

    def tokens_of(self, output: Any) -> Tensor:
        tokens: Tensor = output[0] if isinstance(output, tuple) else output  # transformers 4 gives a tuple
        return tokens

    def cut(self, pixels: Tensor, pooling: str) -> Cut:
        closed: Callable[[], Iterator[Tail]] | None = None
        if self.pools == "attention":
            tokens, _ = input_of(self.model.head, lambda: self.visual(pixels))
            if plain(self.model.head.attention, nn.MultiheadAttention):
                closed = partial(self._pool_tails, tokens)
            return Cut(tokens, lambda x: self.visual.projection(self.model.head(x)), closed=closed)
        block = self.blocks()[-1]
        tokens, run = input_of(block, lambda: self.visual(pixels))
        projections = (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)
        if pooling != "mean" and all(plain(layer, nn.Linear) for layer in projections):
            closed = partial(self._class_token_tails, tokens, run, pooling)
        return Cut(tokens, lambda x: self.finish(self.tokens_of(run(x)), pooling), block.layer_norm1, closed)

    def finish(self, tokens: Tensor, pooling: str) -> Tensor:
        normed = self.model.post_layernorm(tokens)
        if self.pools == "attention":
            self.check_pooling(pooling)
            pooled = self.model.head(normed)
        else:
            pooled = self.patches(normed).mean(1) if pooling == "mean" else normed[:, 0]
        embedding: Tensor = self.visual.projection(pooled)
        return embedding

    def averaged(self, tokens: Tensor, pooling: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self.patches(self.model.post_layernorm(tokens)), self.visual.projection

    def project(self, tokens: Tensor) -> Tensor:
        if self.pools == "attention":
            return self.finish(tokens[:, None], "model")
        projected: Tensor = self.visual.projection(self.model.post_layernorm(tokens))
        return projected

    # --------------------------------------------------------------------------------------------- closed forms

    @torch.no_grad()
    def _class_token_tails(self, tokens: Tensor, run: Callable[[Tensor], Any], pooling: str) -> Iterator[QueryTail]:
        """What the class token reads in the last block, whose input are `tokens` [B, n, C]."""
        block = self.blocks()[-1]
        attention, normed = block.self_attn, block.layer_norm1(tokens)
        weight = torch.cat([attention.k_proj.weight, attention.v_proj.weight])
        biases = [layer.bias for layer in (attention.k_proj, attention.v_proj)]
        bias = weight.new_zeros(len(weight)) if biases[0] is None else torch.cat(biases)
        query = attention.q_proj(normed[:, 0]).view(len(tokens), attention.num_heads, -1)

        def finish(i: int, attended: Tensor) -> Tensor:
            # The block itself on the class token, given what that reads of all tokens.
            handle = attention.register_forward_hook(lambda *_: (attention.out_proj(attended)[None], None))
            try:
                return self.finish(self.tokens_of(run(tokens[i : i + 1, :1])), pooling)
            finally:
                handle.remove()

        return query_tails(
            normed,
            self.prefix,
            query,
            weight,
            bias,
            lambda i, o: recorded_rest(self.visual, o, lambda leaf: finish(i, leaf), self.scored),
        )

    @torch.no_grad()
    def _pool_tails(self, tokens: Tensor) -> Iterator[QueryTail]:
        """What the probe of the attention pool reads of its input, `tokens` [B, n, C]."""
        pool = self.model.head
        query, weight, bias = query_of(pool.attention, pool.probe[0])

        def finish(attended: Tensor) -> Tensor:
            x = pool.attention.out_proj(attended)
            embedding: Tensor = self.visual.projection(x + pool.mlp(pool.layernorm(x)))
            return embedding

        return query_tails(
            tokens, self.prefix, query, weight, bias, lambda i, o: recorded_rest(self.visual, o, finish, self.scored)
        )
