"""From the activations at the target layer to the image embedding, and back: f and its Jacobian J = df/dA.

Two kinds of tail give the same numbers (a test says so):

* `AutogradTail`: the graph from A to f as torch recorded it. Works for any tower and any pooling.
* `QueryTail`: towers where one query reads the patches last: the class token's in the last block, the latent of an
  attention pool, or the patches' mean (`MeanToken`). All of J passes through its attention outputs o. Grad-CAM's
  gradient is then the gradient at a shift shared by all patches, HiResCAM's at a gate on each patch, and both are
  products of o's cotangent with features in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Tail(Protocol):
    """activations: A, float32 [N, C], the patch tokens at the target layer; embedding: f, float32 [D], unit norm."""

    @property
    def activations(self) -> Tensor: ...

    @property
    def embedding(self) -> Tensor: ...

    def gradients(self, directions: Tensor) -> Iterator[Tensor]:
        """J^T d, [N, C], for each direction d of `directions` [K, D]."""
        ...


@dataclass(frozen=True, eq=False)
class AutogradTail:
    """The recorded graph. `leaf`: [1, ...], where it starts; `output`: f [D] with its graph; `patches`: leaf -> A as a
    view [1, N, C], without other tokens."""

    leaf: Tensor
    output: Tensor
    patches: Callable[[Tensor], Tensor]

    @property
    def activations(self) -> Tensor:
        return self.patches(self.leaf.detach())[0].float()

    @property
    def embedding(self) -> Tensor:
        return self.output.detach()

    def gradients(self, directions: Tensor) -> Iterator[Tensor]:
        for d in directions:
            norm = d.norm().clamp_min(1e-12)  # unit cotangents: half precision neither overflows nor underflows
            (gradient,) = torch.autograd.grad(self.output, self.leaf, d / norm, retain_graph=True)
            yield self.patches(gradient)[0].float() * norm


@dataclass(frozen=True, eq=False)
class MeanToken:
    """What else depends on the patches where the query is asked by their mean, which is read as a token, too: CLIP's
    ResNets. All tokens, the mean being the first, M = N + 1.

    weights: [M, H]; lift: values less o, [M, H, c]; keys: over sqrt(c), [M, H, c]; asked: what each patch adds to the
    query, times N, W_q a_n, [N, H, c]; query_weight: W_q [H, c, C].
    """

    weights: Tensor
    lift: Tensor
    keys: Tensor
    asked: Tensor
    query_weight: Tensor

    def features(self, content: Tensor, match: Tensor) -> Tensor:
        """[N, H, c]: its product with o's cotangent is A times the gradient at each patch that comes by the mean, as
        value, key and query."""
        scores = torch.einsum("nhc,mhc->nmh", self.asked, self.keys)
        as_query = torch.einsum("nmh,mh,mhc->nhc", scores, self.weights, self.lift)
        as_token = self.weights[0][:, None] * (content + match[..., None] * self.lift[0])
        features: Tensor = (as_token + as_query) / len(content)
        return features

    def gradient(self, heads: Tensor, through_values: Tensor, query_keys: Tensor) -> Tensor:
        """That gradient, the same at each patch, [C], for o's cotangent [H, c]."""
        slopes = torch.einsum("hc,mhc->mh", heads, self.lift) * self.weights
        as_query = torch.einsum("mh,mhc,hck->k", slopes, self.keys, self.query_weight)
        gradient: Tensor = (self.weights[0] @ through_values + slopes[0] @ query_keys + as_query) / len(self.asked)
        return gradient


@dataclass(frozen=True, eq=False)
class QueryTail:
    """The row of attention of the query that reads the patches last, H heads of width c. Float32 but for the modules.

    activations: A [N, C]; weights: attention p of the query on each patch [N, H]; content: value vectors without
    their bias, W_v a_n, [N, H, c]; bias: of the values, [H, c] or one a patch [N, H, c]; match: the part of each score
    that is linear in a_n, q . W_k a_n / sqrt(c), [N, H]; attended: o, the attention output before its projection
    [H, c]; query_keys: q W_k / sqrt(c), the gradient of a score at a_n [H, C]; value_weight: W_v [H, c, C]; embedding:
    f [D]; pull_back_rest: the rest of the tower backwards, from rows of cotangents at f [K, D] to rows at o [K, H c];
    mean: None where the query does not depend on A.
    """

    activations: Tensor
    weights: Tensor
    content: Tensor
    bias: Tensor
    match: Tensor
    attended: Tensor
    query_keys: Tensor
    value_weight: Tensor
    embedding: Tensor
    pull_back_rest: Callable[[Tensor], Tensor]
    mean: MeanToken | None = None

    def pull_back(self, directions: Tensor) -> Tensor:
        """Cotangents at o, [K, H c], for directions [K, D]: matrix products back through the last MLP."""
        norms = directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
        cotangents: Tensor = self.pull_back_rest(directions / norms).float() * norms
        return cotangents

    def shift_features(self) -> Tensor:
        """[N, H c]: its product with o's cotangent is Grad-CAM's map, A times the mean gradient over patches.

        A shift of all patches adds one number to every patch's score and the patches' total attention to the values.
        """
        mass = self.weights.sum(0)[:, None]
        pulled = torch.einsum("nh,nhc->hc", self.weights, self.content + self.bias - self.attended)
        features = (mass * self.content + self.match[..., None] * pulled) / len(self.weights)
        return self._with_mean(features).flatten(1)

    def gate_features(self) -> Tensor:
        """[N, H c]: its product with o's cotangent is HiResCAM's map, A times its own gradient at each patch."""
        lift = self.content + self.bias - self.attended
        return self._with_mean(self.weights[..., None] * (self.content + self.match[..., None] * lift)).flatten(1)

    def _with_mean(self, features: Tensor) -> Tensor:
        return features if self.mean is None else features + self.mean.features(self.content, self.match)

    def gradients(self, directions: Tensor) -> Iterator[Tensor]:
        """dL/da_n = sum over heads of p_n (W_v^T c + (c . (v_n - o)) W_k^T q / sqrt(c)), c the cotangent at o."""
        lift = self.content + self.bias - self.attended
        for cotangent in self.pull_back(directions):
            heads = cotangent.view_as(self.attended)
            through_values = torch.einsum("hc,hck->hk", heads, self.value_weight)
            through_scores = torch.einsum("hc,nhc->nh", heads, lift)
            gradient = self.weights @ through_values + (self.weights * through_scores) @ self.query_keys
            if self.mean is not None:
                gradient = gradient + self.mean.gradient(heads, through_values, self.query_keys)
            yield gradient


def unit_norm(features: Tensor) -> Tensor:
    """Rows of unit norm, in float32 whatever the model computes in."""
    return F.normalize(features.float(), dim=-1)
