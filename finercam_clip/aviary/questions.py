"""Questions about drawn birds, with their exact answers.

A question is a held-out bird, a text that is true of it (the target) and the same text with one trait changed (the
contrast). Its answer is the mask of the part that the changed trait is about.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finercam_clip.aviary import drawing, world
from finercam_clip.errors import InputError

KINDS = {
    "attribute": "one part named: a red crown against a blue crown",
    "species": "three parts named, one differs",
    "unseen": "as species, with a combination of traits that training never saw",
    "two birds": "one part named; the contrast is true of the other bird in the picture",
    "absent": "one part named, and the target is not in the picture",
}
SIZE = 256  # pixels along each side of a question's picture
SMALLEST = 0.002  # share of the picture; a part that shows less is not asked about

Traits = tuple[world.Trait, ...]


@dataclass(frozen=True)
class BirdQuestion:
    """Where does a picture show the target and not the contrast?

    Attributes:
        kind: One of `KINDS`.
        scene: The picture, `SIZE` pixels wide and high, and its masks.
        target: A text that is true of the first bird (of no bird, if the kind is "absent").
        contrast: The same text with another value of one trait. If the kind is "two birds", it is true of the second
            bird, else of none.
        part: What the changed trait is about.
        answer: The pixels of that part, bool [H, W].
        siblings: The target with every other value of the changed trait. The contrast comes first. If the kind is
            "absent", the text that is true comes last.
        key: What the picture was drawn from: `drawing.draw` with it gives the same pose, light and background.
    """

    kind: str
    scene: drawing.Scene
    target: str
    contrast: str
    part: str
    answer: NDArray[np.bool_]
    siblings: tuple[str, ...]
    key: tuple[int, ...]


def make_question(kind: str, seed: int) -> BirdQuestion:
    """The question of a kind with a held-out seed.

    Args:
        kind: One of `KINDS`.
        seed: 0 .. world.TRAINING_SEEDS - 1.

    Raises:
        InputError: There is no such kind, or training draws from the seed.
    """
    if kind not in KINDS:
        raise InputError(f"there are no questions of kind '{kind}'; there are {', '.join(KINDS)}")
    if not 0 <= seed < world.TRAINING_SEEDS:
        raise InputError(f"seeds of held-out questions are 0 .. {world.TRAINING_SEEDS - 1}, not {seed}")
    stream = list(KINDS).index(kind)
    attempts = (_attempt(kind, (seed, stream, attempt)) for attempt in itertools.count())
    return next(question for question in attempts if question is not None)


def _attempt(kind: str, key: tuple[int, ...]) -> BirdQuestion | None:
    """The question that `key` draws, or None if the bird lacks the combination or its part can hardly be seen."""
    rng = np.random.default_rng(key)
    bird = world.sample_bird(rng)
    slots = _slots(kind, rng)
    if kind == "unseen" and not world.is_unseen(_traits(bird, slots[:2])):
        return None
    changed = slots[rng.integers(len(slots))]
    others = [str(value) for value in rng.permutation(world.SLOTS[changed]) if value != bird[changed]]
    birds: tuple[world.Bird, ...] = (bird,)
    if kind == "two birds":
        birds = (bird, world.sample_bird(rng).with_trait(changed, others[0]))
    scene = drawing.draw(birds, key, size=SIZE)
    part = world.part_of(changed)
    answer = scene.masks[0][part]
    if answer.mean() < SMALLEST:
        return None
    values = [bird[changed], *others]  # of the changed trait, the target's first
    if kind == "absent":
        values = [*values[1:], values[0]]
    target, *siblings = (world.describe(_traits(bird.with_trait(changed, value), slots)) for value in values)
    return BirdQuestion(
        kind=kind,
        scene=scene,
        target=target,
        contrast=siblings[0],
        part=part,
        answer=answer,
        siblings=tuple(siblings),
        key=key,
    )


def _slots(kind: str, rng: np.random.Generator) -> list[str]:
    """The slots that a question's texts name, each of another part; an unseen question's pair comes first."""
    parts = [str(part) for part in rng.permutation(world.PARTS)[: 3 if kind in ("species", "unseen") else 1]]
    slots = [str(rng.choice([slot for slot in world.SLOTS if world.part_of(slot) == part])) for part in parts]
    if kind != "unseen":
        return slots
    pair = world.UNSEEN_PAIRS[rng.integers(len(world.UNSEEN_PAIRS))]
    return [*pair, next(slot for slot in slots if world.part_of(slot) not in pair)]


def _traits(bird: world.Bird, slots: list[str]) -> Traits:
    return tuple((slot, bird[slot]) for slot in slots)
