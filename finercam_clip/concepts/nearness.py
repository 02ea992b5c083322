"""Which concepts are most similar to a target: what contrasts are chosen from, and by what."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from finercam_clip.concepts import Concept, ConceptSpace


def candidates(target: Concept, concepts: Sequence[Concept]) -> list[Concept]:
    """What contrasts are chosen from: concepts, each once, without the target and the members of its ensemble."""
    own = {target.key, *(text.lower() for text in target.texts)}
    return [
        other
        for other in distinct(concepts)
        if other.key not in own and not own.issuperset(t.lower() for t in other.texts)
    ]


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


def distinct(concepts: Sequence[Concept]) -> list[Concept]:
    """The concepts, each once. If several differ in case only, the last takes the place of the first."""
    return list({concept.key: concept for concept in concepts}.values())
