"""Metrics of a heatmap whose right pixels are known, and of the scores behind it.

A heatmap is float32 [H, W] in 0..1 and the answer is bool [H, W]: the pixels that the question is about. A peak is the
(x, y) of the hottest pixel, or None if there is no heat at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

MASKED = 0.05  # the share of pixels that `without_hottest` paints over


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


def energy(heat: NDArray[np.float32], answer: NDArray[np.bool_]) -> float:
    """The share of the heat that lies on the answer (Score-CAM; Wang et al., CVPRW 2020).

    Returns:
        0..1, and 0 if there is no heat.
    """
    return float(heat[answer].sum() / heat.sum()) if heat.any() else 0.0


def average_precision(heat: NDArray[np.float32], answer: NDArray[np.bool_]) -> float:
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


def without_hottest(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image, uint8 [H, W, 3], with its hottest pixels painted in its mean colour.

    Their number is a share of `MASKED` of all pixels.
    """
    count = round(MASKED * heat.size)
    hottest = np.argpartition(-heat, count, axis=None)[:count]
    masked = image.reshape(-1, 3).copy()
    masked[hottest] = image.reshape(-1, 3).mean(0).round()
    return np.reshape(masked, image.shape)


def confidence_drop(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """The relative confidence drop of Finer-CAM (Zhang et al., CVPR 2025): (p_c - p*_c) - (p_d - p*_d).

    It is what masking takes from the target's probability, less what it takes from the contrast's.

    Args:
        before: Probabilities [target, contrast, ...] of the whole image.
        after: The same of the image without its hottest pixels.

    Returns:
        -2..2; the higher, the more the target alone depends on the hottest pixels.
    """
    lost = before - after
    return float(lost[0] - lost[1])


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that a positive scores above a negative: the area under the ROC curve. A tie counts as half."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.mean() - (len(positive) + 1) / 2) / len(negative))
