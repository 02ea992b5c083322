"""Which scores tell two sets apart: how well, how surely, and which of them say something new. It knows no pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import false_discovery_control, mannwhitneyu, rankdata
from scipy.stats import t as student

Scores = NDArray[np.float64]  # [images, texts]
Column = NDArray[np.float64]  # one value per text

PERMUTATIONS = 1999
LEVEL = 0.05  # of a corrected p
FEWEST = 2  # images of a set: fewer have no spread
SMALL = 10  # images of a set: fewer hardly say anything
MOST_SAID = 0.75  # of a text that still says something new
_CHUNK = 200  # permutations at a time
_CLOSE = 1e-6  # what two equal sums may differ by
_STEPS = 60  # halvings of an interval's end


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well each text tells A from B, one value per text.

    Attributes:
        auroc: The share of pairs, a picture of A and one of B, in which that of A has the higher score; a tie is half.
        low: Lower end of its 95 % interval.
        high: Upper end.
        effect: Cohen's d: the difference of the means over the spread within the sets, above 0 where A has more.
        p: Of the Mann-Whitney test, both sides, for this text alone.
        corrected: The same corrected for the number of texts (Benjamini-Hochberg, false discovery rate).
        chance: How often the best of all texts does as well when the labels are shuffled (Westfall and Young).
        said: 0..1, how much of its effect is already said by the texts before it that say something new; all of it
            where one of them is a value of the same thing.
        order: The texts, best first: those that say something new, each the best when those before it are known; then
            the others by what is left of their effect.
        new: How many texts at the head of the order say something new.
    """

    auroc: Column
    low: Column
    high: Column
    effect: Column
    p: Column
    corrected: Column
    chance: Column
    said: Column
    order: NDArray[np.int64]
    new: int

    @property
    def by_chance(self) -> float:
        """How often the best text of shuffled labels does as well as the best one here."""
        return float(self.chance.min())

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Which texts differ, [texts]: none where the best one is no better than chance, else by corrected p."""
        return (self.corrected < LEVEL) & (self.by_chance < LEVEL)


def rank(a: Scores, b: Scores, kin: NDArray[np.int64], *, most: int, seed: int = 0) -> Ranking:
    """Ranks texts by how well their scores tell two sets apart.

    Args:
        a: Scores of one set, [images, texts]; `FEWEST` images at least.
        b: Of the other, with the same texts.
        kin: The group of each text, [texts]: those of one group are values of one thing, and at most one is new.
        most: How many texts are looked for that say something new.
        seed: Of the permutations.
    """
    ranks = rankdata(np.concatenate([a, b]), axis=0)
    auroc = (ranks[: len(a)].mean(0) - (len(a) + 1) / 2) / len(b)
    low, high = auroc_interval(auroc, len(a), len(b))
    p = np.asarray(mannwhitneyu(a, b, axis=0).pvalue)
    p = np.where(np.isfinite(p), p, 1.0)  # where all scores are the same
    plain = Ranking(
        auroc=auroc,
        low=low,
        high=high,
        effect=_gap(a, b)[1],
        p=p,
        corrected=np.asarray(false_discovery_control(p)),
        chance=_by_chance(ranks, len(a), seed),
        said=np.zeros_like(p),
        order=np.arange(len(p)),
        new=0,
    )
    chosen, said = _selected(a, b, plain.chance < LEVEL, kin, most)
    effect = np.abs(plain.effect)
    others = [i for i in np.lexsort((-effect, -effect * np.sqrt(1 - said))).tolist() if i not in set(chosen)]
    return replace(plain, said=said, order=np.array(chosen + others, np.int64), new=len(chosen))


def auroc_interval(auroc: Column, a: int, b: int) -> tuple[Column, Column]:
    """95 % intervals of areas under the ROC curve (Newcombe, Statistics in Medicine 2006, part 2, method 5).

    It holds for few images and for areas of 0 and 1, too, where the usual ones have no width.

    Args:
        auroc: The areas.
        a: How many images of one set they are of.
        b: And of the other.
    """
    z = float(ndtri(0.975))
    further = (a + b) / 2 - 1

    def width(area: Column) -> Column:
        own: Column = area * (1 - area) * (1 + further * ((1 - area) / (2 - area) + area / (1 + area))) / (a * b)
        return z * np.sqrt(own)

    ends = []
    for edge in (0.0, 1.0):
        outside, inside = np.full_like(auroc, edge), auroc.copy()
        for _ in range(_STEPS):
            middle = (outside + inside) / 2
            within = np.abs(auroc - middle) <= width(middle)
            inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def _by_chance(ranks: Scores, count: int, seed: int) -> Column:
    """p of each text when the best of all texts is taken whatever the labels (Westfall and Young 1993, sec. 2.3).

    The statistic is the rank sum of A over its spread. All texts are permuted alike, so that what they share stays.

    Args:
        ranks: Of all images, those of A first, [images, texts].
        count: How many images A has.
        seed: Of the permutations.
    """
    centred = ranks - ranks.mean(0)
    spread = np.sqrt(np.square(centred).sum(0))
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0).astype(np.float32)
    own = np.abs(scaled[:count].sum(0, dtype=np.float64))
    rng = np.random.default_rng(seed)
    highest: list[NDArray[np.float32]] = []
    for start in range(0, PERMUTATIONS, _CHUNK):
        labels = np.zeros((min(_CHUNK, PERMUTATIONS - start), len(ranks)), np.float32)
        labels[:, :count] = 1
        highest.append(np.abs(rng.permuted(labels, axis=1) @ scaled).max(1))
    ordered = np.sort(np.concatenate(highest))
    reached = len(ordered) - np.searchsorted(ordered, own * (1 - _CLOSE) - _CLOSE)
    chance: Column = (1 + reached) / (1 + PERMUTATIONS)
    return chance


def _selected(
    a: Scores, b: Scores, sure: NDArray[np.bool_], kin: NDArray[np.int64], most: int
) -> tuple[list[int], Column]:
    """Forward selection as in discriminant analysis (Rao's test of additional information, 1970).

    What a text says beyond others is its difference of means after the scores of the others are taken out of it by
    regression WITHIN the sets, where the labels play no part. Two traits that differ together, but vary on their own,
    both stay; the same trait in other words goes.

    Returns:
        The texts that say something new, and which share of each text's effect those before it say, [texts].
    """
    n, texts = len(a) + len(b), a.shape[1]
    gap, effect = _gap(a, b)
    within = np.concatenate([a - a.mean(0), b - b.mean(0)])
    least = _least(within, gap)
    chosen: list[int] = []
    said, left, error = np.zeros(texts), effect, 1 / len(a) + 1 / len(b)
    while len(chosen) < min(most, texts, n - 3):
        p = 2 * student.sf(np.abs(left) / np.sqrt(error), n - 2 - len(chosen))
        candidates = sure & (said < MOST_SAID) & (texts * p < LEVEL)
        candidates[chosen] = False
        if not candidates.any():
            break
        best = int(np.where(candidates, np.abs(effect), -1.0).argmax())
        chosen.append(best)
        own, step = within[:, best].copy(), gap[best]
        squares = max(float(own @ own), least[best])
        error += step * step / squares  # of the difference that the slope does not explain
        slopes = (own @ within) / squares
        gap, within = gap - slopes * step, within - np.outer(own, slopes)
        left = gap / np.sqrt(np.maximum(np.square(within).sum(0), least) / (n - 2 - len(chosen)))
        share = 1 - np.divide(np.square(left), np.square(effect), out=np.zeros_like(left), where=effect != 0)
        share = np.where(np.isin(kin, kin[chosen]), 1.0, share.clip(0, 1))
        said = np.where(np.isin(np.arange(texts), chosen), said, share)
    return chosen, said


def _gap(a: Scores, b: Scores) -> tuple[Column, Column]:
    """The difference of the means of each text, and Cohen's d."""
    gap = a.mean(0) - b.mean(0)
    within = np.concatenate([a - a.mean(0), b - b.mean(0)])
    squares = np.maximum(np.square(within).sum(0), _least(within, gap))
    return gap, gap / np.sqrt(squares / (len(within) - 2))


def _least(within: Scores, gap: Column) -> Column:
    """What rounding leaves of a sum of squares: nothing is divided by less."""
    least: Column = 1e-9 * (np.square(within).sum(0) + np.square(gap)) + np.finfo(float).tiny
    return least
