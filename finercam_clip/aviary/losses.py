"""What the bundled model is trained on: its losses, none of which knows where a part is.

Shapes: B pictures, N patches per picture, K = all traits of the world in the order of `world.TRAITS`. Similarities are
cosines times the model's logit scale. `values` [B, 2 birds, slots] holds which value each bird has in each slot, as an
index into `world.SLOTS[slot]`; a picture of one bird holds it twice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip.aviary import world


def by_slot(scores: Tensor) -> tuple[Tensor, ...]:
    """Scores of all traits, [B, K, ...], as one tensor [B, values, ...] per slot."""
    sizes = [len(options) for options in world.SLOTS.values()]
    return tuple(torch.split(scores, sizes, 1))  # type: ignore[no-untyped-call]


def trait_indices(values: Tensor) -> Tensor:
    """Where the traits of birds stand in `world.TRAITS`, for values [..., slots]."""
    sizes = torch.tensor([len(options) for options in world.SLOTS.values()], device=values.device)
    return values + (sizes.cumsum(0) - sizes)


def trait_loss(similarities: Tensor, values: Tensor, *, hard: bool) -> Tensor:
    """The cross-entropy of the true value among the values of its slot, mean over slots.

    If two birds differ, both values are true and each should get half of the probability.

    Args:
        similarities: [B, K].
        values: [B, 2 birds, slots].
        hard: Measure each slot's loss in units of its chance level, the log of the number of its values, and weigh it
            by how much is still unsolved. So what is not learned yet (small shapes and patterns) is not drowned by the
            rest.
    """
    losses = []
    for column, scores in enumerate(by_slot(similarities)):
        loss = -scores.log_softmax(-1).gather(1, values[:, :, column]).mean()
        losses.append(loss / math.log(scores.shape[1]) if hard else loss)
    each = torch.stack(losses)
    return (each.detach() / each.detach().sum() * each).sum() if hard else each.mean()


def peak_loss(evidence: Tensor, values: Tensor) -> Tensor:
    """`trait_loss` of what the patches say each by itself, in units of chance, mean over slots.

    A trait's score is the soft maximum over patches of its lead over the mean of its slot. This is multiple-instance
    learning: some patch must tell on its own, and the loss does not know which. So evidence gathers in few patches, and
    the best patch of a small or faint part says as much as that of a large one.

    Args:
        evidence: What each patch adds to each similarity, scaled, [B, K, N].
        values: [B, 2 birds, slots].
    """
    losses = []
    for column, lead in enumerate(by_slot(evidence)):
        scores = (lead - lead.mean(1, keepdim=True)).logsumexp(2)
        losses.append(-scores.log_softmax(-1).gather(1, values[:, :, column]).mean() / math.log(lead.shape[1]))
    return torch.stack(losses).mean()


def generic_loss(similarities: Tensor, values: Tensor) -> Tensor:
    """The logistic loss of true traits above a generic text ("a bird on a branch") and of false ones below it.

    Both halves weigh the same. So a trait tells whether it is there if the generic text is its contrast.

    Args:
        similarities: [B, K + ...], the traits first and the generic text last.
        values: [B, 2 birds, slots].
    """
    true = torch.zeros(len(values), len(world.TRAITS), dtype=torch.bool, device=similarities.device)
    true.scatter_(1, trait_indices(values).flatten(1), True)
    lead = similarities[:, : true.shape[1]] - similarities[:, -1:]
    return (F.softplus(-lead[true]).mean() + F.softplus(lead[~true]).mean()) / 2


def agreement_loss(whole: Tensor, part: Tensor) -> Tensor:
    """The cross-entropy between where the difference of two captions is seen and where the one trait that differs is.

    Args:
        whole: Scaled evidence of each patch for a caption against the caption with one trait changed, [B, N].
        part: The same for that trait alone against its change. It is the target, so it gets no gradient.
    """
    return -(part.detach().softmax(-1) * whole.log_softmax(-1)).sum(-1).mean()
