"""Metrics of a heatmap whose right pixels, points or parts are known. For what masking does see `faithfulness`.

A heatmap is float32 [H, W], 0 and up, and the answer is bool [H, W]: the pixels that the question is about. A peak is
the (x, y) of the hottest pixel, or None if there is no heat at all. A point is (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

Heat = NDArray[np.floating[Any]]
Point = tuple[float, float]


def pointing(answer: NDArray[np.bool_], peak: tuple[int, int] | None) -> bool:
    """Whether the peak lies on the answer (the pointing game; Zhang et al., ECCV 2016)."""
    return peak is not None and bool(answer[peak[1], peak[0]])


def near(answer: NDArray[np.bool_], peak: tuple[int, int] | None, tolerance: float) -> bool:
    """Whether the peak lies at most `tolerance` pixels from the answer, as the pointing game has it in its paper."""
    return peak is not None and distance_to(answer, peak) <= tolerance


def distance_to(answer: NDArray[np.bool_], point: tuple[int, int]) -> float:
    """The distance from a point (x, y) to the nearest pixel of the answer, in pixels."""
    y, x = np.nonzero(answer)
    return float(np.hypot(x - point[0], y - point[1]).min())


def energy(heat: Heat, answer: NDArray[np.bool_]) -> float:
    """The share of the heat that lies on the answer (Score-CAM; Wang et al., CVPRW 2020).

    Returns:
        0..1, and 0 if there is no heat.
    """
    return float(heat[answer].sum() / heat.sum()) if heat.any() else 0.0


def average_precision(heat: Heat, answer: NDArray[np.bool_]) -> float:
    """The area under precision over recall if pixels are taken for the answer from the hottest down.

    Pixels of equal heat are taken together, as scikit-learn's average_precision_score does.

    Returns:
        0..1. A constant heatmap reaches the answer's share of the picture.
    """
    order = np.argsort(-heat, axis=None)
    hits = np.cumsum(answer.ravel()[order])
    ordered = heat.ravel()[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # the last pixel of each heat
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that a positive scores above a negative: the area under the ROC curve. A tie counts as half."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.mean() - (len(positive) + 1) / 2) / len(negative))


# --------------------------------------------------------------------------------------------------------------- points


def discs(points: Sequence[Point], radius: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of a picture, bool [H, W], whose middle is at most `radius` pixels from one of the points."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, np.bool_)
    for px, py in points:
        inside |= np.square(x - px) + np.square(y - py) <= radius * radius
    return inside


def part_heats(heat: Heat, parts: Mapping[str, Sequence[Point]], radius: float) -> dict[str, float]:
    """The mean heat within the discs about each part's points; 0 where these hold no pixel of the picture."""
    masks = {name: discs(points, radius, (heat.shape[0], heat.shape[1])) for name, points in parts.items()}
    return {name: float(heat[mask].mean()) if mask.any() else 0.0 for name, mask in masks.items()}


def nearest_part(peak: tuple[int, int] | None, parts: Mapping[str, Sequence[Point]]) -> str | None:
    """The part with the point nearest to the peak. Of several that are as near it is the first."""
    if peak is None or not parts:
        return None
    x, y = peak
    return min(parts, key=lambda name: min((px - x) ** 2 + (py - y) ** 2 for px, py in parts[name]))


# ---------------------------------------------------------------------------------------------------------- differences


def rank_of(name: str, heats: Mapping[str, float]) -> float:
    """The share of the other parts that are cooler than one; equal ones count half. Chance is 0.5.

    Args:
        name: The part, such as the one that differs most.
        heats: Part -> heat, of two parts at least.
    """
    others = np.array([heat for other, heat in heats.items() if other != name])
    return float(((others < heats[name]) + 0.5 * (others == heats[name])).mean())


def rank_correlation(heats: Sequence[float], truth: Sequence[float]) -> float:
    """Spearman's rank correlation of heat and truth, -1..1; 0 where one of them is the same everywhere."""
    if np.ptp(heats) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(spearmanr(heats, truth).statistic)


def agreement(heats: Mapping[str, float], effects: Mapping[str, float]) -> dict[str, float]:
    """How a map agrees with what parts truly do to the score that it explains.

    Args:
        heats: Part -> its heat.
        effects: Part -> how far the score falls without it.

    Returns:
        "causal rank", Spearman's correlation of heat and effect; "causal hit", 1 if the hottest part is the one with
        the largest effect.
    """
    hottest, strongest = (max(values, key=lambda part: values[part]) for values in (heats, effects))
    return {
        "causal rank": rank_correlation([heats[part] for part in effects], list(effects.values())),
        "causal hit": float(any(heats.values()) and hottest == strongest),
    }


def top_overlap(one: Heat, other: Heat, share: float) -> float:
    """The share of one map's hottest cells that are also the other's (CASE, 2025).

    If it is high for the maps of the two most probable classes, the map is the same whatever the class. Two maps that
    have nothing to do with each other reach `share`.

    Args:
        one: A signed map [h, w].
        other: Another of the same shape.
        share: Which share of the cells counts as hottest, at least one of them.
    """
    count = max(round(share * one.size), 1)
    first, second = (set(np.argsort(-grid, axis=None, kind="stable")[:count].tolist()) for grid in (one, other))
    return len(first & second) / count
