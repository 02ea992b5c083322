"""Classes as concepts: a linear head gives each its direction. Their names are found loosely, never silently wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from finercam_clip.concepts import Concept, Text, concept_of
from finercam_clip.concepts.imagenet import ids_of
from finercam_clip.concepts.names import ClassNames
from finercam_clip.concepts.vocabulary import vocabulary_of
from finercam_clip.concepts.words import normalised
from finercam_clip.errors import InputError
from finercam_clip.options import Score, SimilarBy, Texts
from finercam_clip.tensors import unit_norm


@dataclass(frozen=True, eq=False)
class ClassSpace:
    """A linear head: what texts are to CLIP. See `ConceptSpace`.

    Attributes:
        names: K, no two alike.
        rows: float32 [K, D + 1], each class's weights and then its bias. With features f and a 1 behind them the logit
            w . f + b is a dot product like any other. Nothing moves that 1, so the bias is in the scores and never in a
            map.
        reads: What the head reads of the backbone, as `run.json` has it.
        biased: Whether rows end in a bias. On a CLIP's image tower they are [K, D], for no 1 stands behind f.
        ids: The WordNet ids of the classes; () where they have none.
    """

    names: tuple[str, ...]
    rows: Tensor
    reads: str = "model"
    biased: bool = True
    ids: tuple[str, ...] = ()

    score: ClassVar[Score] = "logit"
    similar_by: ClassVar[SimilarBy] = "logits"
    scale: ClassVar[float] = 1.0

    def index(self, name: str) -> int:
        """The class that is called so (`ClassNames.meant`): by its name, a synonym, its WordNet id, or its number.

        Raises:
            ClassNameError: No class is called so, or several are. The message says which to give instead.
        """
        return self._named.index(name)

    def knows(self, text: str) -> bool:
        """Whether a text is a class's name, and no other's."""
        return len(self._named.meant(text)) == 1

    def concept(self, text: Text, role: str) -> Concept:
        """The class that a text names, by the head's own name; several are a group of classes."""
        texts = concept_of(text, role).texts
        return Concept(tuple(dict.fromkeys(self.names[self.index(text)] for text in texts)))

    def spoken(self, name: str) -> str:
        """As it is: names are found loosely."""
        return name

    def directions(self, concepts: Sequence[Concept], templates: Texts = None) -> Tensor:
        """A row per concept, [K, D + 1]: its class's, or the mean over a group's. Raises InputError with templates."""
        if templates is not None:
            raise InputError("templates are for texts; a classifier's classes are named as they are: leave them out")
        indices = [self._indices(concept) for concept in concepts]
        if all(len(group) == 1 for group in indices):
            return self.rows[[index for (index,) in indices]]
        return torch.stack([self.rows[group].mean(0) for group in indices])

    def vocabulary(self, source: Texts) -> list[Concept]:
        """The classes that a source names; without a source all of them."""
        if source is None:
            return list(self._every)
        return [self.concept(entry, "vocabulary entry") for entry in vocabulary_of(source)]

    def background(self, source: Texts) -> list[Concept]:
        """Raises InputError with a source."""
        if source is not None:
            raise InputError("background is for texts; a classifier knows its classes only: leave it out")
        return []

    def probabilities(self, concepts: Sequence[Concept], directions: Tensor, embedding: Tensor) -> Tensor:
        """The softmax over ALL classes: a class's, or the sum over a group's."""
        every = (self.rows @ embedding).softmax(0)
        return torch.stack([every[self._indices(concept)].sum() for concept in concepts])

    def predictions(self, embedding: Tensor, count: int) -> dict[str, float]:
        """The most probable classes, best first: name -> softmax over all of them."""
        best = (self.rows @ embedding).softmax(0).topk(min(count, len(self.names)))
        return {self.names[int(i)]: float(p) for p, i in zip(best.values, best.indices, strict=True)}

    def bare(self, directions: Tensor) -> Tensor:
        """Weights of unit norm: a bias is no part of a direction."""
        return unit_norm(directions[:, :-1] if self.biased else directions)

    def described(self) -> dict[str, Any]:
        """How many classes, a fingerprint of the head, and what it reads."""
        data = self.rows.cpu().numpy().tobytes() + "\n".join(self.names).encode()
        return {"classes": len(self.names), "head": hashlib.sha256(data).hexdigest()[:16], "pool": self.reads}

    def _indices(self, concept: Concept) -> list[int]:
        return [self._named.positions[text] for text in concept.texts]

    @cached_property
    def _every(self) -> tuple[Concept, ...]:
        return tuple(Concept((name,)) for name in self.names)

    @cached_property
    def _named(self) -> ClassNames:
        return ClassNames(self.names, self.ids)


def named_head(
    weight: Tensor, bias: Tensor, names: Sequence[str] | None, ids: Sequence[str] | None = None
) -> ClassSpace:
    """A head under its names. Namesakes get their number behind them ("crane #134").

    Args:
        weight: [K, D].
        bias: [K].
        names: One per row, in its order; None calls the classes by their numbers, "0", "1", ...
        ids: Their WordNet ids; None: ImageNet's if the names are.

    Raises:
        InputError: There are not as many names as rows, or one is empty.
    """
    names = [str(i) for i in range(len(weight))] if names is None else [name.strip() for name in names]
    if len(names) != len(weight):
        raise InputError(
            f"{len(names)} class names for a head of {len(weight)} classes: give one per row, in its order"
        )
    if not all(names):
        raise InputError(f"the name of class {names.index('')} is empty")
    ids = ids_of(names) if ids is None else tuple(ids)
    keys = [normalised(name) or name for name in names]
    twice = {key for key, count in Counter(keys).items() if count > 1}
    if ids:  # where commas are known to stand between synonyms: "maillot" beside "maillot, tank suit"
        first = Counter(name.split(",")[0].strip() for name in names)
        twice |= {key for name, key in zip(names, keys, strict=True) if first[name] > 1}
    unique = tuple(
        f"{name} #{i}" if key in twice else name for i, (name, key) in enumerate(zip(names, keys, strict=True))
    )
    if len(set(unique)) < len(unique):
        name = Counter(unique).most_common(1)[0][0]
        raise InputError(f"two classes would be called '{name}': give each a name of its own")
    return ClassSpace(unique, torch.cat([weight.float(), bias.float()[:, None]], 1), ids=ids)
