"""Texts as concepts: a CLIP's text tower gives each its direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from finercam_clip.concepts import Concept, Text, concept_of
from finercam_clip.concepts.kept import Kept
from finercam_clip.concepts.tokens import Tokens
from finercam_clip.concepts.vocabulary import spoken, templates_of, vocabulary_of
from finercam_clip.errors import InputError
from finercam_clip.options import Score, SimilarBy, Texts
from finercam_clip.tensors import unit_norm


@dataclass(frozen=True, eq=False)
class TextSpace:
    """The embedding space of a CLIP. See `ConceptSpace`.

    Embeddings are kept, so that the same text is not embedded twice. Every text goes through the tower in a batch of
    one size, whatever else is asked: its embedding is the same to the last bit in every question and in every run.

    Attributes:
        encode: Token ids [K, L] -> embeddings before normalising [K, D].
        tokens: Texts -> token ids.
        device: Where the text tower is.
        logit_scale: The model's, a scalar; similarities are its exponential times cosines.
        version: What changes whenever the weights do, for a model that is being trained.
        kept: Embeddings of texts that were needed before.
    """

    encode: Callable[[Tensor], Tensor]
    tokens: Tokens
    device: torch.device
    logit_scale: Tensor
    version: Callable[[], object] = lambda: None
    kept: Kept = field(default_factory=Kept, repr=False)

    score: ClassVar[Score] = "cosine"
    similar_by: ClassVar[SimilarBy] = "concepts"
    names: ClassVar[tuple[str, ...]] = ()

    @property
    def scale(self) -> float:
        """About 100 in CLIP."""
        return float(self.logit_scale.detach().exp())

    def concept(self, text: Text, role: str) -> Concept:
        """The text as it is."""
        return concept_of(text, role)

    def spoken(self, name: str) -> str:
        """A data set's class as words."""
        return spoken(name)

    def directions(self, concepts: Sequence[Concept], templates: Texts = None) -> Tensor:
        """Unit-norm embeddings, float32 [K, D]: each concept in every template, averaged over its texts.

        Raises:
            InputError: There are none, or a text is too long for the model or holds words that it does not know.
        """
        if not concepts:
            raise InputError("there are no texts to embed: give at least one")
        forms = templates_of(templates)
        return self.kept.of([written(concept, forms) for concept in concepts], self.version(), self._embedded)

    @torch.no_grad()
    def _embedded(self, ensembles: Sequence[tuple[str, ...]]) -> Tensor:
        ids = self.tokens.ids([text for texts in ensembles for text in texts])
        encoded = torch.cat([unit_norm(self._encoded(chunk)) for chunk in torch.split(ids, self._batch)])
        parts = torch.split(encoded, [len(texts) for texts in ensembles])
        return unit_norm(torch.stack([part.mean(0) for part in parts]))

    @property
    def _batch(self) -> int:
        return 1 if self.device.type == "cpu" else 64  # a CPU is hardly faster with more; a GPU needs them

    def _encoded(self, ids: Tensor) -> Tensor:
        """Embeddings before normalising of at most one batch; what is missing of it is filled and dropped again."""
        filled = torch.cat([ids, ids[-1:].expand(self._batch - len(ids), *ids.shape[1:])])
        return self.encode(filled.to(self.device))[: len(ids)]

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
