"""Texts as concepts: a CLIP's text tower gives each its direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from finercam_clip.concepts import Concept, Text, concept_of
from finercam_clip.concepts.tokens import Tokens
from finercam_clip.concepts.vocabulary import spoken, templates_of, vocabulary_of
from finercam_clip.errors import InputError
from finercam_clip.objectives import unit_norm
from finercam_clip.options import Score, SimilarBy, Texts

_BATCH = 256  # texts per forward pass
KEPT = 16_384  # embeddings: 34 MB at 512 dimensions


@dataclass(frozen=True, eq=False)
class TextSpace:
    """The embedding space of a CLIP. See `ConceptSpace`.

    Embeddings are kept, so that the same text is never embedded twice. Once `KEPT` are, further texts are embedded each
    time: what is kept then never changes, and a run that goes on after a stop rounds alike.

    Attributes:
        encode: Token ids [K, L] -> embeddings before normalising [K, D].
        tokens: Texts -> token ids.
        device: Where the text tower is.
        scale: The model's logit scale.
        kept: The texts of a concept in all templates -> its embedding [D].
    """

    encode: Callable[[Tensor], Tensor]
    tokens: Tokens
    device: torch.device
    scale: float
    kept: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False)

    score: ClassVar[Score] = "cosine"
    similar_by: ClassVar[SimilarBy] = "concepts"
    names: ClassVar[tuple[str, ...]] = ()

    def concept(self, text: Text, role: str) -> Concept:
        """The text as it is."""
        return concept_of(text, role)

    def spoken(self, name: str) -> str:
        """A data set's class as words."""
        return spoken(name)

    @torch.no_grad()
    def directions(self, concepts: Sequence[Concept], templates: Texts = None) -> Tensor:
        """Unit-norm embeddings, float32 [K, D]: each concept in every template, averaged over its texts.

        Raises:
            InputError: A text is too long for the model, or holds words that the model does not know.
        """
        forms = templates_of(templates)
        keys = [written(concept, forms) for concept in concepts]
        missing = [texts for texts in dict.fromkeys(keys) if texts not in self.kept]
        embedded = dict(zip(missing, self._embedded(missing), strict=True)) if missing else {}
        for texts in missing[: max(KEPT - len(self.kept), 0)]:
            self.kept[texts] = embedded[texts]
        return torch.stack([embedded[texts] if texts in embedded else self.kept[texts] for texts in keys])

    def _embedded(self, ensembles: Sequence[tuple[str, ...]]) -> Tensor:
        ids = self.tokens.ids([text for texts in ensembles for text in texts])
        chunks = [unit_norm(self.encode(chunk.to(self.device))) for chunk in torch.split(ids, _BATCH)]
        parts = torch.split(torch.cat(chunks), [len(texts) for texts in ensembles])
        return unit_norm(torch.stack([part.mean(0) for part in parts]))

    def vocabulary(self, source: Texts) -> list[Concept]:
        """Raises InputError without a source."""
        if source is None:
            raise InputError("a number of contrasts is chosen from a vocabulary: give one (vocabulary=...)")
        return [concept_of(entry, "vocabulary entry") for entry in vocabulary_of(source)]

    def background(self, source: Texts) -> list[Concept]:
        """Entries with words that the model does not know are left out."""
        entries = [] if source is None else vocabulary_of(source)
        known = [entry for entry in dict.fromkeys(entries) if self.tokens.knows(entry)]
        return [concept_of(entry, "background entry") for entry in known]

    def probabilities(self, concepts: Sequence[Concept], directions: Tensor, embedding: Tensor) -> Tensor:
        """The softmax over these concepts at the model's logit scale."""
        return (self.scale * (directions @ embedding)).softmax(0)

    def predictions(self, embedding: Tensor, count: int) -> dict[str, float]:
        """{}: any text could be asked about."""
        return {}

    def bare(self, directions: Tensor) -> Tensor:
        """Of unit norm."""
        return unit_norm(directions)

    def described(self) -> dict[str, Any]:
        """{}: the model's name says all."""
        return {}


def written(concept: Concept, templates: Sequence[str]) -> tuple[str, ...]:
    """The concept's texts in every template."""
    return tuple(template.format(text) for text in concept.texts for template in templates)
