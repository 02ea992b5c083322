"""The closed form of f and its Jacobian where a single query reads the patches last.

That query is the class token's in the last block, the latent of an attention pool, or the patches' mean (`MeanToken`).
All of J passes through the query's attention outputs o. Grad-CAM's gradient is then the gradient at a shift shared by
all patches, and HiResCAM's the gradient at a gate on each patch. Both are products of o's cotangent with features of
the patches, so that any number of questions costs matrix products only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam_clip.towers.temporary import frozen

PullBack = Callable[[Tensor], Tensor]  # cotangents at a function's output [K, D] -> at its input
Push = Callable[[Tensor], Tensor]  # its transpose: tangents at the input -> at the output

_MANY = 64  # directions for which it pays to push all patches forwards once


class Rest(NamedTuple):
    """The rest of a tower, behind the attention output o of the query.

    Attributes:
        embedding: f, [D].
        pull_back: Cotangents at f [K, D] -> at o [K, H c].
        push: Tangents at o [K, H c] -> at f [K, D]; None where there is only a graph, which goes backwards.
    """

    embedding: Tensor
    pull_back: PullBack
    push: Push | None = None


@dataclass(frozen=True, eq=False)
class MeanToken:
    """Extra terms for CLIP's ResNets, whose query is the mean of the patches, and which read that mean as a token, too.

    There are M = N + 1 tokens; the first is the mean.

    Attributes:
        weights: [M, H], the query's attention on each token.
        values_less_output: [M, H, c], each token's value less o.
        keys: [M, H, c], over sqrt(c).
        queries: [N, H, c], W_q a_n: N times what each patch adds to the query.
        query_weight: W_q, [H, c, C].
    """

    weights: Tensor
    values_less_output: Tensor
    keys: Tensor
    queries: Tensor
    query_weight: Tensor

    def features(self, values: Tensor, scores: Tensor) -> Tensor:
        """[N, H, c]: their product with o's cotangent is A times the part of the gradient that comes by the mean.

        The mean acts as a value, as a key and as the query. `values`, `scores`: see `QueryTail`.
        """
        pairs = torch.einsum("nhc,mhc->nmh", self.queries, self.keys)
        as_query = torch.einsum("nmh,mh,mhc->nhc", pairs, self.weights, self.values_less_output)
        as_token = self.weights[0][:, None] * (values + scores[..., None] * self.values_less_output[0])
        features: Tensor = (as_token + as_query) / len(values)
        return features

    def gradient(self, cotangent: Tensor, through_values: Tensor, query_keys: Tensor) -> Tensor:
        """That part of the gradient, the same at each patch, [C], for o's cotangent [H, c]."""
        slopes = torch.einsum("hc,mhc->mh", cotangent, self.values_less_output) * self.weights
        as_query = torch.einsum("mh,mhc,hck->k", slopes, self.keys, self.query_weight)
        gradient: Tensor = (self.weights[0] @ through_values + slopes[0] @ query_keys + as_query) / len(self.queries)
        return gradient


@dataclass(frozen=True, eq=False)
class TurnedKeys:
    """What takes the place of the one query where rotary positions turn each patch's key by a rotation R_n of its own.

    A score is then q . R_n W_k a_n, as if each patch were read by a query of its own, R_n^T q.

    Attributes:
        queries: R_n^T q / sqrt(c), [N, H, c].
        keys: W_k a_n, not turned, [N, H, c].
        key_weight: W_k, [H, c, C].
    """

    queries: Tensor
    keys: Tensor
    key_weight: Tensor

    def pulled(self, values: Tensor) -> Tensor:
        """Each patch's key at every patch's place, by weighted values [N, H, c]: [N, H, c]."""
        scores = torch.einsum("mhc,nhc->nmh", self.queries, self.keys)
        return torch.einsum("nmh,mhc->nhc", scores, values)

    def gradient(self, slopes: Tensor) -> Tensor:
        """Slopes at the scores [N, H] -> at the activations [N, C]."""
        return torch.einsum("nh,nhc,hck->nk", slopes, self.queries, self.key_weight)


@dataclass(frozen=True, eq=False)
class QueryTail:
    """A `Tail` in closed form: the row of attention of the query that reads the patches last.

    It has H heads of width c, and is float32 but for the modules behind `pull_back_rest`.

    Attributes:
        activations: A, [N, C].
        embedding: f, [D].
        weights: [N, H], the query's attention on each patch.
        values: [N, H, c], W_v a_n, without their bias.
        bias: The bias of the values: [H, c], or [N, H, c] if each patch has its own.
        scores: [N, H], q . W_k a_n / sqrt(c): the part of each score that is linear in a_n.
        attended: o, [H, c], the attention output before its projection.
        query_keys: [H, C], q W_k / sqrt(c): the gradient of a score at a_n.
        value_weight: W_v, [H, c, C].
        pull_back_rest: The rest of the tower backwards: cotangents at f [K, D] -> at o [K, H c].
        mean: The terms that are there only if the query depends on A.
        turned: What stands in place of `query_keys` only if rotary positions turn the keys.
        push_rest: The rest of the tower forwards (`Rest.push`).
    """

    activations: Tensor
    embedding: Tensor
    weights: Tensor
    values: Tensor
    bias: Tensor
    scores: Tensor
    attended: Tensor
    query_keys: Tensor
    value_weight: Tensor
    pull_back_rest: PullBack
    mean: MeanToken | None = None
    turned: TurnedKeys | None = None
    push_rest: Push | None = None

    def pull_back(self, directions: Tensor) -> Tensor:
        """Cotangents at o, [K, H c], for directions [K, D]: matrix products back through the last MLP."""
        return _through(self.pull_back_rest, directions)

    def shift_maps(self, directions: Tensor) -> Tensor:
        """Grad-CAM's maps of directions, [K, N]."""
        if self.push_rest is None or len(directions) < _MANY:
            return self.pull_back(directions) @ self.shift_features().T
        return directions @ self._pushed_shift.T

    def gate_maps(self, directions: Tensor) -> Tensor:
        """HiResCAM's maps of directions, [K, N]."""
        if self.push_rest is None or len(directions) < _MANY:
            return self.pull_back(directions) @ self.gate_features().T
        return directions @ self._pushed_gate.T

    def shift_features(self) -> Tensor:
        """[N, H c]: their product with o's cotangent is Grad-CAM's map, A times the mean gradient over patches.

        A shift of all patches adds one number to every patch's score, and the patches' total attention to the values.
        Where keys are turned it adds to each score what that patch's rotation makes of it.
        """
        mass = self.weights.sum(0)[:, None]
        if self.turned is None:
            pulled = torch.einsum("nh,nhc->hc", self.weights, self._values_less_output)
            by_scores = self.scores[..., None] * pulled
        else:
            by_scores = self.turned.pulled(self.weights[..., None] * self._values_less_output)
        features = (mass * self.values + by_scores) / len(self.weights)
        return self._with_mean(features).flatten(1)

    def gate_features(self) -> Tensor:
        """[N, H c]: their product with o's cotangent is HiResCAM's map, A times its own gradient at each patch."""
        moved = self.values + self.scores[..., None] * self._values_less_output
        return self._with_mean(self.weights[..., None] * moved).flatten(1)

    def gradients(self, directions: Tensor) -> Iterator[Tensor]:
        """dL/da_n = sum over heads of p_n (W_v^T c + (c . (v_n - o)) W_k^T q / sqrt(c)), c the cotangent at o."""
        for row in self.pull_back(directions):
            cotangent = row.view_as(self.attended)
            through_values = torch.einsum("hc,hck->hk", cotangent, self.value_weight)
            slopes = self.weights * torch.einsum("hc,nhc->nh", cotangent, self._values_less_output)
            by_scores = slopes @ self.query_keys if self.turned is None else self.turned.gradient(slopes)
            gradient = self.weights @ through_values + by_scores
            if self.mean is not None:
                gradient = gradient + self.mean.gradient(cotangent, through_values, self.query_keys)
            yield gradient

    @cached_property
    def _pushed_shift(self) -> Tensor:
        return self._pushed(self.shift_features())

    @cached_property
    def _pushed_gate(self) -> Tensor:
        return self._pushed(self.gate_features())

    def _pushed(self, features: Tensor) -> Tensor:
        """Features of the patches [N, H c] in embedding space, [N, D]: then any direction's map is one product."""
        if self.push_rest is None:
            raise TypeError("only a rest with a way forwards can be pushed through")
        return _through(self.push_rest, features)

    @property
    def _values_less_output(self) -> Tensor:
        return self.values + self.bias - self.attended

    def _with_mean(self, features: Tensor) -> Tensor:
        return features if self.mean is None else features + self.mean.features(self.values, self.scores)


@dataclass(frozen=True, eq=False)
class MeanTail:
    """A `Tail` in closed form where the patches are averaged: the class activation map (Zhou et al., CVPR 2016, eq. 2).

    Every patch has the same gradient, so that Grad-CAM and HiResCAM are one map. It is exact: where the way from the
    mean to the score is linear, the map sums up to the score.

    Attributes:
        activations: A, what is averaged, [N, C].
        embedding: f, [D].
        pull_back_rest: From cotangents at f [K, D] to cotangents at the mean [K, C].
    """

    activations: Tensor
    embedding: Tensor
    pull_back_rest: PullBack

    def pull_back(self, directions: Tensor) -> Tensor:
        """Cotangents at the mean, [K, C], for directions [K, D]."""
        return _through(self.pull_back_rest, directions)

    def gate_maps(self, directions: Tensor) -> Tensor:
        """The maps of directions, [K, N]: the product of the mean's cotangent and each patch's share of the mean."""
        return self.pull_back(directions) @ (self.activations / len(self.activations)).T

    shift_maps = gate_maps

    def gradients(self, directions: Tensor) -> Iterator[Tensor]:
        """dL/da_n = g / N, g the cotangent at the mean."""
        for row in self.pull_back(directions):
            yield (row / len(self.activations)).expand_as(self.activations)


def _through(linear: PullBack | Push, rows: Tensor) -> Tensor:
    """By unit rows: half precision neither overflows nor underflows."""
    norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    through: Tensor = linear(rows / norms).float() * norms
    return through


def plain(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a module computes with its own weights alone: torch's own class, and no adapter (LoRA) around it."""
    return isinstance(module, kind) and type(module).__module__.startswith("torch.nn.")


@torch.no_grad()
def query_of(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first of some query tokens [n, C] in a torch.nn.MultiheadAttention, as `query_tails` takes it.

    Returns:
        The query [1, H, c], and the weight and bias of keys and values.
    """
    own, width = attention.in_proj_weight, attention.embed_dim
    parts = own.chunk(3) if own is not None else [getattr(attention, f"{x}_proj_weight") for x in "qkv"]
    weight = torch.cat(tuple(parts[1:]))
    bias = attention.in_proj_bias if attention.in_proj_bias is not None else weight.new_zeros(3 * width)
    query = F.linear(tokens[:1], parts[0], bias[:width]).view(1, attention.num_heads, -1)
    return query, weight, bias[width:]


@torch.no_grad()
def query_tails(
    tokens: Tensor,
    prefix: int,
    query: Tensor,
    weight: Tensor,
    bias: Tensor,
    rest: Callable[[int, Tensor], Rest],
    turn: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[QueryTail]:
    """One tail per image where a query reads tokens.

    Args:
        tokens: [B, n, C], what is read: A is all but the prefix.
        prefix: How many of the first tokens are no patches.
        query: [B or 1, H, c].
        weight: [2 H c, C], of keys and values.
        bias: [2 H c], of keys and values.
        rest: The number of the image, and its attention output o [H c] before the projection -> the rest.
        turn: What rotary positions make of keys [B, n, H, c], linear in each.
    """
    heads, width = query.shape[1:]
    key_weight, value_weight = weight.chunk(2)

    def split(x: Tensor) -> Tensor:
        return x.float().view(*x.shape[:-1], heads, width)

    queries = (query.float() * width**-0.5).expand(len(tokens), -1, -1)
    # Without their biases: W_k a, W_v a. The key bias adds the same number to every score of a head, which softmax does
    # not see.
    keys = split(F.linear(tokens, key_weight))
    turned_queries = None
    if turn is None:
        scores = torch.einsum("bhc,bnhc->bnh", queries, keys)
        weights = scores.softmax(1)
    else:  # what is turned back is the query, so that scores are linear in W_k a; a bias of the keys counts then
        turned_queries = torch.func.vjp(turn, keys)[1](queries[:, None].expand_as(keys))[0]
        scores = (turned_queries * keys).sum(-1)
        weights = (scores + (turned_queries * split(bias[: len(key_weight)])).sum(-1)).softmax(1)
    value_bias = split(bias[len(key_weight) :])
    values = split(F.linear(tokens, value_weight))
    attended = torch.einsum("bnh,bnhc->bhc", weights, values) + value_bias
    key_heads, value_heads = (w.float().view(heads, width, -1) for w in (key_weight, value_weight))
    query_keys = torch.einsum("bhc,hck->bhk", queries, key_heads)
    for i in range(len(tokens)):
        behind = rest(i, attended[i].flatten())
        yield QueryTail(
            activations=tokens[i, prefix:].float(),
            embedding=behind.embedding,
            weights=weights[i, prefix:],
            values=values[i, prefix:],
            bias=value_bias,
            scores=scores[i, prefix:],
            attended=attended[i],
            query_keys=query_keys[i],
            value_weight=value_heads,
            pull_back_rest=behind.pull_back,
            push_rest=behind.push,
            turned=None
            if turned_queries is None
            else TurnedKeys(turned_queries[i, prefix:], keys[i, prefix:], key_heads),
        )


def recorded_rest(
    visual: nn.Module, attended: Tensor, finish: Callable[[Tensor], Tensor], scored: Callable[[Tensor], Tensor]
) -> Rest:
    """The `rest` of `query_tails` from a graph.

    Args:
        visual: The tower, whose parameters are frozen meanwhile.
        attended: o, [H c].
        finish: o [1, H c] -> the embedding before normalising [1, D].
        scored: Embeddings before normalising -> as scores are taken from them.
    """
    with frozen(visual), torch.enable_grad():
        leaf = attended.to(next(visual.parameters()).dtype)[None].requires_grad_()
        embedding = scored(finish(leaf))[0]

    def pull_back(cotangents: Tensor) -> Tensor:
        (back,) = torch.autograd.grad(embedding, leaf, cotangents, retain_graph=True, is_grads_batched=True)
        return back[:, 0]

    return Rest(embedding.detach(), pull_back)
