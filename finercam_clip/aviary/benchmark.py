"""The aviary's questions and their exact answers: does the model tell the pair apart, and does the map lie on the part?

A question is a held-out bird, a text that is true of it (the target) and the same text with one trait changed (the
contrast). The mask of the part that the changed trait is about is the answer, to the pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finercam_clip.aviary import world
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.explanation import Explanation

KINDS = {"attribute": 1, "species": 3}  # kind -> how many parts the texts name
SIZE = 384  # pixels of a question's picture
_BATCH = 16


@dataclass(frozen=True)
class Question:
    """scene: the bird; target is true of it, contrast differs in one trait; part: what that trait is about."""

    scene: world.Scene
    target: str
    contrast: str
    part: str

    @property
    def answer(self) -> NDArray[np.bool_]:
        """The pixels of the part, bool [H, W]."""
        return self.scene.masks[self.part]


@dataclass(frozen=True)
class Score:
    """One answer. right: the target's similarity is above the contrast's; pointing: the peak lies in the part;
    energy: the part's share of the heat, 0..1; chance: the part's share of the picture."""

    right: float
    pointing: float
    energy: float
    chance: float


@dataclass(frozen=True)
class Row:
    """The means of one kind of question under one method and objective, each with its 95 % bootstrap interval."""

    kind: str
    method: str
    objective: str
    questions: int
    pair_accuracy: tuple[float, float, float]  # mean, low, high
    pointing: tuple[float, float, float]
    energy: tuple[float, float, float]
    chance: float


def make_question(kind: str, seed: int) -> Question:
    """The question of a kind with a held-out seed, 0 .. world.TRAINING_SEEDS - 1.

    Raises:
        InputError: no such kind, or a seed that training draws from.
    """
    if kind not in KINDS:
        raise InputError(f"there are no questions of kind '{kind}'; there are {', '.join(KINDS)}")
    if not 0 <= seed < world.TRAINING_SEEDS:
        raise InputError(f"seeds of held-out questions are 0 .. {world.TRAINING_SEEDS - 1}, not {seed}")
    rng = np.random.default_rng((seed, KINDS[kind]))
    bird = world.sample_bird(rng)
    parts = rng.permutation(world.PARTS)[: KINDS[kind]]
    slots = [str(rng.choice([slot for slot in world.SLOTS if world.part_of(slot) == part])) for part in parts]
    changed = slots[rng.integers(len(slots))]
    other = world.change_trait(bird, changed, rng)
    return Question(
        scene=world.draw(bird, (seed, KINDS[kind]), size=SIZE),
        target=world.describe(tuple((slot, bird[slot]) for slot in slots)),
        contrast=world.describe(tuple((slot, other[slot]) for slot in slots)),
        part=world.part_of(changed),
    )


def score(explanation: Explanation, question: Question) -> Score:
    """Compares an explanation with the question's answer."""
    heat, answer = explanation.heatmap, question.answer
    peak, total = explanation.peak, float(heat.sum())
    similarity = explanation.similarities
    return Score(
        right=float(similarity[question.target] > similarity[question.contrast]),
        pointing=float(peak is not None and answer[peak[1], peak[0]]),
        energy=float(heat[answer].sum()) / total if total > 0 else 0.0,
        chance=float(answer.mean()),
    )


def evaluate(
    explainer: Explainer,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    methods: Sequence[str],
    objectives: Sequence[str] = ("similarity", "finer"),
    questions: int = 300,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Asks `questions` held-out questions of each kind, seeds `seed`, `seed` + 1, ..., and scores every answer.

    Raises:
        InputError: there are no such kinds, methods, objectives or seeds.
    """
    if questions < 1:
        raise InputError(f"the number of questions is 1 or more, not {questions}")
    rows = []
    for kind in kinds:
        scores: dict[tuple[str, str], list[Score]] = {(m, o): [] for m in methods for o in objectives}
        for start in range(0, questions, _BATCH):
            progress(f"{kind}: {start} of {questions}")
            batch = [make_question(kind, seed + i) for i in range(start, min(start + _BATCH, questions))]
            encodings = explainer.encode([question.scene.image for question in batch])
            for question, encoding in zip(batch, encodings, strict=True):
                for (method, objective), found in scores.items():
                    explanation = encoding.explain(
                        question.target, [question.contrast], method=method, objective=objective
                    )
                    found.append(score(explanation, question))
        for (method, objective), found in scores.items():
            rows.append(
                Row(
                    kind,
                    method,
                    objective,
                    questions,
                    _interval([s.right for s in found]),
                    _interval([s.pointing for s in found]),
                    _interval([s.energy for s in found]),
                    float(np.mean([s.chance for s in found])),
                )
            )
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| questions | method | objective | pair accuracy | pointing | energy in the part | chance |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        figures = " | ".join(f"{m:.3f} ({a:.3f}-{b:.3f})" for m, a, b in (row.pair_accuracy, row.pointing, row.energy))
        lines.append(f"| {row.questions} {row.kind} | {row.method} | {row.objective} | {figures} | {row.chance:.3f} |")
    return "\n".join(lines)


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval (percentiles of 1,000 resamples)."""
    data = np.asarray(values)
    picks = np.random.default_rng(0).integers(0, len(data), (1000, len(data)))
    low, high = np.percentile(data[picks].mean(1), (2.5, 97.5))
    return float(data.mean()), float(low), float(high)
