"""From a grid of patches back to the pixels of the input: undoes the resizing and cropping of preprocessing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """Where the model's input lies on the image. All values are in pixels.

    Attributes:
        image: (H, W) of the image.
        resized: (H, W) after preprocessing's resize.
        offset: (y, x) of the model's input in the resized image; negative where preprocessing pads.
        size: (H, W) of the model's input.
        stride: (height, width) of a cell; without one the cells share the input evenly.
        shift: (y, x) from the middle of a cell's block of the input to where the model really looks (`Tower.shift`).
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int] | None = None
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def seen(self) -> tuple[int, int, int, int]:
        """The box (x0, y0, x1, y1) of the image that the model saw; x1 and y1 are one past the last pixel."""
        box = []
        for axis in (1, 0):
            scale = self.image[axis] / self.resized[axis]
            low, high = self.offset[axis] * scale, (self.offset[axis] + self.size[axis]) * scale
            box.append((max(0, round(low)), min(self.image[axis], max(round(high), round(low) + 1))))
        (x0, x1), (y0, y1) = box
        return x0, y0, x1, y1

    def to_image(self, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map [h, w] over the model's input, on the image's own pixels [H, W]; 0 where the model saw nothing.

        Cell centres stay where the model looks. Between them the map is bicubic, so that a peak can lie between two
        cells. Values stay within the map's own range.
        """
        columns, rows = (self._cells(axis, grid.shape[axis]) for axis in (1, 0))
        # Along one axis, then the other: the same as in one go, and no pair of full-size coordinate maps.
        wide = _resample(grid, columns)
        full = _resample(np.ascontiguousarray(wide.T), rows).T
        np.clip(full, grid.min(), grid.max(), out=full)
        x0, y0, x1, y1 = self.seen
        result = np.zeros(self.image, np.float32)
        result[y0:y1, x0:x1] = full[y0:y1, x0:x1]
        return result

    def _cells(self, axis: int, cells: int) -> NDArray[np.float32]:
        """For each pixel of the image along an axis: its position in cells (0 is the first cell's centre)."""
        pixels = (np.arange(self.image[axis]) + 0.5) * (self.resized[axis] / self.image[axis]) - self.offset[axis]
        stride = self.size[axis] / cells if self.stride is None else self.stride[axis]
        return ((pixels - self.shift[axis]) / stride - 0.5).astype(np.float32)


def _resample(values: NDArray[np.float32], positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples each row of `values` [R, n] at `positions` (in cells), bicubic, edges repeated -> [R, len(positions)]."""
    last = values.shape[1] - 1
    positions = np.clip(positions, 0, last)
    base = np.floor(positions).astype(int)
    t = positions - base.astype(np.float32)
    # Keys' cubic convolution kernel with a = -1/2 (Catmull-Rom), the four weights of the neighbours -1, 0, 1, 2.
    kernel = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    result = np.zeros((len(values), len(positions)), np.float32)
    for shift, weight in zip((-1, 0, 1, 2), kernel, strict=True):
        result += weight * values[:, np.clip(base + shift, 0, last)]
    return result


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of what libraries write as one number for a square, or as two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def geometry_of(image: tuple[int, int], size: tuple[int, int], resize_mode: str, crop: float = 1.0) -> Geometry:
    """The geometry of open_clip's preprocessing (torchvision's Resize, CenterCrop and open_clip's padding).

    Args:
        image: (H, W) of the image, pixels.
        size: (H, W) of the model's input, pixels.
        resize_mode: "shortest", "longest" or "squash".
        crop: In mode "shortest", timm's crop_pct: the image is resized to floor(size / crop), then cropped.

    Raises:
        InputError: The mode is another.
    """
    height, width = image
    if resize_mode == "squash":
        return Geometry(image, size, (0, 0), size)
    if resize_mode == "shortest":
        if size[0] == size[1]:
            short = math.floor(size[0] / crop)
            resized = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        else:
            factor = max(math.floor(size[0] / crop) / height, math.floor(size[1] / crop) / width)
            resized = (round(height * factor), round(width * factor))
        offset = tuple(round((r - s) / 2.0) for r, s in zip(resized, size, strict=True))
    elif resize_mode == "longest":
        factor = min(size[0] / height, size[1] / width)
        resized = (round(height * factor), round(width * factor))
        offset = tuple(-((s - r) // 2) for r, s in zip(resized, size, strict=True))
    else:
        raise InputError(f"this model's resize mode {resize_mode!r} is not known; known are shortest, longest, squash")
    return Geometry(image, resized, (offset[0], offset[1]), size)
