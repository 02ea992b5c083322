"""Which concepts are the same as a target, and which are most similar to it: what contrasts are chosen from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from finercam_clip.concepts import Concept, ConceptSpace
from finercam_clip.errors import InputError


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


def check_distinct(target: Concept, contrasts: Sequence[Concept]) -> None:
    """Raises InputError when a contrast is the target itself, or is there twice."""
    keys = {target.key}
    for contrast in contrasts:
        if contrast.key == target.key:
            raise InputError(f"the contrast '{contrast.label}' is the target itself; their difference would be empty")
        if contrast.key in keys:
            raise InputError(f"the contrast '{contrast.label}' is given twice")
        keys.add(contrast.key)
