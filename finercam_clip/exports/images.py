"""The images of a run as exports see them: each with its heatmap and where it is hot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finercam_clip import checks
from finercam_clip.errors import InputError
from finercam_clip.exports.regions import Region, regions_of
from finercam_clip.paths import from_text, stored
from finercam_clip.render import peak_of
from finercam_clip.runs import each_record
from finercam_clip.runs.heat import heatmap_of
from finercam_clip.runs.records import TITLES, Record

THRESHOLD = 0.5  # of the hottest that a map can be


@dataclass(frozen=True, eq=False)
class Hot:
    """An image of a run.

    Attributes:
        record: What was asked, and the scores.
        heat: float32 [H, W] in 0..1.
        mode: Which of the run's maps it is.
        threshold: From where on it counts as hot.
    """

    record: Record
    heat: NDArray[np.float32]
    mode: str
    threshold: float

    @cached_property
    def regions(self) -> list[Region]:
        """Where it is hot, the hottest region first."""
        return regions_of(self.heat, self.threshold)

    @property
    def peak(self) -> tuple[int, int] | None:
        """(x, y) of the hottest pixel; None where nothing speaks for the target."""
        return peak_of(self.heat)

    def file(self, ending: str) -> str:
        """The image's name with another ending, as the path of a file within a folder."""
        name = self.record["image"]
        return from_text(stored([name], ending)[name])

    @property
    def probability(self) -> float:
        """Of the target, among its contrasts or all classes."""
        return float(self.record["probabilities"][self.record["target"]])


@dataclass(frozen=True)
class Choice:
    """What of a run is exported.

    Attributes:
        run: The place of the run.
        mode: Which of its maps; None for Finer-Default, or for the baseline where an image has no contrasts.
        threshold: From where on a pixel counts as hot, above 0 and up to 1.
    """

    run: str | Path
    mode: str | None = None
    threshold: float = THRESHOLD

    def checked(self) -> Choice:
        """The same. Raises InputError where it cannot be."""
        if self.mode is not None:
            checks.choice(self.mode, list(TITLES), "mode")
        return Choice(self.run, self.mode, checks.threshold(self.threshold, "the threshold"))

    def each(self) -> Iterator[Hot]:
        """The images of the run, one at a time.

        Raises:
            InputError: There is no run, it is damaged, or it has no such maps.
        """
        for record, maps in each_record(self.run):
            mode = self.mode or ("finer-default" if "finer-default" in maps else "baseline")
            if mode not in maps:
                raise InputError(f"{record['image']} has no contrasts, so there is no {mode}: its mode is baseline")
            yield Hot(record, heatmap_of(record, maps, mode), mode, self.threshold)

    def described(self, record: Record) -> dict[str, object]:
        """How the maps were made, ready for JSON."""
        model, settings = record["model"], record["settings"]
        return {
            "model": model["name"],
            "pretrained": model["pretrained"],
            "method": settings["method"],
            "gamma": settings["gamma"],
            "mode": self.mode or "finer-default",
            "threshold": self.threshold,
        }
