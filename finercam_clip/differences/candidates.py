"""The texts that may tell two sets apart, what each is told apart from, and their scores. It knows no sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip import checks
from finercam_clip.concepts import Concept, ConceptSpace
from finercam_clip.concepts.vocabulary import templates_of, vocabulary_of
from finercam_clip.datasets.labels import check_known
from finercam_clip.errors import InputError, shown
from finercam_clip.options import Options
from finercam_clip.question import Question
from finercam_clip.traits import Trait, read_traits

Concepts = str | Path | Sequence[str] | Sequence[Trait] | None
OTHERS = "the mean of all texts"  # what a text without contrasts is told apart from


@dataclass(frozen=True, eq=False)
class Candidates:
    """Texts, as directions.

    Attributes:
        space: Theirs.
        names: What people call each text.
        concepts: Each text, and what any of them is told apart from: the targets come first.
        directions: One per concept, float32 [U, D].
        contrasts: For each text the indices of its contrasts; () where it is told apart from the mean of all texts.
        kin: The group of each text, [texts]: of two in one group, one is a contrast of the other.
        options: How they are asked.
    """

    space: ConceptSpace
    names: tuple[str, ...]
    concepts: tuple[Concept, ...]
    directions: Tensor
    contrasts: tuple[tuple[int, ...], ...]
    kin: NDArray[np.int64]
    options: Options

    def scores(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """How far each text leads on each image, [images, texts], in the model's logits.

        It leads over its strongest contrast, as in the default map; or, without contrasts, over the mean of all texts.

        Args:
            embeddings: f of each image, [images, D].
        """
        texts, scale = len(self.names), self.space.scale
        logits = scale * (embeddings.astype(np.float64) @ self.directions.double().cpu().numpy().T)
        mean = logits[:, :texts].mean(1) if texts > 1 else np.zeros(len(logits))
        leads: NDArray[np.float64] = logits[:, :texts] - mean[:, None]
        strongest: dict[tuple[int, ...], tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]] = {}
        for text, contrasts in enumerate(self.contrasts):
            if not contrasts:
                continue
            group = tuple(sorted({text, *contrasts}))
            if group not in strongest:  # siblings share it: two thousand texts of one group cost one pass
                own = logits[:, group]
                order = np.argpartition(own, -2, axis=1)[:, -2:]
                pair = np.take_along_axis(own, order, 1)
                at = np.arange(len(own)), pair.argmax(1)
                strongest[group] = pair[at], np.array(group)[order[at]], pair.min(1)
            first, which, second = strongest[group]
            leads[:, text] = logits[:, text] - np.where(which == text, second, first)
        return leads

    def question(self, text: int) -> Question:
        """The question that shows where an image has a text and not its contrasts."""
        indices = self.contrasts[text]
        directions = self.directions[[text, *indices]]
        concepts = tuple(self.concepts[i] for i in (text, *indices))
        if not indices and len(self.names) > 1:
            mean = self.directions[: len(self.names)].mean(0, keepdim=True)
            every = tuple(text for concept in self.concepts[: len(self.names)] for text in concept.texts)
            rest = Concept(every if self.space.names else (OTHERS,))  # of a classifier a group of classes
            directions, concepts = torch.cat([directions, mean]), (*concepts, rest)
        return Question(self.space, concepts, directions, self.options)


def candidates_of(space: ConceptSpace, concepts: Concepts, template: object, options: Options) -> Candidates:
    """Candidates as a user names them.

    Args:
        space: Of the model.
        concepts: Traits with what they are told apart from, or texts without: a name in prompts/, a file, or a list of
            texts or `Trait`s. None: a classifier's classes.
        template: A text with "{}", or several: every concept in each. Those of one template are each other's contrasts.
        options: How they are asked.

    Raises:
        InputError: There are none, or the model cannot be asked about one.
    """
    traits = _templated(concepts, template) if template is not None else _traits(space, concepts)
    subjects = [space.concept(_spoken(space, trait.target), "target") for trait in traits]
    seen: dict[str, Concept] = {}
    for trait, subject in zip(traits, subjects, strict=True):
        if subject.key in seen:
            raise InputError(f"the text '{subject.label}' (of '{trait.name}') is there twice: leave one out")
        seen[subject.key] = subject
    others = [[space.concept(contrast, "contrast") for contrast in trait.contrasts] for trait in traits]
    for several in others:
        for other in several:
            seen.setdefault(other.key, other)
    check_known(space, [text for concept in seen.values() for text in concept.texts], options.templates)
    index = {key: i for i, key in enumerate(seen)}
    contrasts = tuple(
        tuple(i for i in dict.fromkeys(index[other.key] for other in several) if i != own)
        for own, several in enumerate(others)
    )
    every = tuple(seen.values())
    directions = space.directions(every, options.templates).detach()
    return Candidates(space, tuple(t.name for t in traits), every, directions, contrasts, _kin(contrasts), options)


def _spoken(space: ConceptSpace, text: str | Sequence[str]) -> str | Sequence[str]:
    return text if not space.names or not isinstance(text, str) else space.spoken(text)


def _traits(space: ConceptSpace, concepts: Concepts) -> list[Trait]:
    if concepts is None:
        if not space.names:
            raise InputError("which texts may tell the sets apart? name them, as in --concepts birds-traits")
        return [Trait(name, name) for name in space.names]
    if isinstance(concepts, (str, Path)):
        return list(read_traits(concepts))
    listed = checks.items(concepts, "concepts are a name, a file, texts or traits")
    for one in listed:
        if not isinstance(one, (str, Trait)):
            raise InputError(f"concepts are texts or traits, not {shown(one)}")
    if not listed:
        raise InputError("concepts hold no texts: give some")
    return [one if isinstance(one, Trait) else Trait(one, one) for one in listed]


def _templated(concepts: Concepts, template: object) -> list[Trait]:
    if concepts is None or (not isinstance(concepts, (str, Path)) and not all(isinstance(c, str) for c in concepts)):
        raise InputError("a template is filled with texts: name a list of them, as in --concepts colours.txt")
    words = list(dict.fromkeys(vocabulary_of(concepts)))  # type: ignore[arg-type]
    traits = []
    for form in templates_of([template] if isinstance(template, str) else template):  # type: ignore[arg-type]
        texts = [form.format(word) for word in words]
        traits += [Trait(text, text, tuple(other for other in texts if other != text)) for text in texts]
    return traits


def _kin(contrasts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Groups of texts of which one is a contrast of another, by the least index in each."""
    kin = list(range(len(contrasts)))

    def root(i: int) -> int:
        while kin[i] != i:
            kin[i] = i = kin[kin[i]]
        return i

    for text, others in enumerate(contrasts):
        for other in others:
            if other < len(kin):
                one, two = sorted((root(text), root(other)))
                kin[two] = one
    return np.array([root(i) for i in range(len(kin))], np.int64)
