"""Heatmaps and masks as PNG files of the image's own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finercam_clip.exports.images import Choice
from finercam_clip.files import make_folder, write_whole
from finercam_clip.opencv import cv2

HEAT, MASKS = "heat", "masks"


def to_masks(choice: Choice, folder: Path) -> int:
    """Writes heat/<image>.png (0..255 for 0..1) and masks/<image>.png (255 where it is hot, else 0).

    Returns:
        How many images there are.
    """
    count = 0
    for hot in choice.each():
        file = hot.file(".png")
        write_grey(folder / HEAT / file, np.round(hot.heat * 255).astype(np.uint8))
        write_grey(folder / MASKS / file, np.where(hot.hot, 255, 0).astype(np.uint8))
        count += 1
    return count


def write_grey(path: Path, values: NDArray[np.uint8]) -> Path:
    """Writes uint8 [H, W] as a PNG file of one channel."""
    make_folder(path.parent)
    return write_whole(path, cv2.imencode(".png", values)[1].tobytes())
