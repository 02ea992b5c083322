"""Pictures in which a place is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def blob_at(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.uint8]:
    """A bright blob on black, uint8 [H, W, 3]: its centre (y, x) and radii (y, x) in pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = ((y + 0.5 - centre[0]) / radii[0]) ** 2 + ((x + 0.5 - centre[1]) / radii[1]) ** 2
    return (255 * np.exp(-distance / 2)).astype(np.uint8)[..., None].repeat(3, 2)


def centroid(values: NDArray[np.float32]) -> tuple[float, float]:
    """Where the brightest part of [H, W] lies: (y, x), pixels."""
    weights = np.clip(values - 0.2 * values.max(), 0, None)
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    return float((weights * (y + 0.5)).sum() / weights.sum()), float((weights * (x + 0.5)).sum() / weights.sum())
