"""The aviary's benchmark: does the model tell two texts apart, and does the map lie on the part that differs?

The questions are those of `questions`; the answer to each is known to the pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

from finercam_clip import progress
from finercam_clip.aviary.causal import agreement, swaps_of
from finercam_clip.aviary.questions import KINDS, BirdQuestion, make_question
from finercam_clip.errors import InputError
from finercam_clip.evaluation import metrics, rows
from finercam_clip.evaluation.rows import OBJECTIVES, Answer, Asked, Row, Scores, Setting
from finercam_clip.explainer import Explainer

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
)
"""Of a `Row`.

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
# The figures that an objective can change.
_COMPARED = ("pointing", "near", "energy", "precision", "drop", "causal rank", "causal hit")
_BATCH = 32


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
    made = []
    for kind in kinds:
        scores: dict[Setting, list[Scores]] = {}
        for start in progress.each(range(0, questions, _BATCH), f"{kind} questions", unit="batch"):
            batch = [make_question(kind, seed + i) for i in range(start, min(start + _BATCH, questions))]
            new = (
                {("", ""): _presence(explainer, batch)}
                if kind == "absent"
                else _scores(explainer, batch, settings, gamma, causal=causal, siblings=siblings)
            )
            for setting, values in new.items():
                scores.setdefault(setting, []).extend(values)
        made += rows.rows_of(kind, scores, _COMPARED)
    return made


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
    asked = [Asked(q.scene.image, q.target, q.siblings if siblings else (q.contrast,), q.siblings) for q in batch]
    encodings = explainer.encode([question.image for question in asked])
    swaps = [
        swaps_of(explainer, question, encoding.embedding, explainer.embed([question.target, question.contrast]))
        if causal
        else None
        for question, encoding in zip(batch, encodings, strict=True)
    ]
    scores = {}
    for setting in settings:
        answers = rows.answers(explainer, asked, encodings, setting, gamma)
        scores[setting] = [_score(question, answer) for question, answer in zip(batch, answers, strict=True)]
        for score, question, answer, swap in zip(scores[setting], batch, answers, swaps, strict=True):
            if swap is not None:
                options = answer.explanation.options
                effects = swap.effects(options.objective, options.gamma)
                score |= agreement(answer.explanation.heatmap, question, effects)
    return scores


def _score(question: BirdQuestion, answered: Answer) -> Scores:
    """The figures of one question."""
    explanation = answered.explanation
    heat, answer, peak = explanation.heatmap, question.answer, explanation.peak
    half_a_cell = max(answer.shape) / max(explanation.grid.shape) / 2
    target, contrast = (explanation.similarities[text] for text in (question.target, question.contrast))
    figures = {
        "pair accuracy": float(target > contrast),
        "pointing": float(metrics.pointing(answer, peak)),
        "near": float(metrics.near(answer, peak, half_a_cell)),
        "energy": metrics.energy(heat, answer),
        "precision": metrics.average_precision(heat, answer),
        "drop": answered.drop,
        "chance": float(answer.mean()),
    }
    if question.kind == "two birds":  # both texts are true
        del figures["pair accuracy"]
    return figures


def _presence(explainer: Explainer, batch: Sequence[BirdQuestion]) -> list[Scores]:
    """The scores of absent targets: `rows.presence` of each question."""
    encodings = explainer.encode([question.scene.image for question in batch])
    return [
        rows.presence(encoding, question.target, question.siblings[-1], question.contrast)
        for question, encoding in zip(batch, encodings, strict=True)
    ]


def format_table(of: Sequence[Row]) -> str:
    """The rows as a Markdown table, without the columns that none of them has."""
    return rows.format_table(of, FIGURES)
