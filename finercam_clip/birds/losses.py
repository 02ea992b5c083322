"""What the model birds is trained on: its losses. All know where parts are, by one click per part.

Shapes: B pictures, P parts, N cells of the grid, K traits in the order of `words.TRAITS`, D dimensions of embeddings.
A cell's score for a text is the product of what the cell adds to the embedding and the text's direction: positive where
the cell speaks for the text, 0 where it says nothing. `values` [B, K] holds how sure annotators are of each trait, as
`pictures.Photographs` has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip.birds.pictures import groups_of_traits
from finercam_clip.birds.words import GROUPS, PARTS

_GROUPS = groups_of_traits()
_PART_OF_GROUP = [PARTS.index(group.part) for group in GROUPS]
_PART_OF_TRAIT = torch.tensor(
    [part for part, places in zip(_PART_OF_GROUP, _GROUPS, strict=True) for _ in range(places.stop - places.start)]
)
_SPREAD = 0.6  # cells, the standard deviation of a click
_APART = 2.5  # cells between two parts of which one must not speak for the other
_FAR = 3.0  # cells from any part to what counts as background
_MARGIN = 3.0  # a true trait's score at its part is to exceed this, all others' to be below
_THERE = 0.02  # how much of a click lies at least in a cell that belongs to the part
_LOW = 0.02  # the slope below 0 of what other cells say
_LEAK = 0.1  # the slope below 0 of what a contrast may take away, so that there is a gradient


@dataclass(frozen=True, eq=False)
class Places:
    """Where the parts of a batch of pictures are on the grid.

    Attributes:
        weights: How much each cell belongs to each part, [B, P, N]; sums to 1 over cells, or to 0 if it is not visible.
        visible: bool [B, P].
        distance: From each cell to the nearest part, in cells, [B, N].
        apart: bool [B, P, P], whether two visible parts are far enough from each other to be told apart.
    """

    weights: Tensor
    visible: Tensor
    distance: Tensor
    apart: Tensor

    @classmethod
    def of(cls, points: Tensor, middles: Tensor, stride: int) -> Places:
        """From points in pixels.

        Args:
            points: [B, P, clicks, 2], NaN where a part is not visible.
            middles: Of the grid's cells, (x, y) in pixels, [N, 2].
            stride: Pixels per cell.
        """
        there = ~points[..., 0].isnan()
        squares = ((points[..., None, :] - middles) / stride).square().sum(-1).nan_to_num(1e4)
        clicks = (-squares / (2 * _SPREAD**2)).softmax(-1) * there[..., None]
        weights = clicks.sum(2) / there.sum(2).clamp(min=1)[..., None]
        visible = there.any(-1)
        centres = weights @ middles / stride
        apart = (torch.cdist(centres, centres) > _APART) & visible[:, :, None] & visible[:, None]
        return cls(weights, visible, squares.amin((1, 2)).sqrt(), apart)


def value_loss(at_parts: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """The cross-entropy of what annotators say of each visible part, in units of chance, mean over groups.

    Args:
        at_parts: Scores of all traits at each part, [B, P, K].
        values: [B, K].
        visible: bool [B, P].
    """
    total, count = at_parts.new_zeros(()), at_parts.new_zeros(())
    for places, part in zip(_GROUPS, _PART_OF_GROUP, strict=True):
        own = values[:, places]
        counted = visible[:, part] & (own.sum(1) > 0)
        log = at_parts[:, part, places].log_softmax(-1)
        total = total - ((own * log).sum(-1) * counted).sum() / math.log(own.shape[1])
        count = count + counted.sum()
    return total / count.clamp(min=1)


def average_loss(similarities: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """`value_loss` of the averaged embedding's similarities [B, K]."""
    return value_loss(similarities[:, None].expand(-1, len(PARTS), -1), values, visible)


def silence_loss(at_parts: Tensor, values: Tensor, places: Places) -> Tensor:
    """The logistic loss of true traits above a margin at their part, and of all others below it.

    "All others" are the false values of the same part, and every trait of other parts.

    Args:
        at_parts: Scores of all traits at each part, [B, P, K].
        values: [B, K].
        places: Where the parts are.
    """
    shares = relative(values)[:, None].expand_as(at_parts)
    own = (torch.arange(len(PARTS))[:, None] == _PART_OF_TRAIT) & places.visible[:, :, None]
    others = places.apart[:, :, _PART_OF_TRAIT]
    loss = F.binary_cross_entropy_with_logits(at_parts - _MARGIN, shares * own, reduction="none")
    return loss[own].mean() + loss[others].mean()


def background_loss(cells: Tensor, places: Places) -> Tensor:
    """The mean square of what cells far from any part add to the embedding: they are to add nothing.

    Args:
        cells: [B, N, D].
        places: Where the parts are.
    """
    far = places.distance > _FAR
    return cells.square().sum(-1)[far].sum() / max(int(far.sum()), 1)


def opposition_loss(scores: Tensor) -> Tensor:
    """The mean square of negative scores: a cell that does not show a thing is to say nothing, not to speak against it.

    Otherwise the average would be against every text, and the slope of a cosine, which maps show, would make cells that
    say much glow for whatever is said least.

    Args:
        scores: Of all cells and traits, [B, N, K].
    """
    return scores.clamp(max=0).square().mean()


def place_loss(maps: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The cross-entropy between where a map is high and where the part is that it is about.

    Elsewhere 0 is low enough: below it the loss falls slowly.

    Args:
        maps: [M, N].
        places: How much each cell belongs to the part, [M, N].
        weights: Of the maps, [M].
    """
    raised = torch.where(places > _THERE, maps, F.leaky_relu(maps, _LOW))
    return -((places * raised.log_softmax(-1)).sum(-1) * weights).sum() / weights.sum().clamp(min=1e-6)


def contrasted(target: Tensor, contrast: Tensor) -> Tensor:
    """The default objective in training: what speaks for the target, less what speaks for the contrast."""
    return target - F.leaky_relu(contrast, _LEAK)


def generic_loss(leads: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """The logistic loss of true traits above a generic text ("a bird") and of false ones below it.

    Args:
        leads: The similarities of all traits less that of the generic text, scaled, [B, K].
        values: [B, K].
        visible: bool [B, P]; parts that are not visible are not asked about.
    """
    true = true_and_visible(values, visible)
    false = (relative(values) < 0.1) & visible[:, _PART_OF_TRAIT]
    return (F.softplus(-leads[true]).mean() + F.softplus(leads[false]).mean()) / 2


def true_and_visible(values: Tensor, visible: Tensor) -> Tensor:
    """The surest values of visible parts, bool [B, K], for values [B, K] and visible [B, P]."""
    return (relative(values) > 0.9) & visible[:, _PART_OF_TRAIT]


def apart_loss(traits: Tensor) -> Tensor:
    """The mean square of the cosines of different traits: each is to have a direction of its own.

    Args:
        traits: Their embeddings, unit norm, [K, D].
    """
    cosines = traits @ traits.T
    return (cosines - torch.diag(cosines.diagonal())).square().mean()


def composition_loss(captions: Tensor, traits: Tensor, claims: Tensor) -> Tensor:
    """One less the cosine of each caption with the sum of its traits.

    Args:
        captions: Embeddings, unit norm, [C, D].
        traits: Embeddings of single traits, unit norm, [K, D].
        claims: Which traits each caption says, 0 or 1, [C, K]; captions that say none, such as names, do not count.
    """
    said = claims.sum(1) > 0
    return (1 - (F.normalize(claims[said] @ traits, dim=-1) * captions[said]).sum(-1)).mean()


def relative(values: Tensor) -> Tensor:
    """Each trait's share beside the largest of its group, 0..1, [B, K]."""
    groups = [values[:, places] for places in _GROUPS]
    return torch.cat([own / own.amax(1, keepdim=True).clamp(min=1e-6) for own in groups], 1)
