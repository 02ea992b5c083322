"""Where the maps of one image are hot: on the truth, and on the part in which two classes differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finercam_clip.datasets.truth import Point, Truth, differences
from finercam_clip.evaluation import metrics
from finercam_clip.evaluation.probing import Figures
from finercam_clip.evaluation.protocol import CLEAR
from finercam_clip.render import peak_of

Parts = dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Pair:
    """A class to compare with, because one part differs clearly.

    Attributes:
        other: The class, as the data set calls it.
        by_part: Part -> how much the two differ in it.
    """

    other: str
    by_part: dict[str, float]

    @property
    def part(self) -> str:
        """The part in which they differ most."""
        return max(self.by_part, key=lambda name: self.by_part[name])


@dataclass(frozen=True)
class Place:
    """Where the target of one image is.

    Attributes:
        region: Its pixels, bool [H, W]; None if that is not known.
        parts: Part -> its visible points.
        radius: Of the discs about them, pixels.
        discs: The pixels of all discs, bool [H, W]; None without parts.
    """

    region: NDArray[np.bool_] | None
    parts: Parts
    radius: float
    discs: NDArray[np.bool_] | None

    @classmethod
    def of(cls, truth: Truth, name: str, shape: tuple[int, int], radius: float) -> Place:
        """What is known of an image of (H, W) pixels; `radius` is a share of its longer side."""
        region, parts = truth.regions.get(name), truth.points.get(name, {})
        pixels = radius * max(shape)
        points = [point for places in parts.values() for point in places]
        mask = None if region is None else region.mask(shape)
        return cls(mask if mask is not None and mask.any() else None, parts, pixels, _discs(points, pixels, shape))

    def chances(self) -> Figures:
        """What a constant map reaches."""
        chances = {}
        if self.region is not None:
            chances["energy in region"] = chances["pointing"] = float(self.region.mean())
        if self.discs is not None:
            chances["energy in discs"] = float(self.discs.mean())
        return chances


def _discs(points: list[Point], radius: float, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    return metrics.discs(points, radius, shape) if points else None


def placed(heat: NDArray[np.float32], place: Place, half_a_cell: float) -> Figures:
    """Energy and pointing of one map."""
    figures: Figures = {}
    peak = peak_of(heat)
    if place.region is not None:
        figures["energy in region"] = metrics.energy(heat, place.region)
        figures["pointing"] = float(metrics.pointing(place.region, peak))
        figures["pointing near"] = float(metrics.near(place.region, peak, half_a_cell))
    if place.discs is not None:
        figures["energy in discs"] = metrics.energy(heat, place.discs)
        points = np.array([point for places in place.parts.values() for point in places])
        if peak is not None:
            distance = float(np.hypot(*(points - np.array(peak)).T).min())
            figures["peak to nearest part"] = distance / max(heat.shape)
    return figures


def compared_parts(place: Place, pair: Pair) -> Parts:
    """The visible parts of which it is known how much two classes differ there. Empty where the part that differs most
    is not among them, or no other."""
    parts = {name: points for name, points in place.parts.items() if name in pair.by_part}
    return parts if pair.part in parts and len(parts) > 1 else {}


def differing(heat: NDArray[np.float32], parts: Parts, radius: float, pair: Pair) -> Figures:
    """Whether the part in which two classes differ most is hot, of `compared_parts`."""
    heats = metrics.part_heats(heat, parts, radius)
    nearest = metrics.nearest_part(peak_of(heat), parts)
    figures = {
        "differing part: rank": metrics.rank_of(pair.part, heats),
        "differing part: nearest to the peak": float(nearest == pair.part),
    }
    if len(parts) > 2:
        truth = [pair.by_part[name] for name in parts]
        figures["differing part: rank correlation"] = metrics.rank_correlation([heats[n] for n in parts], truth)
    return figures


def clearest_pairs(truth: Truth, classes: list[str]) -> dict[str, Pair]:
    """Class -> the class where the part that differs most leads the next one most, where it leads by `CLEAR`."""
    pairs = {}
    for name in classes:
        best: tuple[float, Pair] | None = None
        for other in classes:
            if other == name or name not in truth.classes or other not in truth.classes:
                continue
            by_part = differences(truth.classes[name], truth.classes[other])
            values = sorted(by_part.values(), reverse=True)
            if len(values) > 1 and (best is None or values[0] - values[1] > best[0]):
                best = values[0] - values[1], Pair(other, by_part)
        if best is not None and best[0] >= CLEAR:
            pairs[name] = best[1]
    return pairs
