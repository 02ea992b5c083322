"""Intervals: how far a figure would move if other questions had been asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Interval = tuple[float, float, float]  # the figure, and the lower and upper end of its 95 % interval
Column = NDArray[np.floating[Any]]  # one value per question, [n]

_RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)


def bootstrap(figure: Callable[..., float], *columns: Column) -> Interval:
    """A figure of all questions, with its 95 % percentile bootstrap interval (Efron, Annals of Statistics 1979).

    The questions are drawn with replacement, 1,000 times. All columns are drawn alike, so what belongs to one question
    stays together. The draws are the same in every call with as many questions.

    Args:
        figure: Makes one number of the columns, as `mean` does.
        columns: Values per question, each [n].
    """
    count = len(columns[0])
    draws = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    low, high = np.percentile([figure(*(column[draw] for column in columns)) for draw in draws], _PERCENTILES)
    return figure(*columns), float(low), float(high)


def share(hits: NDArray[np.bool_]) -> Interval:
    """The share of questions that are answered right, with Wilson's 95 % interval (JASA 1927).

    It holds for few questions and for shares of 0 and 1, too, where every bootstrap draw is the same.

    Args:
        hits: Whether each was, [n].
    """
    ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, "wilson")
    return float(hits.mean()), float(ends.low), float(ends.high)


def mean(values: Column) -> float:
    """The mean of one column."""
    return float(values.mean())
