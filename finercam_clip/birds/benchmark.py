"""The benchmark of words on photographs: `evaluate birds`. Any CLIP can be asked.

The questions are those of `questions`. Where a part is, CUB-200-2011's points tell, one click per part and annotator.
So a map is judged by the part whose point is nearest to its peak, and by its heat within a disc about the part.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from finercam_clip import progress
from finercam_clip.birds.pictures import Photographs, read_photographs
from finercam_clip.birds.questions import KINDS, PhotoQuestion, make_questions
from finercam_clip.datasets import DataSet
from finercam_clip.errors import InputError
from finercam_clip.evaluation import metrics, rows
from finercam_clip.evaluation.rows import OBJECTIVES, Answer, Asked, Row, Scores, Setting
from finercam_clip.explainer import Explainer
from finercam_clip.models.catalogue import BIRDS, BUNDLED_MODELS
from finercam_clip.paths import read_text

FIGURES = ("pair accuracy", "nearest part", "within a tenth", "energy", "drop", "chance", "flagged", "auroc")
"""Of a `Row`.

* pair accuracy: how often the target is more similar to the image than the contrast is.
* nearest part: how often the point nearest to the map's peak, of all visible parts, is one of the part that differs.
* within a tenth: how often the peak is at most a tenth of the picture's side away from a point of that part.
* energy: the share of the heat within that distance.
* drop: relative confidence drop (see `faithfulness.confidence_drop`).
* chance: the discs' share of the picture.
* flagged, for absent targets: how often the explanation comes with a caution.
* auroc, for absent targets: of the cosine, true texts against false ones.
"""
SPECIES = BUNDLED_MODELS[BIRDS] / "species.txt"  # what the bundled model was trained on, a class per line
_COMPARED = ("nearest part", "within a tenth", "energy", "drop")
_RADIUS = 0.1  # of the picture's side
_BATCH = 8  # larger ones spend half of their time on fresh memory


def evaluate(
    explainer: Explainer,
    dataset: DataSet,
    *,
    kinds: Sequence[str] | None = None,
    methods: Sequence[str],
    objectives: Sequence[str] = OBJECTIVES,
    gamma: float | None = None,
    questions: int = 200,
    seed: int = 0,
    trained: bool = False,
) -> list[Row]:
    """Asks questions of each kind about photographs and scores every answer.

    Args:
        explainer: The model that is asked.
        dataset: CUB-200-2011 or a part of it.
        kinds: Of `questions.KINDS`; by default all whose words the model knows.
        methods: Methods and presets.
        objectives: Each is asked with each method.
        gamma: How strongly contrasts are subtracted; None: each objective at its own strength.
        questions: How many photographs are asked about, per kind, at most.
        seed: Draws the photographs and the questions.
        trained: Ask about the species that the bundled model was trained on, not about all others.

    Raises:
        InputError: There is no such kind, method or objective, no photograph to ask about, or the data set lacks boxes,
            points of parts or attributes.
    """
    if questions < 1:
        raise InputError(f"the number of questions is 1 or more, not {questions}")
    photographs = _asked_about(read_photographs(dataset), trained=trained)
    settings = list(itertools.product(methods, objectives))
    made = []
    for kind in kinds or KINDS:
        asked = list(make_questions(photographs, kind, questions, seed))
        if kind == "class" and kinds is None and not _knows(explainer, asked):
            continue
        if not asked:
            raise InputError(f"no photograph of {dataset.source} shows enough parts to ask questions of kind '{kind}'")
        scores: dict[Setting, list[Scores]] = {}
        for start in progress.each(range(0, len(asked), _BATCH), f"{kind} questions", unit="batch"):
            batch = asked[start : start + _BATCH]
            encodings = explainer.encode([question.image for question in batch])
            if kind == "absent":
                pairs = zip(batch, encodings, strict=True)
                told = (rows.presence(e, q.target, q.contrast, q.contrast) for q, e in pairs)
                scores.setdefault(("", ""), []).extend(told)
                continue
            put = [Asked(q.image, q.target, (q.contrast,), (q.contrast,)) for q in batch]
            for setting in settings:
                answers = rows.answers(explainer, put, encodings, setting, gamma)
                scored = [_score(question, answer) for question, answer in zip(batch, answers, strict=True)]
                scores.setdefault(setting, []).extend(scored)
        made += rows.rows_of(kind, scores, _COMPARED)
    return made


def trained_species(path: Path = SPECIES) -> frozenset[str]:
    """The classes of CUB-200-2011 that the bundled model was trained on, without their numbers."""
    return frozenset(line for line in read_text(path).splitlines() if line)


def _asked_about(photographs: Photographs, *, trained: bool) -> Photographs:
    """The photographs of the species that the bundled model was trained on, or of all others."""
    known = trained_species()
    chosen = {name for name in photographs.classes if (name.partition(".")[2] in known) == trained}
    some = photographs.of(chosen)
    if not len(some):
        which = "one" if trained else "another"
        raise InputError(f"none of the {len(photographs.classes)} species is {which} that birds was trained on")
    return some


def _knows(explainer: Explainer, asked: Sequence[PhotoQuestion]) -> bool:
    """Whether the model knows the words of questions."""
    try:
        explainer.embed(sorted({text for question in asked for text in (question.target, question.contrast)}))
    except InputError:
        return False
    return True


def _score(question: PhotoQuestion, answered: Answer) -> Scores:
    """The figures of one question. Those about a part are left out where no one part differs."""
    explanation = answered.explanation
    target, contrast = (explanation.similarities[text] for text in (question.target, question.contrast))
    figures = {"pair accuracy": float(target > contrast)}
    if question.part is not None:
        heat, peak, points = explanation.heatmap, explanation.peak, question.points[question.part]
        disc = metrics.discs(points, _RADIUS * max(heat.shape), (heat.shape[0], heat.shape[1]))
        figures |= {
            "nearest part": float(metrics.nearest_part(peak, question.points) == question.part),
            "within a tenth": float(metrics.pointing(disc, peak)),
            "energy": metrics.energy(heat, disc),
            "chance": float(disc.mean()),
        }
    return figures | {"drop": answered.drop}


def format_table(of: Sequence[Row]) -> str:
    """The rows as a Markdown table, without the columns that none of them has."""
    return rows.format_table(of, FIGURES)
