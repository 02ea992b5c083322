"""Questions in words whose answers are known, under several methods and objectives: rows of figures with intervals.

A question is an image, a target and contrasts. The worlds that ask (drawn birds, birds in photographs) score answers by
what they know of their images; what they share is here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.evaluation import faithfulness, metrics
from finercam_clip.evaluation.intervals import Interval, bootstrap, mean
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.explanation import Explanation
from finercam_clip.objectives import OF_MAPS
from finercam_clip.options import Options
from finercam_clip.presets import MODES, PRESETS
from finercam_clip.resolve import resolve_options
from finercam_clip.tables import markdown

OBJECTIVES = ("similarity", "finer", Options.objective)  # the plain method, the paper's, the default
_DIFFERENCES = (("finer", "similarity"), (Options.objective, "similarity"), (Options.objective, "finer"))
_NO_INTERVAL = ("chance",)
_PRESENT, _ABSENT = "present", "absent"  # cosines, of which the figure "auroc" is made

Scores = dict[str, float]  # from each figure's name to its value for one question
Setting = tuple[str, str]  # (method, objective)


@dataclass(frozen=True)
class Row:
    """One kind of question under one method and one objective.

    Attributes:
        kind: The kind of question, as its world calls it.
        method: A method or a preset; empty if the figures do not depend on it.
        objective: An objective; or "finer - similarity" and its like, the differences of two, question by question.
        questions: How many questions were asked.
        figures: For each figure its mean over the questions and the ends of its 95 % bootstrap interval.
    """

    kind: str
    method: str
    objective: str
    questions: int
    figures: dict[str, Interval]


@dataclass(frozen=True, eq=False)
class Asked:
    """A question as it is put to a model.

    Attributes:
        image: [H, W, 3].
        target: A text.
        contrasts: Texts.
        others: Texts that the softmax of the relative confidence drop is over, besides the target; the one that it is
            compared with comes first.
    """

    image: NDArray[np.uint8]
    target: str
    contrasts: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says to it.

    Attributes:
        explanation: The map.
        drop: The relative confidence drop (see `faithfulness.confidence_drop`).
    """

    explanation: Explanation
    drop: float


def gamma_of(objective: str) -> float:
    """The comparison strength that an objective is compared with others at: the paper's, or the default of our own."""
    papers: float = MODES["finer-default"]["gamma"]
    return Options.gamma if objective in OF_MAPS else papers


def answers(
    explainer: Explainer,
    asked: Sequence[Asked],
    encodings: Sequence[ImageEncoding],
    setting: Setting,
    gamma: float | None,
) -> list[Answer]:
    """The answers to a batch of questions under a method and an objective.

    Args:
        explainer: The model.
        asked: The questions.
        encodings: Their images, encoded with the usual pooling.
        setting: The method or preset, and the objective.
        gamma: How strongly contrasts are subtracted; None: the objective at its own strength (`gamma_of`).
    """
    method, objective = setting
    # A preset brings its own objective. Without contrast it keeps its other options and takes the similarity.
    changes: dict[str, Any] = {"gamma": gamma_of(objective) if gamma is None else gamma}
    if method not in PRESETS or objective == "similarity":
        changes["objective"] = objective
    pooling = resolve_options({"method": method}).pooling
    own = encodings
    if pooling != Options.pooling:
        own = explainer.encode([question.image for question in asked], pooling=pooling)
    explanations = [
        encoding.explain(question.target, question.contrasts, method=method, **changes)
        for question, encoding in zip(asked, own, strict=True)
    ]
    masked = explainer.encode([faithfulness.without_hottest(e.image, e.heatmap) for e in explanations])
    drops = []
    for question, before, after in zip(asked, encodings, masked, strict=True):
        texts = explainer.embed([question.target, *question.others])
        drops.append(faithfulness.confidence_drop(_probabilities(before, texts), _probabilities(after, texts)))
    return [Answer(explanation, drop) for explanation, drop in zip(explanations, drops, strict=True)]


def _probabilities(encoding: ImageEncoding, texts: Tensor) -> NDArray[np.float32]:
    """The softmax over texts, given by their embeddings [K, D], at the model's logit scale: [K]."""
    scale = encoding.explainer.loaded.space.scale
    probabilities: NDArray[np.float32] = (scale * texts @ encoding.embedding).softmax(0).cpu().numpy()
    return probabilities


def presence(encoding: ImageEncoding, absent: str, present: str, contrast: str) -> Scores:
    """The scores of a target that is not there.

    Args:
        encoding: The image.
        absent: The target.
        present: The text that is true instead.
        contrast: What the absent one is told apart from. Where it is true, every caution is easy.

    Returns:
        The cosines of the first two, and 1 if the explanation of the absent one comes with a caution, else 0.
    """
    cosines = encoding.explainer.embed([absent, present]) @ encoding.embedding
    caution = encoding.explain(absent, [contrast]).caution
    return {_ABSENT: float(cosines[0]), _PRESENT: float(cosines[1]), "flagged": float(caution is not None)}


def rows_of(kind: str, scores: dict[Setting, list[Scores]], compared: Sequence[str]) -> list[Row]:
    """The rows of a kind of questions, and the differences of each method's objectives, question by question.

    Args:
        kind: The kind.
        scores: By method and objective, a dictionary of figures per question.
        compared: The figures that an objective can change.
    """
    rows = [_row(kind, setting, values) for setting, values in scores.items()]
    for method, (one, other) in itertools.product(dict.fromkeys(method for method, _ in scores), _DIFFERENCES):
        if {(method, one), (method, other)} <= set(scores):
            pairs = zip(scores[method, one], scores[method, other], strict=True)
            differences = [{name: a[name] - b[name] for name in compared if name in a} for a, b in pairs]
            rows.append(_row(kind, (method, f"{one} - {other}"), differences))
    return rows


def _row(kind: str, setting: Setting, scores: Sequence[Scores]) -> Row:
    columns = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    figures = {name: bootstrap(mean, column) for name, column in columns.items() if name not in (_ABSENT, _PRESENT)}
    if _ABSENT in columns:
        figures["auroc"] = bootstrap(metrics.auroc, columns[_PRESENT], columns[_ABSENT])
    method, objective = setting
    return Row(kind=kind, method=method, objective=objective, questions=len(scores), figures=figures)


def format_table(rows: Sequence[Row], figures: Sequence[str]) -> str:
    """The rows as a Markdown table, without the columns that none of them has.

    Args:
        rows: The rows.
        figures: Names of figures, in the order of the columns.
    """
    names = [name for name in figures if any(name in row.figures for row in rows)]
    cells = [
        [f"{row.questions} {row.kind}", row.method, row.objective, *(_cell(row.figures.get(n), n) for n in names)]
        for row in rows
    ]
    return markdown(["questions", "method", "objective", *names], cells, numbers=len(names))


def _cell(figure: Interval | None, name: str) -> str:
    if figure is None:
        return ""
    value, low, high = figure
    return f"{value:.3f}" if name in _NO_INTERVAL else f"{value:.3f} ({low:.3f}..{high:.3f})"
