"""Questions about photographs of birds, with their answers from CUB-200-2011's points of parts.

A question is a photograph, a text that is true of its species (the target) and the same text with one trait changed
(the contrast). A false value is drawn as often as it occurs among the species, so that it cannot be told by its rarity.
Only aspects of visible parts are asked about, and only where annotators agree: a value has `SURE` of its group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finercam_clip.birds import words
from finercam_clip.birds.pictures import Photographs, Pixels, groups_of_traits, pasted
from finercam_clip.birds.words import GROUPS, PARTS, TRAITS
from finercam_clip.errors import InputError
from finercam_clip.evaluation import metrics

KINDS = {
    "attribute": "one part named: a red crown against a blue crown",
    "species": "three parts named, one differs",
    "small": "as attribute, with a bird that fills a tenth of the picture",
    "absent": "one part named, and the target is not true of the bird",
    "class": "the name of the species against the name of the one that looks most like it",
}
SURE = 0.6  # the share of its group that a value needs to be asked about
_FALSE = 0.1  # the share of its group that a false value has at most
_SMALL = 0.1**0.5  # side of a bird that fills a tenth of the picture, of the picture's
_SIZE = 336  # pixels along each side of the picture of a small bird
_STREAM = 19  # apart from other draws with the same seed

Points = dict[str, tuple[metrics.Point, ...]]


@dataclass(frozen=True, eq=False)
class PhotoQuestion:
    """Where does a photograph show the target and not the contrast?

    Attributes:
        kind: One of `KINDS`.
        name: The photograph's name within its data set.
        image: The bird's box, squashed to a square, [S, S, 3].
        target: A text that is true of the species (false, if the kind is "absent").
        contrast: The same text with another value of one trait, false (true, if the kind is "absent"); or another name.
        part: What the changed trait is about; None for names.
        points: Part -> its visible points in the image, pixels.
    """

    kind: str
    name: str
    image: Pixels
    target: str
    contrast: str
    part: str | None
    points: Points


def make_questions(photographs: Photographs, kind: str, count: int, seed: int) -> Iterator[PhotoQuestion]:
    """Questions of a kind, one per photograph, in an order drawn by the seed.

    Args:
        photographs: What to ask about.
        kind: One of `KINDS`.
        count: How many questions at most; there are fewer where not enough photographs show a part that is sure.
        seed: 0 and up.

    Raises:
        InputError: There is no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"there are no questions of kind '{kind}'; there are {', '.join(KINDS)}")
    stream = list(KINDS).index(kind)
    order = np.random.default_rng((seed, _STREAM)).permutation(len(photographs))
    made = 0
    for index in order:
        if made == count:
            return
        question = _question(photographs, kind, int(index), np.random.default_rng((seed, _STREAM, stream, int(index))))
        if question is not None:
            made += 1
            yield question


def _question(photographs: Photographs, kind: str, index: int, rng: np.random.Generator) -> PhotoQuestion | None:
    """The question about one photograph, or None if it shows too few parts of which anything is sure."""
    species = int(photographs.species[index])
    if kind == "class":
        twin = photographs.classes[_twin(photographs, species)]
        part, target, contrast = None, words.named(photographs.classes[species]), words.named(twin)
    else:
        texts = _texts(photographs, index, rng, parts=3 if kind == "species" else 1)
        if texts is None:
            return None
        part, target, contrast = texts
        if kind == "absent":
            target, contrast = contrast, target
    image, points = photographs.crop(index), photographs.points[index]
    if kind == "small":
        image, points = pasted(photographs, index, (_SMALL, _SMALL), _SIZE, rng)
    else:
        points = points * image.shape[0]
    return PhotoQuestion(kind, photographs.items[index].name, image, target, contrast, part, _named(points))


def _texts(
    photographs: Photographs, index: int, rng: np.random.Generator, *, parts: int
) -> tuple[str, str, str] | None:
    """The part that the changed trait is about, a true text and a false one."""
    own = photographs.values[photographs.species[index]]
    shown = np.isfinite(photographs.points[index, :, :, 0]).sum(1)
    sure: dict[str, list[int]] = {}
    for number, (group, places) in enumerate(zip(GROUPS, groups_of_traits(), strict=True)):
        if shown[PARTS.index(group.part)] and own[places].max() >= SURE:
            sure.setdefault(group.part, []).append(number)
    if len(sure) < parts:
        return None
    named = [str(part) for part in rng.permutation(sorted(sure))[:parts]]
    groups = [int(rng.choice(sure[part])) for part in named]
    traits = [TRAITS[_top(own, group)] for group in groups]
    other = false_value(photographs, own, groups[0], rng)
    if other is None:
        return None
    order = rng.permutation(parts)
    changed = [TRAITS[other], *traits[1:]]
    return named[0], *(words.describe([said[i] for i in order]) for said in (traits, changed))  # type: ignore[return-value]


def _top(own: NDArray[np.float32], group: int) -> int:
    """The most certain value of a group, as an index into `TRAITS`."""
    places = groups_of_traits()[group]
    return int(places.start) + int(own[places].argmax())


def false_value(photographs: Photographs, own: NDArray[np.float32], group: int, rng: np.random.Generator) -> int | None:
    """A value of a group that is false of a species, drawn as often as it occurs; None if all that occur are true.

    Args:
        photographs: Whose species say what occurs.
        own: What the species looks like, [traits].
        group: An index into `GROUPS`.
        rng: Draws the value.
    """
    places = groups_of_traits()[group]
    often = photographs.values[np.unique(photographs.species), places].mean(0) * (own[places] <= _FALSE)
    if not often.any():
        return None
    drawn = rng.choice(len(often), p=often / often.sum())
    return int(places.start) + int(drawn)


def _twin(photographs: Photographs, species: int) -> int:
    """The species whose attributes are nearest, in total variation over all groups."""
    distances = np.abs(photographs.values - photographs.values[species]).sum(1)
    distances[species] = np.inf
    distances[photographs.values.sum(1) == 0] = np.inf
    return int(distances.argmin())


def _named(points: NDArray[np.floating]) -> Points:
    """The visible points, by part."""
    return {
        part: tuple((float(x), float(y)) for x, y in places if not np.isnan(x))
        for part, places in zip(PARTS, points, strict=True)
        if not np.isnan(places[:, 0]).all()
    }
