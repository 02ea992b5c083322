"""What is explained: functions of the similarities s = [s_target, s_contrast_1, ...] that give one number per question.

s is [..., 1 + contrasts], scaled by the model's logit scale. gamma, 0 and up, is the comparison strength. The result L
is [...]. By the chain rule everything about a question is one direction in embedding space, d = scale * T^T dL/ds with
T the unit-norm text embeddings (`combined`). Finer-CAM is such a function, not a CAM method of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
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
    """Finer-CAM (Zhang et al., CVPR 2025): the mean over contrasts of s_target - gamma * s_contrast."""
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
    "finer-strongest": finer,  # these two differ from `finer` in how maps are put together (`OF_MAPS`)
    "finer-rectified": finer,
    "finer": finer,
    "similarity": similarity,
    "probability": probability,
    "finer-softmax": finer_softmax,
    "finer-softmax-upstream": finer_softmax_upstream,
}


def objective_named(name: str) -> Objective:
    """The objective of a name. Raises InputError for a name that is not in `OBJECTIVES`."""
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

    Embeddings times the logit scale give the directions d. Maps of each text alone give the map of each question.

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


def strongest(weights: Tensor, targets: Tensor, contrasts: Tensor) -> Tensor:
    """As `rectified`, with the strongest contrast of each cell for all: M_target - gamma * max relu(M_contrast).

    So no contrast is diluted by others that say nothing there. With one contrast it is `rectified`.
    """
    totals = weights[:, 1:].clamp_min(0).sum(1, True), weights[:, 1:].clamp_max(0).sum(1, True)
    highest = contrasts.amax(0) if len(contrasts) else torch.zeros_like(targets[0])
    return weights[:, :1] * targets + totals[0] * highest + totals[1] * highest.relu()


# How the maps of target and contrasts are put together, of objectives that are not linear in them.
OF_MAPS = {"finer-rectified": rectified, "finer-strongest": strongest}
