"""The aviary's questions and their exact answers: does the model tell the pair apart, and does the map lie on the part?

A question is a held-out bird, a text that is true of it (the target) and the same text with one trait changed (the
contrast). The mask of the part that the changed trait is about is the answer, to the pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from finercam_clip.aviary import world
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.explanation import Explanation
from finercam_clip.options import PRESETS

KINDS = {
    "attribute": "one part named: a red crown against a blue crown",
    "species": "three parts named, one differs",
    "unseen": "as species, with a combination of traits that training never saw",
    "two birds": "one part named; the contrast is true of the other bird in the picture",
    "absent": "one part named, and the target is not in the picture",
}
SIZE = 256  # pixels of a question's picture
FIGURES = (
    "pair accuracy",
    "pointing",
    "near",
    "energy",
    "precision",
    "drop",
    "chance",
    "flagged",
    "auroc",
)  # of a `Row`
MASKED = 0.05  # the share of pixels that the relative confidence drop takes away
_BATCH = 32
_SMALLEST = 0.002  # of the picture: a part that twigs and other parts leave less of is not asked about

Interval = tuple[float, float, float]  # mean, and the ends of its 95 % bootstrap interval


@dataclass(frozen=True)
class Question:
    """Where does `scene` say `target` and not `contrast`?

    part, answer: what the changed trait is about, and its pixels, bool [H, W].
    siblings: the target with every other value of the changed trait, the contrast first (and, of an absent target, the
    one that is true instead last).
    """

    kind: str
    scene: world.Scene
    target: str
    contrast: str
    part: str
    answer: NDArray[np.bool_]
    siblings: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One kind of question under one method and objective: the mean of every figure, with its interval.

    pair accuracy: how often the target's similarity is above the contrast's. pointing: how often the heatmap's peak is
    in the part. near: the same with a tolerance (the pointing game has one, Zhang et al., ECCV 2016) of half a cell
    of the grid: finer a map cannot speak. energy: the part's share of the heat. precision: average precision of the
    heatmap as a detector of the part's pixels. drop: relative confidence drop (see `confidence_drop`). chance: the
    part's share of the picture.
    For absent targets, under any method: flagged: how often the explanation comes with a caution. auroc: of the cosine,
    texts that are true of the picture against the absent targets.
    An objective "finer - similarity" holds the differences of the two, question by question.
    """

    kind: str
    method: str
    objective: str
    questions: int
    figures: dict[str, Interval]


def make_question(kind: str, seed: int) -> Question:
    """The question of a kind with a held-out seed, 0 .. world.TRAINING_SEEDS - 1.

    Raises:
        InputError: no such kind, or a seed that training draws from.
    """
    if kind not in KINDS:
        raise InputError(f"there are no questions of kind '{kind}'; there are {', '.join(KINDS)}")
    if not 0 <= seed < world.TRAINING_SEEDS:
        raise InputError(f"seeds of held-out questions are 0 .. {world.TRAINING_SEEDS - 1}, not {seed}")
    return next(question for question in _attempts(kind, seed) if question is not None)


def _attempts(kind: str, seed: int) -> Iterator[Question | None]:
    """Questions from a seed until one can be asked: None where the part can hardly be seen."""
    stream = list(KINDS).index(kind)
    for attempt in range(1_000):
        key = (seed, stream, attempt)
        rng = np.random.default_rng(key)
        bird = world.sample_bird(rng)
        parts = [str(part) for part in rng.permutation(world.PARTS)[: 3 if kind in ("species", "unseen") else 1]]
        slots = [str(rng.choice([slot for slot in world.SLOTS if world.part_of(slot) == part])) for part in parts]
        if kind == "unseen":
            pair = world.UNSEEN_PAIRS[rng.integers(len(world.UNSEEN_PAIRS))]
            slots = [*pair, next(slot for slot in slots if world.part_of(slot) not in pair)]
            if not world.is_unseen(tuple((slot, bird[slot]) for slot in pair)):
                yield None
                continue
        changed = slots[rng.integers(len(slots))]
        others = [str(value) for value in rng.permutation(world.SLOTS[changed]) if value != bird[changed]]
        birds: tuple[world.Bird, ...] = (bird,)
        if kind == "two birds":
            birds = (bird, world.sample_bird(rng).with_trait(changed, others[0]))
        scene = world.draw(birds, key, size=SIZE)
        answer = scene.masks[0][world.part_of(changed)]
        if answer.mean() < _SMALLEST:
            yield None
            continue
        own = bird[changed]
        if kind == "absent":
            own, others = others[0], [*others[1:], own]
        target, *siblings = (
            world.describe(tuple((slot, value if slot == changed else bird[slot]) for slot in slots))
            for value in (own, *others)
        )
        yield Question(
            kind=kind,
            scene=scene,
            target=target,
            contrast=siblings[0],
            part=world.part_of(changed),
            answer=answer,
            siblings=tuple(siblings),
        )


def average_precision(heat: NDArray[np.float32], answer: NDArray[np.bool_]) -> float:
    """Area under precision over recall when pixels are called the part from the hottest down: 0..1, chance = its share.

    Pixels of equal heat are called together, as scikit-learn's average_precision_score does.
    """
    order = np.argsort(-heat, axis=None)
    hits = np.cumsum(answer.ravel()[order])
    ordered = heat.ravel()[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last pixel of each heat
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that a positive scores above a negative (ties half): area under the ROC curve."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.mean() - (len(positive) + 1) / 2) / len(negative))


def without_hottest(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image with its hottest pixels, a share of `MASKED`, painted in its mean colour."""
    count = round(MASKED * heat.size)
    hottest = np.argpartition(-heat, count, axis=None)[:count]
    masked = image.reshape(-1, 3).copy()
    masked[hottest] = image.reshape(-1, 3).mean(0).round()
    return np.reshape(masked, image.shape)


def confidence_drop(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Relative confidence drop of Finer-CAM, (p_c - p*_c) - (p_d - p*_d): what masking takes from the target's
    probability beyond what it takes from the contrast's.

    before, after: probabilities [target, contrast, ...] of the whole image and without its hottest pixels.
    """
    lost = before - after
    return float(lost[0] - lost[1])


def evaluate(
    explainer: Explainer,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    methods: Sequence[str],
    objectives: Sequence[str] = ("similarity", "finer"),
    questions: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Asks `questions` held-out questions of each kind, seeds `seed`, `seed` + 1, ..., and scores every answer.

    Raises:
        InputError: there are no such kinds, methods, objectives or seeds.
    """
    if questions < 1:
        raise InputError(f"the number of questions is 1 or more, not {questions}")
    asked = [(method, objective) for method in methods for objective in objectives]
    rows = []
    for kind in kinds:
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for start in range(0, questions, _BATCH):
            progress(f"{kind}: {start} of {questions}")
            batch = [make_question(kind, seed + i) for i in range(start, min(start + _BATCH, questions))]
            scores = {("", ""): _presence(explainer, batch)} if kind == "absent" else _scores(explainer, batch, asked)
            for key, new in scores.items():
                found.setdefault(key, []).extend(new)
        for method in methods if kind != "absent" and {"finer", "similarity"} <= set(objectives) else ():
            pairs = zip(found[method, "finer"], found[method, "similarity"], strict=True)
            gained = ("pointing", "near", "energy", "precision", "drop")
            found[method, "finer - similarity"] = [{name: a[name] - b[name] for name in gained} for a, b in pairs]
        rows += [_row(kind, method, objective, scores) for (method, objective), scores in found.items()]
    return rows


def _scores(
    explainer: Explainer, batch: Sequence[Question], asked: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[dict[str, float]]]:
    """The figures of every question of a batch under every (method, objective)."""
    images = [question.scene.image for question in batch]
    whole = explainer.encode(images)
    embedded = [explainer.embed([question.target, *question.siblings]) for question in batch]
    scores = {}
    for method, objective in asked:
        # A preset brings its own objective; without contrast it is the same with the target's similarity.
        objectives: dict[str, Any] = {} if method in PRESETS and objective == "finer" else {"objective": objective}
        encodings = explainer.encode(images, pooling="mean") if _means(method) else whole
        explanations = [
            encoding.explain(question.target, [question.contrast], method=method, **objectives)
            for question, encoding in zip(batch, encodings, strict=True)
        ]
        masked = explainer.encode([without_hottest(e.image, e.heatmap) for e in explanations])
        scores[method, objective] = [
            _score(question, explanation, _probabilities(before, texts), _probabilities(after, texts))
            for question, explanation, texts, before, after in zip(
                batch, explanations, embedded, whole, masked, strict=True
            )
        ]
    return scores


def _means(method: str) -> bool:
    return PRESETS.get(method, {}).get("pooling") == "mean"


def _score(
    question: Question, explanation: Explanation, before: NDArray[np.float32], after: NDArray[np.float32]
) -> dict[str, float]:
    heat, answer, peak = explanation.heatmap, question.answer, explanation.peak
    tolerance = max(answer.shape) / max(explanation.grid.shape) / 2
    target, contrast = (explanation.similarities[text] for text in (question.target, question.contrast))
    figures = {
        "pair accuracy": float(target > contrast),
        "pointing": float(peak is not None and answer[peak[1], peak[0]]),
        "near": float(peak is not None and _distance(answer, peak) <= tolerance),
        "energy": float(heat[answer].sum() / heat.sum()) if peak is not None else 0.0,
        "precision": average_precision(heat, answer),
        "drop": confidence_drop(before, after),
        "chance": float(answer.mean()),
    }
    if question.kind == "two birds":  # both texts are true
        del figures["pair accuracy"]
    return figures


def _distance(answer: NDArray[np.bool_], point: tuple[int, int]) -> float:
    """From (x, y) to the nearest pixel of the answer, in pixels."""
    y, x = np.nonzero(answer)
    return float(np.hypot(x - point[0], y - point[1]).min())


def _presence(explainer: Explainer, batch: Sequence[Question]) -> list[dict[str, float]]:
    """For absent targets: their cosine, that of the text that is true instead, and whether the explanation warns."""
    scores = []
    for question, encoding in zip(batch, explainer.encode([q.scene.image for q in batch]), strict=True):
        cosines = explainer.embed([question.target, *question.siblings]) @ encoding.embedding
        caution = encoding.explain(question.target, [question.contrast]).caution
        scores.append(
            {"absent": float(cosines[0]), "present": float(cosines[-1]), "flagged": float(caution is not None)}
        )
    return scores


def _probabilities(encoding: ImageEncoding, texts: Tensor) -> NDArray[np.float32]:
    scale = encoding.explainer.loaded.space.scale
    probabilities: NDArray[np.float32] = (scale * texts @ encoding.embedding).softmax(0).cpu().numpy()
    return probabilities


def _row(kind: str, method: str, objective: str, scores: Sequence[dict[str, float]]) -> Row:
    columns = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    picks = np.random.default_rng(0).integers(0, len(scores), (1000, len(scores)))

    def interval(figure: Callable[..., float], *names: str) -> Interval:
        low, high = np.percentile([figure(*(columns[name][pick] for name in names)) for pick in picks], (2.5, 97.5))
        return figure(*(columns[name] for name in names)), float(low), float(high)

    def mean(values: NDArray[np.float64]) -> float:
        return float(values.mean())

    figures = {name: interval(mean, name) for name in columns if name not in ("absent", "present")}
    if kind == "absent":
        figures["auroc"] = interval(auroc, "present", "absent")
    return Row(kind, method, objective, len(scores), figures)


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, without the columns that none of them has."""
    names = [name for name in FIGURES if any(name in row.figures for row in rows)]
    lines = [
        f"| questions | method | objective | {' | '.join(names)} |",
        "|---|---|---|" + "---:|" * len(names),
    ]
    for row in rows:
        cells = [_cell(row.figures.get(name), interval=name != "chance") for name in names]
        lines.append(f"| {row.questions} {row.kind} | {row.method} | {row.objective} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Interval | None, *, interval: bool) -> str:
    if figure is None:
        return ""
    mean, low, high = figure
    return f"{mean:.3f} ({low:.3f}..{high:.3f})" if interval else f"{mean:.3f}"
