"""Is a map more than chance? How it stands among the maps of other texts in the target's place: its null.

If the target is a text like those of the null, its map is one of 1 + K that could come in any order (exchangeability).
Then the rank of its highest cell is a p-value (`p_values`), which is exact whatever the maps look like. It is no
probability that the target is there: it says how often another text does as well on this picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]

LEVEL = 0.05  # a region stands out at this p-value and below
FEWEST = round(1 / LEVEL) - 1  # maps of a null: the least p-value of fewer is above `LEVEL`
HARDLY = 0.3  # a map that is less specific hardly depends on its text


@dataclass(frozen=True, eq=False)
class Significance:
    """How a map stands among the maps of its null.

    Attributes:
        texts: How many texts the null has, K.
        level: The p-value at which a region stands out, and above which the target may not be there.
        p_values: float32 [h, w], see `p_values`.
        z: float32 [h, w], the map less the null's mean, over its standard deviation, cell by cell: what any text lights
            up is gone. 0 where all texts say the same.
        specific: 0..1, how much of the target's own map is about the target: 1 less the rank correlation (Spearman) of
            its map with the null's mean map, contrasts aside. 0: any text gives this map.
    """

    texts: int
    level: float
    p_values: Maps
    z: Maps
    specific: float

    @property
    def p_value(self) -> float:
        """That of the highest cell, 1 / (1 + K) .. 1."""
        return float(self.p_values.min())

    @property
    def summary(self) -> str:
        """The figures in one line, for people."""
        return f"p-value {self.p_value:.3f} beside {self.texts} others, specific {self.specific:.2f}"

    @property
    def caution(self) -> str | None:
        """A warning in one sentence if the map is hardly about its target, or the target probably not there."""
        if self.specific < HARDLY:
            return "this map hardly depends on your text: most others give nearly the same"
        if self.p_value > self.level:
            return f"{self.p_value:.0%} of other texts light up as much: the target may not be there"
        return None

    @property
    def region(self) -> Maps:
        """float32 [h, w]: 1 in the cells that stand out, else 0."""
        return (self.p_values <= self.level).astype(np.float32)


def significance_of(grid: Maps, null: Maps, alone: Maps, *, weight: float = 1.0, level: float = LEVEL) -> Significance:
    """Compares a map with those of its null.

    Args:
        grid: The signed map, [h, w].
        null: Those of the same question with other targets, [K, h, w].
        alone: The map of the target without contrasts, [h, w].
        weight: What the target counts for in the map: grid = weight * alone - what is subtracted.
        level: See `Significance`.
    """
    mean, spread = null.mean(0, dtype=np.float64), null.std(0, ddof=1, dtype=np.float64)
    z = np.divide(grid - mean, spread, out=np.zeros_like(mean), where=spread > 0)
    own = weight * alone.astype(np.float64)
    shared = _rank_correlation(own, mean + own - grid)  # both without what is subtracted
    return Significance(
        texts=len(null),
        level=level,
        p_values=p_values(grid, null),
        z=z.astype(np.float32),
        specific=1 - max(shared, 0.0),
    )


def p_values(grid: Maps, null: Maps) -> Maps:
    """A p-value per cell, by the null distribution of the maximum over all cells.

    It is the single-step maxT of Westfall and Young (Resampling-Based Multiple Testing, 1993, sec. 2.3): whatever the
    map, the chance that any cell of a text like the others has p <= 0.05 is 5 % at most.

    A cell's height is what the map has there above the mean of all 1 + K maps, in the units of the map. It counts only
    where the map is above 0: what does not speak for the target does not stand out. What all maps have in common, such
    as the part of the contrasts, is not in the height. Nothing is divided, so that a text with a faint map stays faint.

    Args:
        grid: The signed map, [h, w].
        null: Those of the same question with other targets, [K, h, w].

    Returns:
        float32 [h, w], (1 + how many maps of the null reach that height anywhere) / (1 + K); 1 where the map is 0 or
        less.
    """
    maps: NDArray[np.float64] = np.concatenate([grid[None], null]).astype(
        np.float64
    )  # the map itself among them: all are treated alike
    heights: NDArray[np.float64] = np.where(maps > 0, maps - maps.mean(0), -np.inf)
    highest = np.sort(heights[1:].max((1, 2)))
    reached = len(highest) - np.searchsorted(highest, heights[0])
    p: Maps = np.where(grid > 0, (1 + reached) / (1 + len(highest)), 1).astype(np.float32)
    return p


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's, over the cells of two maps; 1 if one of them is the same everywhere."""
    ranks = [_ranks(one), _ranks(other)]
    constant = any(rank.min() == rank.max() for rank in ranks)
    return 1.0 if constant else float(np.asarray(np.corrcoef(ranks))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each value, [n]; equal values share the mean of theirs. (scipy.stats takes a second to import.)"""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: NDArray[np.int64] = counts.cumsum()
    return (last - (counts - 1) / 2)[which.ravel()]
