"""CLIP's ResNets, which pool by attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from finercam_clip.towers.closed import MeanToken, QueryTail, recorded_rest
from finercam_clip.towers.receptive import convolutional_shift
from finercam_clip.towers.tails import Cut, input_of
from finercam_clip.towers.temporary import resized_positions
from finercam_clip.towers.tower import Family, Tower


class ClipResNet(Tower):
    """open_clip's ModifiedResNet. See `Tower`."""

    family = Family(
        name="resnet",
        towers="CLIP's ModifiedResNet, RN50 to RN50x64",
        layer="`layer4`",
        pooling="attention",
    )

    @staticmethod
    def matches(visual: Any) -> bool:
        return isinstance(visual, ModifiedResNet)

    @staticmethod
    def matches_config(config: dict[str, Any]) -> bool:
        return isinstance(config.get("layers"), list)

    def layers(self) -> list[Any]:
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]

    def patches(self, output: Tensor) -> Tensor:
        return output.flatten(2).mT

    def cells(self, output: Tensor) -> tuple[int, int] | None:
        return output.shape[2], output.shape[3]

    @property
    def stride(self) -> tuple[int, int]:
        return 32, 32

    @cached_property
    def shift(self) -> tuple[float, float]:
        return convolutional_shift(self.visual, self.size)

    def sized(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        return resized_positions(self.visual.attnpool, self.grid(self.size), self.grid(size))

    def cut(self, pixels: Tensor, pooling: str) -> Cut:
        features, pool = input_of(self.visual.attnpool, lambda: self.visual(pixels))
        return Cut(features, pool, closed=partial(self._mean_query_tails, self.patches(features)))

    @torch.no_grad()
    def _mean_query_tails(self, cells: Tensor) -> Iterator[QueryTail]:
        """What the attention pool's first token, the mean of the cells [B, N, C], reads of them."""
        pool = self.visual.attnpool

        def split(x: Tensor) -> Tensor:
            return x.float().view(*x.shape[:-1], pool.num_heads, -1)

        def weight(projection: nn.Linear) -> Tensor:
            return projection.weight.float().view(pool.num_heads, -1, cells.shape[-1])

        positions = pool.positional_embedding.to(cells.dtype)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1) + positions
        # Values are linear in the cells but for what is the same in every image: bias, and value of the position.
        values, bias = split(F.linear(cells, pool.v_proj.weight)), split(pool.v_proj(positions))
        all_values = torch.cat([values.mean(1, keepdim=True), values], 1) + bias
        keys = split(pool.k_proj(tokens)) * values.shape[-1] ** -0.5
        query, queries = split(pool.q_proj(tokens[:, 0])), split(F.linear(cells, pool.q_proj.weight))
        weights = torch.einsum("bhc,bmhc->bmh", query, keys).softmax(1)
        attended = torch.einsum("bmh,bmhc->bhc", weights, all_values)
        query_keys = torch.einsum("bhc,hck->bhk", query * values.shape[-1] ** -0.5, weight(pool.k_proj))
        for i, activations in enumerate(cells.float()):
            embedding, pull_back, _ = recorded_rest(self.visual, attended[i].flatten(), pool.c_proj, self.scored)
            yield QueryTail(
                activations=activations,
                embedding=embedding,
                weights=weights[i, 1:],
                values=values[i],
                bias=bias[1:],
                scores=activations @ query_keys[i].T,
                attended=attended[i],
                query_keys=query_keys[i],
                value_weight=weight(pool.v_proj),
                pull_back_rest=pull_back,
                mean=MeanToken(weights[i], all_values[i] - attended[i], keys[i], queries[i], weight(pool.q_proj)),
            )
