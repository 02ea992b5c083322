"""The heatmap of a record: what people look at, and what exports are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finercam_clip import render
from finercam_clip.geometry import Geometry
from finercam_clip.objectives import OF_MAPS
from finercam_clip.runs.records import Record, geometry_in

Grid = NDArray[np.float32]
_WHOLE = ("finer", *OF_MAPS)  # objectives that take all of the target's map


def alone_of(record: Record, maps: dict[str, Grid], grid: Grid) -> Grid:
    """The map of the target alone, which a difference is shown in proportion to (see `render.full_scale`).

    Args:
        record: Of the image.
        maps: Its signed maps.
        grid: The one that is shown.
    """
    return maps["baseline"] if "baseline" in maps and record["settings"]["objective"] in _WHOLE else grid


def region_of(record: Record, p_values: Grid, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """The pixels that stand out from the null, bool [H, W], as `Explanation.region`.

    Args:
        record: Of the image.
        p_values: Of the cells of its map.
        size: See `heatmap_of`.
    """
    standing = (p_values <= record["level"]).astype(np.float32)
    region: NDArray[np.bool_] = _placed(record, size).to_image(standing) >= 0.5
    return region


def heatmap_of(
    record: Record, maps: dict[str, Grid], mode: str, size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """A heatmap, float32 [H, W] in 0..1, as `Explanation.heatmap`.

    Args:
        record: Of the image.
        maps: Its signed maps.
        mode: Which of them.
        size: (H, W) of the picture that it is to lie on, by default the image's own.
    """
    grid = maps[mode]
    return _placed(record, size).to_image(render.positive(grid, render.full_scale(grid, alone_of(record, maps, grid))))


def _placed(record: Record, size: tuple[int, int] | None) -> Geometry:
    geometry = geometry_in(record)
    return geometry if size is None else replace(geometry, image=size)
