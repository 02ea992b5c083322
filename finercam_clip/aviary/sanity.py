"""Sanity checks: do the maps depend on the weights, on the question and on the picture?

A map that survives random weights, or that cannot tell equal from different, explains nothing. The first check is that
of Adebayo et al., *Sanity Checks for Saliency Maps* (NeurIPS 2018). The other two need a drawn world.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from finercam_clip import progress
from finercam_clip.aviary import drawing, world
from finercam_clip.aviary.questions import SIZE, BirdQuestion, make_question
from finercam_clip.errors import InputError
from finercam_clip.evaluation.controls import reset
from finercam_clip.explainer import Explainer
from finercam_clip.tables import markdown
from finercam_clip.towers import tower_of

Grid = NDArray[np.float32]  # signed map [h, w]


@dataclass(frozen=True)
class Check:
    """One figure of one check.

    Attributes:
        check: What was done.
        figure: What was measured.
        value: The figure's value.
        bound: What the value may reach at most, or with `above` must reach at least. None if only the trend matters.
        above: Whether the bound is a lower one.
    """

    check: str
    figure: str
    value: float
    bound: float | None
    above: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value is within the bound."""
        return self.bound is None or (self.value >= self.bound if self.above else self.value <= self.bound)


def check_sanity(explainer: Explainer, *, questions: int = 50, seed: int = 0) -> list[Check]:
    """All checks with the default options, on held-out questions that name one part.

    Args:
        explainer: A CLIP with open_clip's own ViT.
        questions: How many.
        seed: The first question's; the others follow one by one.

    Raises:
        InputError: The number of questions is not positive, or training draws from one of the seeds.
    """
    if questions < 1:
        raise InputError(f"the number of questions is 1 or more, not {questions}")
    birds = [make_question("attribute", seed + i) for i in range(questions)]
    return [
        *_random_weights(explainer, birds),
        _equal_traits(explainer, birds),
        *_permuted_colours(explainer, range(seed, seed + questions)),
    ]


def _random_weights(explainer: Explainer, questions: Sequence[BirdQuestion]) -> list[Check]:
    """Cascading randomisation: the layers of the image tower lose their weights one by one, the last layer first.

    The maps must change on the way. At the end their rank correlation with the true ones may be 0.2 at most.
    """
    own = explainer.loaded.tower
    visual = copy.deepcopy(own.visual)
    broken = Explainer(replace(explainer.loaded, tower=tower_of(visual, own.size)))
    before = [_grid(explainer, question) for question in questions]
    blocks = list(visual.transformer.resblocks)
    layers = [(f"block {i + 1}", block) for i, block in reversed(list(enumerate(blocks)))]
    first = visual.conv1
    checks = []
    for name, layer in progress.each([*layers, ("patch embedding", first)], "random weights", unit="layer"):
        reset(layer)
        after = [_grid(broken, question) for question in questions]
        value = float(np.mean([_rank_correlation(a, b) for a, b in zip(before, after, strict=True)]))
        bound = 0.2 if layer is first else None
        checks.append(Check(f"random weights, output down to {name}", "rank correlation of maps", value, bound))
    return checks


def _equal_traits(explainer: Explainer, questions: Sequence[BirdQuestion]) -> Check:
    """If the contrast says the same in other words and gamma is 1, the map must be faint beside a real contrast's."""
    ratios = []
    for question in progress.each(questions, "equal traits", unit="question"):
        encoding = explainer.encode(question.scene.image)
        same = question.target.removeprefix("a bird with ")
        empty, real = (encoding.explain(question.target, [text], gamma=1.0).grid for text in (same, question.contrast))
        ratios.append(float(max(empty.max(), 0) / real.max()))
    return Check(
        "the same trait in other words", "largest value / that of a real contrast", float(np.median(ratios)), 0.35
    )


def _permuted_colours(explainer: Explainer, seeds: range) -> list[Check]:
    """If each bird is drawn again with its colours permuted, the answers must permute too and the maps must stay."""
    colours = list(world.COLOURS)
    followed, correlations = [], []
    for seed in progress.each(seeds, "colours permuted", unit="bird"):
        rng = np.random.default_rng((seed, len(colours)))
        bird, part = world.sample_bird(rng), str(rng.choice(world.PARTS))
        renamed = dict(zip(colours, (str(colour) for colour in rng.permutation(colours)), strict=True))
        permuted = world.Bird(tuple(renamed.get(value, value) for value in bird.values))
        other = world.change_trait(bird, part, rng)[part]
        plain_best, plain_grid = _best_text(explainer, bird, part, seed, colours, other)
        names = [renamed[colour] for colour in colours]
        best, grid = _best_text(explainer, permuted, part, seed, names, renamed[other])
        followed.append(float(best == plain_best))
        correlations.append(_rank_correlation(plain_grid, grid))
    return [
        Check("colours permuted", "answers that permute with them", float(np.mean(followed)), 0.9, above=True),
        Check("colours permuted", "rank correlation of maps", float(np.mean(correlations)), None),
    ]


def _best_text(
    explainer: Explainer, bird: world.Bird, part: str, seed: int, colours: Sequence[str], other: str
) -> tuple[int, Grid]:
    """The index of the colour that fits a part of a drawn bird best, and the map of its own colour against `other`."""
    encoding = explainer.encode(drawing.draw(bird, (seed, 0), size=SIZE).image)
    texts = [world.describe(((part, colour),)) for colour in colours]
    target, contrast = (world.describe(((part, colour),)) for colour in (bird[part], other))
    cosines = explainer.embed(texts) @ encoding.embedding
    return int(cosines.argmax()), encoding.explain(target, [contrast]).grid


def _grid(explainer: Explainer, question: BirdQuestion) -> Grid:
    return explainer.explain(question.scene.image, question.target, [question.contrast]).grid


def _rank_correlation(one: Grid, other: Grid) -> float:
    """Spearman's, over the cells of two maps."""
    return float(spearmanr(one, other, axis=None).statistic)


def format_table(checks: Sequence[Check]) -> str:
    """The checks as a Markdown table."""
    rows = []
    for check in checks:
        bound = "" if check.bound is None else f"{'at least' if check.above else 'at most'} {check.bound:g}"
        verdict = "ok" if check.passed else "FAILED"
        rows.append((check.check, check.figure, f"{check.value:.3f}", bound, verdict))
    return markdown(("check", "figure", "value", "must be", ""), rows, numbers=(2,))
