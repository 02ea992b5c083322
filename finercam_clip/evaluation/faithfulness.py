"""Faithfulness: what a model loses if the pixels go that a heatmap calls hot. Pictures and scores come from outside.

Pixels go from the hottest down. Pixels of equal heat go row by row, from the top left. What takes their place is a
`FILLS`, and the share that goes is a share of all pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip.opencv import cv2

Picture = NDArray[np.floating[Any]]  # [H, W, C]

MASKED = 0.05  # the share of pixels that `without_hottest` paints over
_BLUR = 20  # the blur's standard deviation is the picture's longer side over this


def ranks(heat: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """How many pixels go before each one: 0 for the hottest, [H, W] as the heat."""
    order = np.argsort(-heat, axis=None, kind="stable")
    places = np.empty(heat.size, np.int64)
    places[order] = np.arange(heat.size)
    return places.reshape(heat.shape)


def count_of(share: float, pixels: int) -> int:
    """How many pixels a share of them is."""
    return round(share * pixels)


def hottest(heat: NDArray[np.floating[Any]], share: float) -> NDArray[np.bool_]:
    """The hottest pixels of a heatmap, bool [H, W].

    Args:
        heat: [H, W].
        share: How many of all pixels, 0..1.
    """
    return ranks(heat) < count_of(share, heat.size)


def black(picture: Picture) -> Picture:
    """Black, where 0 is black."""
    return np.zeros_like(picture)


def mean_colour(picture: Picture) -> Picture:
    """The picture's mean colour everywhere."""
    return np.broadcast_to(picture.mean((0, 1)), picture.shape).astype(picture.dtype)


def blurred(picture: Picture) -> Picture:
    """The picture under a Gaussian blur of a twentieth of its longer side."""
    result: Picture = cv2.GaussianBlur(picture, (0, 0), max(picture.shape[:2]) / _BLUR, borderType=cv2.BORDER_REFLECT)
    return result


FILLS: dict[str, Callable[[Picture], Picture]] = {"black": black, "mean": mean_colour, "blur": blurred}


def without(picture: Picture, heat: NDArray[np.floating[Any]], share: float, fill: str) -> Picture:
    """The picture, float [H, W, C], without the hottest share of its pixels. `fill` is one of `FILLS`."""
    return np.where(hottest(heat, share)[..., None], FILLS[fill](picture), picture)


def without_hottest(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image, uint8 [H, W, 3], with its hottest pixels, a share of `MASKED`, painted in its mean colour."""
    masked: NDArray[np.uint8] = without(image.astype(np.float64), heat, MASKED, "mean").round().astype(np.uint8)
    return masked


def confidence_drop(before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]]) -> float:
    """The relative confidence drop of Finer-CAM (Zhang et al., CVPR 2025, eq. 10): (p_c - p*_c) - (p_d - p*_d).

    It is what masking takes from the target's probability, less what it takes from the contrast's.

    Args:
        before: Probabilities [target, contrast, ...] of the whole image.
        after: The same of the image without its hottest pixels.

    Returns:
        -2..2; the higher, the more the target alone depends on the hottest pixels.
    """
    lost = before - after
    return float(lost[0] - lost[1])


def softmax(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities of scores [..., K] at the model's logit scale, in double precision."""
    powers = np.exp(np.asarray(scores, np.float64) - scores.max(-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return probabilities


def area(shares: Sequence[float], values: Sequence[float]) -> float:
    """The area under a curve by the trapezoid rule, as deletion and insertion have it (Petsiuk et al., BMVC 2018).

    Args:
        shares: Of the pixels, ascending from 0 to 1.
        values: What was measured at each.
    """
    x, y = np.asarray(shares, float), np.asarray(values, float)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
