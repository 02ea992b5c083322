"""What each image of a data set is asked, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from finercam_clip.concepts import Concept
from finercam_clip.concepts.nearness import distances
from finercam_clip.datasets import DataSet, Item
from finercam_clip.datasets.labels import Labels, label_map
from finercam_clip.errors import InputError
from finercam_clip.evaluation.protocol import Protocol
from finercam_clip.explainer import Explainer
from finercam_clip.options import Options
from finercam_clip.presets import MODES

_CONTRASTS: int = MODES["finer-default"]["contrasts"]


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that the softmax is over, and that contrasts are chosen from.

    Attributes:
        explainer: The model.
        concepts: The classes: a classifier's, else the data set's.
        directions: Of each, [K, D].
        by_logits: Whether the most similar are those with the nearest scores, or those with the nearest directions.
        target_of: Class of the data set -> the index of its concept.
        strange: The classes of the data set that the model does not know; their images are left out.
    """

    explainer: Explainer
    concepts: tuple[Concept, ...]
    directions: Tensor
    by_logits: bool
    target_of: dict[str, int]
    strange: tuple[str, ...] = ()

    @cached_property
    def labels(self) -> list[str]:
        """What they are called."""
        return [concept.label for concept in self.concepts]

    def nearest(self, target: int, embedding: Tensor) -> list[int]:
        """The classes most similar to a target on an image, f [D], nearest first: as `Question.about` has it."""
        space, own = self.explainer.loaded.space, self.directions[target]
        away = distances(space, own, self.directions, embedding, by_logits=self.by_logits)
        away[target] = float("inf")
        count = min(_CONTRASTS, len(self.concepts) - 1)
        return [int(i) for i in away.topk(count, largest=False).indices]

    def most_probable(self, embedding: Tensor) -> tuple[int, int]:
        """The two most probable classes."""
        first, second = (self.directions @ embedding).topk(2).indices.tolist()
        return first, second

    def random(self, avoided: Sequence[int], seed: int, name: str) -> int:
        """A class other than those avoided: of an image's own stream of random numbers."""
        rng = np.random.default_rng([seed, *name.encode()])
        others = [i for i in range(len(self.concepts)) if i not in avoided]
        return int(rng.choice(others)) if others else avoided[-1]


def classes_of(
    explainer: Explainer, dataset: DataSet, options: Options, protocol: Protocol, labels: Labels | None = None
) -> Classes:
    """The classes of a model and a data set.

    Args:
        explainer: The model.
        dataset: The data set.
        options: Its vocabulary, templates and similarity are used.
        protocol: Whether images are asked about their own classes.
        labels: What the model calls the classes of the data set (`labels.label_map`). One that it does not mention
            keeps its name. With a map, classes that the model does not know are left out.

    Raises:
        InputError: A class of the data set is none of the model's and there is no map, or there are not two.
    """
    space = explainer.loaded.space
    renamed = {} if labels is None else label_map(labels, dataset.classes, space)
    known = {name: renamed.get(name, name) for name in dataset.classes}
    vocabulary = options.vocabulary
    if vocabulary is None and not space.names:
        vocabulary = [space.spoken(called) for called in known.values()]
    concepts = tuple(space.vocabulary(vocabulary))
    keys = {concept.key: i for i, concept in enumerate(concepts)}
    if len(keys) < 2:
        raise InputError(f"{dataset.source} has {len(keys)} class: a contrast needs two, or --classifier with its own")
    target_of: dict[str, int] = {}
    strange = []
    for name, called in known.items():
        try:
            key = space.concept(space.spoken(called), "target").key
            if key not in keys:
                raise InputError(f"the class '{name}' of {dataset.source} is not in the vocabulary")
        except InputError as error:
            if protocol.about == "class" and labels is None:
                raise InputError(
                    f"{error}; --labels FILE says how the model calls them, or --about prediction"
                ) from error
            strange.append(name)
            continue
        target_of[name] = keys[key]
    by_logits = (options.similar_by or space.similar_by) == "logits"
    directions = space.directions(concepts, options.templates)
    return Classes(explainer, concepts, directions, by_logits, target_of, tuple(strange))


def chosen_items(dataset: DataSet, classes: Classes, protocol: Protocol) -> list[Item]:
    """The images that are asked about, in the data set's order.

    They are those of known classes, `limit` of them drawn at random.

    Raises:
        InputError: There is none.
    """
    known = [item for item in dataset.items if protocol.about == "prediction" or item.target in classes.target_of]
    if not known:
        raise InputError(
            f"no image of {dataset.source} is of a class that the model knows: "
            "give --labels FILE, or --about prediction"
        )
    if protocol.limit is None or protocol.limit >= len(known):
        return known
    drawn = np.random.default_rng(protocol.seed).choice(len(known), protocol.limit, replace=False)
    return [known[i] for i in sorted(drawn.tolist())]
