"""The aviary's benchmark: does the model tell two texts apart, and does the map lie on the part that differs?

The questions are those of `questions`; the answer to each is known to the pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip import progress
from finercam_clip.aviary.causal import agreement, swaps_of
from finercam_clip.aviary.questions import KINDS, BirdQuestion, make_question
from finercam_clip.errors import InputError
from finercam_clip.evaluation import faithfulness, metrics
from finercam_clip.evaluation.intervals import Interval, bootstrap, mean
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.explanation import Explanation
from finercam_clip.objectives import OF_MAPS
from finercam_clip.options import Options
from finercam_clip.presets import MODES, PRESETS
from finercam_clip.resolve import resolve_options
from finercam_clip.tables import markdown

FIGURES = (
    "pair accuracy",
    "pointing",
    "near",
    "energy",
    "precision",
    "drop",
    "causal rank",
    "causal hit",
    "chance",
    "flagged",
    "auroc",
)  # of a `Row`
# The figures that an objective can change.
_COMPARED = ("pointing", "near", "energy", "precision", "drop", "causal rank", "causal hit")
OBJECTIVES = ("similarity", "finer", Options.objective)  # the plain method, the paper's, the default
_DIFFERENCES = (("finer", "similarity"), (Options.objective, "similarity"), (Options.objective, "finer"))
_BATCH = 32

Scores = dict[str, float]  # from each figure's name to its value for one question
Setting = tuple[str, str]  # (method, objective)


@dataclass(frozen=True)
class Row:
    """One kind of question under one method and one objective.

    Attributes:
        kind: One of `questions.KINDS`.
        method: A method or a preset; empty if the figures do not depend on it.
        objective: An objective; or "finer - similarity" and its like, the differences of two, question by question.
        questions: How many questions were asked.
        figures: For each figure its mean over the questions and the ends of its 95 % bootstrap interval.

            * pair accuracy: how often the target is more similar to the image than the contrast is.
            * pointing: how often the heatmap's peak lies on the part.
            * near: the same within half a cell of the grid, because a map cannot show anything finer.
            * energy: the part's share of the heat.
            * precision: average precision of the heatmap as a detector of the part's pixels.
            * drop: relative confidence drop (see `faithfulness.confidence_drop`).
            * causal rank: rank correlation of the parts' heat with what swapping their traits does to the score.
            * causal hit: how often the hottest part is the one whose swap does most (see `causal`).
            * chance: the part's share of the picture.
            * flagged, for absent targets: how often the explanation comes with a caution.
            * auroc, for absent targets: of the cosine, true texts against absent ones.
    """

    kind: str
    method: str
    objective: str
    questions: int
    figures: dict[str, Interval]


def evaluate(
    explainer: Explainer,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    methods: Sequence[str],
    objectives: Sequence[str] = OBJECTIVES,
    gamma: float | None = None,
    questions: int = 200,
    seed: int = 0,
    causal: bool = True,
    siblings: bool = False,
) -> list[Row]:
    """Asks held-out questions of each kind and scores every answer.

    Args:
        explainer: The model that is asked.
        kinds: Of `questions.KINDS`.
        methods: Methods and presets.
        objectives: Each is asked with each method.
        gamma: How strongly contrasts are subtracted; None: each objective at its own strength (`gamma_of`).
        questions: How many questions of each kind.
        seed: The first question's; the others follow one by one.
        causal: Whether each bird is drawn again with its traits swapped, a dozen pictures more per question.
        siblings: Whether all other values of the trait are contrasts, not one of them.

    Raises:
        InputError: There is no such kind, method, objective or seed, or no question at all.
    """
    if questions < 1:
        raise InputError(f"the number of questions is 1 or more, not {questions}")
    settings = [(method, objective) for method in methods for objective in objectives]
    rows = []
    for kind in kinds:
        scores: dict[Setting, list[Scores]] = {}
        for start in progress.each(range(0, questions, _BATCH), f"{kind} questions", unit="batch"):
            batch = [make_question(kind, seed + i) for i in range(start, min(start + _BATCH, questions))]
            absent = kind == "absent"
            new = (
                {("", ""): _presence(explainer, batch)}
                if absent
                else _scores(explainer, batch, settings, gamma, causal=causal, siblings=siblings)
            )
            for setting, values in new.items():
                scores.setdefault(setting, []).extend(values)
        for method, (one, other) in itertools.product(methods if kind != "absent" else (), _DIFFERENCES):
            if {one, other} <= set(objectives):
                pairs = zip(scores[method, one], scores[method, other], strict=True)
                differences = [{name: a[name] - b[name] for name in _COMPARED if name in a} for a, b in pairs]
                scores[method, f"{one} - {other}"] = differences
        rows += [_row(kind, setting, values) for setting, values in scores.items()]
    return rows


def gamma_of(objective: str) -> float:
    """The comparison strength that an objective is compared with others at: the paper's, or the default of our own."""
    papers: float = MODES["finer-default"]["gamma"]
    return Options.gamma if objective in OF_MAPS else papers


def _scores(
    explainer: Explainer,
    batch: Sequence[BirdQuestion],
    settings: Sequence[Setting],
    gamma: float | None,
    *,
    causal: bool,
    siblings: bool,
) -> dict[Setting, list[Scores]]:
    """The figures of every question of a batch, under every method and objective."""
    images = [question.scene.image for question in batch]
    whole = explainer.encode(images)
    embedded = [explainer.embed([question.target, *question.siblings]) for question in batch]
    swaps = [
        swaps_of(explainer, question, encoding.embedding, texts[:2]) if causal else None
        for question, encoding, texts in zip(batch, whole, embedded, strict=True)
    ]
    contrasted = [question.siblings if siblings else (question.contrast,) for question in batch]
    scores = {}
    for method, objective in settings:
        # A preset brings its own objective. Without contrast it keeps its other options and takes the similarity.
        changes: dict[str, Any] = {"gamma": gamma_of(objective) if gamma is None else gamma}
        if method not in PRESETS or objective == "similarity":
            changes["objective"] = objective
        pooling = resolve_options({"method": method}).pooling
        encodings = whole if pooling == Options.pooling else explainer.encode(images, pooling=pooling)
        explanations = [
            encoding.explain(question.target, contrasts, method=method, **changes)
            for contrasts, question, encoding in zip(contrasted, batch, encodings, strict=True)
        ]
        masked = explainer.encode([faithfulness.without_hottest(e.image, e.heatmap) for e in explanations])
        scores[method, objective] = [
            _score(question, explanation, _probabilities(before, texts), _probabilities(after, texts))
            for question, explanation, texts, before, after in zip(
                batch, explanations, embedded, whole, masked, strict=True
            )
        ]
        own = zip(scores[method, objective], batch, explanations, swaps, strict=True)
        for score, question, explanation, swap in own:
            if swap is not None:
                effects = swap.effects(explanation.options.objective, explanation.options.gamma)
                score |= agreement(explanation.heatmap, question, effects)
    return scores


def _score(
    question: BirdQuestion, explanation: Explanation, before: NDArray[np.float32], after: NDArray[np.float32]
) -> Scores:
    """The figures of one question.

    Args:
        question: What was asked.
        explanation: The answer.
        before: Probabilities of target, contrast and the other siblings.
        after: The same for the image without its hottest pixels.
    """
    heat, answer, peak = explanation.heatmap, question.answer, explanation.peak
    half_a_cell = max(answer.shape) / max(explanation.grid.shape) / 2
    target, contrast = (explanation.similarities[text] for text in (question.target, question.contrast))
    figures = {
        "pair accuracy": float(target > contrast),
        "pointing": float(metrics.pointing(answer, peak)),
        "near": float(metrics.near(answer, peak, half_a_cell)),
        "energy": metrics.energy(heat, answer),
        "precision": metrics.average_precision(heat, answer),
        "drop": faithfulness.confidence_drop(before, after),
        "chance": float(answer.mean()),
    }
    if question.kind == "two birds":  # both texts are true
        del figures["pair accuracy"]
    return figures


def _presence(explainer: Explainer, batch: Sequence[BirdQuestion]) -> list[Scores]:
    """The scores of absent targets.

    Returns:
        Per question: the absent target's cosine, the cosine of the text that is true instead, and 1 if the explanation
        comes with a caution, else 0.
    """
    scores = []
    for question, encoding in zip(batch, explainer.encode([q.scene.image for q in batch]), strict=True):
        cosines = explainer.embed([question.target, *question.siblings]) @ encoding.embedding
        caution = encoding.explain(question.target, [question.contrast]).caution
        scores.append(
            {"absent": float(cosines[0]), "present": float(cosines[-1]), "flagged": float(caution is not None)}
        )
    return scores


def _probabilities(encoding: ImageEncoding, texts: Tensor) -> NDArray[np.float32]:
    """The softmax over texts, given by their embeddings [K, D], at the model's logit scale: [K]."""
    scale = encoding.explainer.loaded.space.scale
    probabilities: NDArray[np.float32] = (scale * texts @ encoding.embedding).softmax(0).cpu().numpy()
    return probabilities


def _row(kind: str, setting: Setting, scores: Sequence[Scores]) -> Row:
    columns = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    figures = {name: bootstrap(mean, column) for name, column in columns.items() if name not in ("absent", "present")}
    if kind == "absent":
        figures["auroc"] = bootstrap(metrics.auroc, columns["present"], columns["absent"])
    method, objective = setting
    return Row(kind=kind, method=method, objective=objective, questions=len(scores), figures=figures)


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, without the columns that none of them has."""
    names = [name for name in FIGURES if any(name in row.figures for row in rows)]
    cells = [
        [
            f"{row.questions} {row.kind}",
            row.method,
            row.objective,
            *(_cell(row.figures.get(name), interval=name != "chance") for name in names),
        ]
        for row in rows
    ]
    return markdown(["questions", "method", "objective", *names], cells, numbers=len(names))


def _cell(figure: Interval | None, *, interval: bool) -> str:
    if figure is None:
        return ""
    value, low, high = figure
    return f"{value:.3f} ({low:.3f}..{high:.3f})" if interval else f"{value:.3f}"
