"""The concept side: where a concept is a direction in embedding space. It knows no image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from finercam_clip.errors import InputError, shown
from finercam_clip.options import Score, SimilarBy, Texts

Text = str | Sequence[str]  # one text, or several that are an ensemble for one concept


@dataclass(frozen=True)
class Concept:
    """Something described in words: one text, or several whose embeddings are averaged (CLIP's prompt ensembling).

    Attributes:
        texts: The words; in a classifier the names of its classes.
    """

    texts: tuple[str, ...]

    @property
    def label(self) -> str:
        """How people call it."""
        return " / ".join(self.texts)

    @property
    def key(self) -> str:
        """What tells it from others: the label without case."""
        return self.label.lower()


class ConceptSpace(Protocol):
    """Texts of a CLIP, or classes of a linear head: both give each concept a direction."""

    @property
    def score(self) -> Score:
        """What a direction's product with an image embedding is: a "cosine" or a "logit"."""

    @property
    def similar_by(self) -> SimilarBy:
        """How contrasts=n chooses by default."""

    @property
    def scale(self) -> float:
        """The logit scale: similarities are this times scores (about 100 in CLIP, 1 for a classifier)."""

    @property
    def names(self) -> tuple[str, ...]:
        """All concepts that there are, in a classifier; () where any text is one."""

    def concept(self, text: Text, role: str) -> Concept:
        """What the user calls a target or a contrast (`role`), checked; a class by the classifier's own name."""

    def spoken(self, name: str) -> str:
        """A data set's name of a class, as this space is asked about it."""

    def directions(self, concepts: Sequence[Concept], templates: Texts = None) -> Tensor:
        """One direction per concept, float32 [K, D]."""

    def vocabulary(self, source: Texts) -> list[Concept]:
        """What contrasts=n is chosen from; without a source all of `names`."""

    def background(self, source: Texts) -> list[Concept]:
        """Further contrasts, of scenery; [] without a source."""

    def probabilities(self, concepts: Sequence[Concept], directions: Tensor, embedding: Tensor) -> Tensor:
        """How probable each concept is of an image embedding [D]: [K]."""

    def predictions(self, embedding: Tensor, count: int) -> dict[str, float]:
        """The `count` most probable of all `names`, best first; {} where there are none."""

    def bare(self, directions: Tensor) -> Tensor:
        """Directions as they are compared with each other: of unit norm, without a bias."""

    def described(self) -> dict[str, Any]:
        """What tells this space from others, ready for JSON."""


def concept_of(text: Text, role: str) -> Concept:
    """Checks and wraps one text, or several.

    Raises:
        InputError: A text is empty or is no text; the message calls it by its role.
    """
    texts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, Sequence) else (text,)
    for one in texts:
        if not isinstance(one, str):
            raise InputError(f"the {role} must be a text or several texts, not {type(one).__name__}")
        if not one.isascii() and one != one.encode(errors="replace").decode():
            raise InputError(f"the {role} {shown(one)} is no UTF-8: write it in letters that are")
    if not texts or any(not one.strip() for one in texts):
        raise InputError(f"the {role} is an empty text; describe it in words, as in 'a bird with a red crown'")
    return Concept(tuple(one.strip() for one in texts))
