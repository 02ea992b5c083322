"""Where a heatmap is hot: regions, with their boxes, masks and outlines on the image's pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finercam_clip.opencv import cv2

Ring = list[tuple[int, int]]  # corners (x, y), the first again at the end


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of an image. Pixels that touch at a corner only belong to two.

    Attributes:
        box: (x, y, width, height), pixels.
        mask: bool [height, width], within the box.
        score: The hottest value in it, 0..1.
    """

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    score: float

    @property
    def area(self) -> int:
        """How many pixels it has."""
        return int(self.mask.sum())

    def whole_mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """bool [H, W], on the whole image of that size."""
        x, y, width, height = self.box
        mask = np.zeros(size, bool)
        mask[y : y + height, x : x + width] = self.mask
        return mask

    def rings(self) -> list[Ring]:
        """The outlines along the edges of pixels: first the outer one, then one per hole."""
        x, y = self.box[:2]
        rings = [[(x + left, y + top) for left, top in ring] for ring in _rings(self.mask)]
        return sorted(rings, key=lambda ring: -abs(signed_area(ring)))


def regions_of(heat: NDArray[np.float32], hot: NDArray[np.bool_]) -> list[Region]:
    """The connected regions of the pixels `hot` of a heatmap, both [H, W], the hottest first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hot.astype(np.uint8), connectivity=4)
    regions = []
    for i in range(1, count):
        x, y, width, height = (int(value) for value in stats[i, :4])
        window = slice(y, y + height), slice(x, x + width)
        mask = labels[window] == i
        regions.append(Region((x, y, width, height), mask, float(heat[window][mask].max())))
    return sorted(regions, key=lambda region: -region.score)


def signed_area(ring: Ring) -> float:
    """The area within a ring (the shoelace formula): its sign says which way round it goes."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2


def _rings(mask: NDArray[np.bool_]) -> Iterator[Ring]:
    """The closed lines between pixels that are in a mask and pixels that are not. The mask is always to the right."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, across = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}  # where a step of one pixel begins -> where it ends
    for y, x in zip(*map(np.ndarray.tolist, np.nonzero(down)), strict=True):
        begin, end = ((x, y), (x + 1, y)) if down[y, x] > 0 else ((x + 1, y), (x, y))
        ends.setdefault(begin, []).append(end)
    for y, x in zip(*map(np.ndarray.tolist, np.nonzero(across)), strict=True):
        begin, end = ((x, y + 1), (x, y)) if across[y, x] > 0 else ((x, y), (x, y + 1))
        ends.setdefault(begin, []).append(end)
    while ends:
        start = next(iter(ends))
        ring, at = [start], start
        while True:
            step = _next(ends, ring[-2] if len(ring) > 1 else None, at)
            if len(ring) > 1 and _straight(ring[-2], at, step):
                ring[-1] = step
            else:
                ring.append(step)
            at = step
            if at == start:
                break
        if len(ring) > 3 and _straight(ring[-2], ring[0], ring[1]):
            ring = [*ring[1:-1], ring[1]]
        yield ring


def _next(
    ends: dict[tuple[int, int], list[tuple[int, int]]], before: tuple[int, int] | None, at: tuple[int, int]
) -> tuple[int, int]:
    """The step to take, which is taken away. Where pixels touch at a corner, it leads from one to the other.

    So no ring touches itself: what the two enclose is a ring of its own, a hole.
    """
    steps = ends[at]
    step = steps[0]
    if len(steps) > 1 and before is not None:
        step = min(steps, key=lambda to: (at[0] - before[0]) * (to[1] - at[1]) - (at[1] - before[1]) * (to[0] - at[0]))
    steps.remove(step)
    if not steps:
        del ends[at]
    return step


def _straight(one: tuple[int, int], two: tuple[int, int], three: tuple[int, int]) -> bool:
    return (two[0] - one[0]) * (three[1] - two[1]) == (two[1] - one[1]) * (three[0] - two[0])
