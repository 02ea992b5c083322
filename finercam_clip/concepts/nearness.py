"""Which concepts are most similar to a target: what contrasts are chosen by."""

from __future__ import annotations

from torch import Tensor

from finercam_clip.concepts import ConceptSpace


def distances(space: ConceptSpace, target: Tensor, others: Tensor, embedding: Tensor, *, by_logits: bool) -> Tensor:
    """How far other concepts are from a target, [K]; the nearest are the most similar.

    Args:
        space: Theirs.
        target: Its direction, [D].
        others: Theirs, [K, D].
        embedding: The image's, f [D].
        by_logits: Whether by the scores on this image, as in the paper, or by the directions themselves.
    """
    if by_logits:
        return (others @ embedding - target @ embedding).abs()
    return -(space.bare(others) @ space.bare(target[None])[0])
