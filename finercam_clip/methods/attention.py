"""Methods on attention weights: what tokens read of patches, and what that does to the score.

The weights and their gradients are those of the model's own forward pass (see `towers.attention`). Recorded passes are
kept with the image, so that each further question costs its backward passes only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.towers.closed import QueryTail
from finercam_clip.towers.forward import ForwardPass
from finercam_clip.towers.passes import attentions, patches_of, pooled_tokens, pools_of, transformer_of


def grad_eclip(forward: ForwardPass, directions: Tensor) -> Tensor:
    """Grad-ECLIP (Zhao et al., ICML 2024, eq. 9-11): sum over channels of w * v_i * lambda_i in the last block.

    w: gradient at the class token's attention output (heads side by side, before their projection); v_i: a patch's
    value; lambda_i: cosine of the class token's query and the patch's key, scaled to 0..1 over patches ("loosened"
    attention). Linear before its ReLU.
    """
    if pools_of(forward) != "token":
        raise InputError(f"grad-eclip needs a tower that pools the class token; this one pools: {pools_of(forward)}")
    attention = attentions(forward, 1, graph=not isinstance(forward.tail, QueryTail))
    query, key, value = (part.float().transpose(0, 1).flatten(1) for part in attention.projected(-1))
    cosines = patches_of(forward, F.cosine_similarity(query[:1], key))
    loose = (cosines - cosines.min()) / (cosines.max() - cosines.min()).clamp_min(1e-12)
    if isinstance(forward.tail, QueryTail):
        slopes = forward.tail.pull_back(directions)
    else:
        slopes = torch.stack([attention.head_gradients(d)[-1][0] for d in directions])
    return slopes @ patches_of(forward, value.T) * loose


def legrad(forward: ForwardPass, directions: Tensor) -> Tensor:
    """LeGrad (Bousselham et al., ICCV 2025, eq. 5-8): the positive gradient of a layer's own score at its attention
    weights, mean over heads and queries, summed over the last two layers (the authors' default).

    A layer's score is that of its tokens pooled, projected and normalised as the tower does with the last layer's.
    """
    last = len(transformer_of(forward).blocks()) - 1
    layers = [attentions(forward, 1, end=end, graph=True) for end in range(max(last - 1, 0), last + 1)]
    maps = [torch.stack([layer.weight_gradients(d)[0].relu().mean((0, 1)) for layer in layers]) for d in directions]
    return patches_of(forward, torch.stack(maps).sum(1))


def chefer(forward: ForwardPass, directions: Tensor) -> Tensor:
    """Generic attention explainability (Chefer et al., ICCV 2021, eq. 5-6): R <- R + mean_heads (A * dL/dA)+ R over
    all blocks, starting at R = 1. The map is the row of the tokens that the tower pools. That row is multiplied by each
    block's matrix, the last block's first."""
    attention = attentions(forward, graph=True)
    maps = []
    for d in directions:
        row = pooled_tokens(forward, attention.weights[-1])
        for weights, slope in reversed(list(zip(attention.weights, attention.weight_gradients(d), strict=True))):
            row = row + row @ (weights * slope).relu().mean(0)
        maps.append(patches_of(forward, row))
    return torch.stack(maps)


def rollout(forward: ForwardPass, directions: Tensor) -> Tensor:
    """Attention rollout (Abnar and Zuidema, ACL 2020, eq. 1): the product over blocks of (A + 1) / 2, mean over heads.

    It ignores the question: the map is the same for every direction.
    """
    return forward.once("rollout", lambda: _flow(forward)).expand(len(directions), -1)


def _flow(forward: ForwardPass) -> Tensor:
    """The pooled row of the product, [N], from the last block to the first."""
    weights = attentions(forward).weights
    row = pooled_tokens(forward, weights[-1])
    for attended in reversed(weights):
        row = (row @ attended.mean(0) + row) / 2
    return patches_of(forward, row)
