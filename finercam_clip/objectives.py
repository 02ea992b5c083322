"""What is explained: functions of the similarities s = [s_target, s_contrast_1, ...] that give one number per question.

s is [..., 1 + contrasts], scaled by the model's logit scale. gamma, 0 and up, is the comparison strength. The result L
is [...]. By the chain rule everything about a question is one direction in embedding space, d = scale * T^T dL/ds with
T the unit-norm text embeddings (`combined`). Finer-CAM is such a function, not a CAM method of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip.checks import choice


def similarity(s: Tensor, gamma: float) -> Tensor:
    """The target's similarity alone: the base method, whatever the contrasts. gamma is not used."""
    return s[..., 0]


def probability(s: Tensor, gamma: float) -> Tensor:
    """The target's softmax probability among target and contrasts, as CLIP-ES explains it (Lin et al., CVPR 2023).

    gamma is not used. In float32 the gradient vanishes once the target leads by a logit gap of about 20.
    """
    return s.softmax(-1)[..., 0]


def finer(s: Tensor, gamma: float) -> Tensor:
    """Finer-CAM (Zhang et al., CVPR 2025): the mean over contrasts of s_target - gamma * s_contrast.

    gamma = 0, or no contrasts, is the target's similarity: exactly the base method.
    """
    return s[..., 0] - gamma * s[..., 1:].mean(-1) if s.shape[-1] > 1 else s[..., 0]


def finer_softmax(s: Tensor, gamma: float) -> Tensor:
    """The difference as upstream's code weighs it: sum p_i (s_target - gamma s_i) / sum p_i, i over contrasts.

    The weights, p = softmax(s), are held constant; p_i / sum p_i is the softmax over the contrasts alone. With the
    gradient through them (`finer_softmax_upstream`) a contrast's sign flips once its logit gap is large. The map then
    shows the contrast where it should show the target.
    """
    if s.shape[-1] == 1:
        return s[..., 0]
    weights = s[..., 1:].softmax(-1).detach()
    return s[..., 0] - gamma * (weights * s[..., 1:]).sum(-1)


def finer_softmax_upstream(s: Tensor, gamma: float) -> Tensor:
    """`finer_softmax` with the gradient through the weights, as in upstream's FinerWeightedTarget. For parity only."""
    if s.shape[-1] == 1:
        return s[..., 0]
    p = s.softmax(-1)[..., 1:]
    return (p * (s[..., :1] - gamma * s[..., 1:])).sum(-1) / (p.sum(-1) + 1e-9)


Objective = Callable[[Tensor, float], Tensor]
OBJECTIVES: dict[str, Objective] = {
    "finer": finer,
    "similarity": similarity,
    "probability": probability,
    "finer-softmax": finer_softmax,
    "finer-softmax-upstream": finer_softmax_upstream,
    "finer-rectified": finer,  # with `rectified` in place of `combined`
}
RECTIFIED = ("finer-rectified",)


def objective_named(name: str) -> Objective:
    """An objective by its name.

    Raises:
        InputError: The name is not in `OBJECTIVES`.
    """
    return OBJECTIVES[choice(name, tuple(OBJECTIVES), "objective")]


def slopes(
    objective: Objective, targets: Tensor, contrasts: Tensor, embedding: Tensor, *, scale: float, gamma: float
) -> Tensor:
    """What each text counts for in each question: dL/ds at s = scale * T f.

    Args:
        objective: L, a function of s and gamma.
        targets: [K, D], one per question, unit norm.
        contrasts: [M, D], the same for every question, unit norm.
        embedding: f, the image's, [D], unit norm.
        scale: The model's logit scale.
        gamma: Comparison strength, 0 and up.

    Returns:
        [K, 1 + M], the target's first.
    """
    own = (targets @ embedding)[:, None]
    others = (contrasts @ embedding).expand(len(targets), -1)
    with torch.enable_grad():
        s = (scale * torch.cat([own, others], 1)).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(s, gamma).sum(), s)
    return gradient


def combined(weights: Tensor, targets: Tensor, contrasts: Tensor) -> Tensor:
    """T^T dL/ds per question: the sum of target and contrasts, each as much as it counts.

    From embeddings times the logit scale it gives the directions d. If a method is not linear in d, it gives the map of
    each question from the maps of each text alone.

    Args:
        weights: dL/ds, [K, 1 + M], from `slopes`.
        targets: Embeddings or flattened maps, [K, D], one per question; or [1, D], the same for every one.
        contrasts: The same, [M, D], for every question.

    Returns:
        [K, D].
    """
    return (weights[:, 1:] @ contrasts).addcmul_(weights[:, :1], targets)


def rectified(weights: Tensor, targets: Tensor, contrasts: Tensor) -> Tensor:
    """As `combined`, of maps: where a contrast counts negative, only its positive evidence is subtracted.

    M_target - gamma * mean over contrasts of relu(M_contrast): a cell that merely speaks against a contrast does not
    speak for the target, and no cell is above the target's own map.
    """
    added, subtracted = weights[:, 1:].clamp_min(0), weights[:, 1:].clamp_max(0)
    return weights[:, :1] * targets + added @ contrasts + subtracted @ contrasts.relu()


def unit_norm(features: Tensor) -> Tensor:
    """Rows of unit norm, in float32 whatever the model computes in."""
    return F.normalize(features.float(), dim=-1)
