"""A signed map as it is measured: which part of it counts, and what lies between the cells of its grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finercam_clip.evaluation.protocol import Protocol
from finercam_clip.explainer import ImageEncoding
from finercam_clip.geometry import Geometry
from finercam_clip.opencv import cv2
from finercam_clip.render import positive

_FINER = 32  # how many times finer a grid is made where the pixels between its cells are not bicubic
_BETWEEN = {"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}

Grid = NDArray[np.float32]


def on_input(encoding: ImageEncoding, grid: Grid, protocol: Protocol) -> Grid:
    """A map on the pixels of the model's input, [H, W]."""
    geometry, size = encoding.geometry, encoding.geometry.size
    return _enlarged(grid, replace(geometry, image=size, resized=size, offset=(0, 0)), protocol)


def on_image(encoding: ImageEncoding, grid: Grid, protocol: Protocol) -> Grid:
    """A map on the pixels of the image, [H, W]."""
    return _enlarged(grid, encoding.geometry, protocol)


def _enlarged(grid: Grid, geometry: Geometry, protocol: Protocol) -> Grid:
    heat = _scaled(grid, protocol.scaling)
    if protocol.upsampling in _BETWEEN:
        shape = (grid.shape[1] * _FINER, grid.shape[0] * _FINER)
        heat = cv2.resize(heat, shape, interpolation=_BETWEEN[protocol.upsampling])
        resized, offset, size = (
            (_FINER * y, _FINER * x) for y, x in (geometry.resized, geometry.offset, geometry.size)
        )
        shift = (_FINER * geometry.shift[0], _FINER * geometry.shift[1])
        geometry = replace(geometry, resized=resized, offset=offset, size=size, shift=shift)
    return geometry.to_image(heat)


def _scaled(grid: Grid, scaling: str) -> Grid:
    """0..1; of the same order as the map, but for what is cut off."""
    if scaling == "positive":
        return positive(grid, float(np.abs(grid).max()))
    return positive(grid - grid.min(), float(np.ptp(grid)))
