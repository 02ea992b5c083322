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
from finercam_clip.runs import each_record, read_p_values
from finercam_clip.runs.heat import heatmap_of, region_of
from finercam_clip.runs.records import TITLES, Record, main_mode

THRESHOLD = 0.5  # of the hottest that a map can be
SIGNIFICANCE = "significance"  # in place of a threshold


@dataclass(frozen=True, eq=False)
class Hot:
    """An image of a run.

    Attributes:
        record: What was asked, and the scores.
        heat: float32 [H, W] in 0..1.
        mode: Which of the run's maps it is.
        hot: bool [H, W], the pixels that count as hot.
    """

    record: Record
    heat: NDArray[np.float32]
    mode: str
    hot: NDArray[np.bool_]

    @cached_property
    def regions(self) -> list[Region]:
        """Where it is hot, the hottest region first."""
        return regions_of(self.heat, self.hot)

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
        threshold: From where on a pixel counts as hot, above 0 and up to 1; or "significance", for what is more than
            chance.
    """

    run: str | Path
    mode: str | None = None
    threshold: float | str = THRESHOLD

    def checked(self) -> Choice:
        """The same. Raises InputError where it cannot be."""
        if self.mode is not None:
            checks.choice(self.mode, list(TITLES), "mode")
        if self.threshold == SIGNIFICANCE:
            return self
        allowed = f"the threshold (or '{SIGNIFICANCE}')"
        return Choice(self.run, self.mode, checks.threshold(self.threshold, allowed))

    def each(self) -> Iterator[Hot]:
        """The images of the run, one at a time.

        Raises:
            InputError: There is no run, it is damaged, it has no such maps, or no p-values of them.
        """
        for record, maps in each_record(self.run):
            mode = self.mode or main_mode(maps)
            if mode not in maps:
                raise InputError(f"{record['image']} has no contrasts, so there is no {mode}: its mode is baseline")
            heat = heatmap_of(record, maps, mode)
            if isinstance(self.threshold, str):
                yield Hot(record, heat, mode, self._standing(record, mode, main_mode(maps)))
            else:
                yield Hot(record, heat, mode, heat >= self.threshold)

    def _standing(self, record: Record, mode: str, compared: str) -> NDArray[np.bool_]:
        """The pixels of an image that are more than chance."""
        if mode != compared:
            raise InputError(f"p-values are of the mode {compared}: leave --mode out, or give a threshold as 0.5")
        p_values = read_p_values(self.run, record)
        if p_values is None:
            raise InputError(
                f"the run in {self.run} has no p-values: make one with generate --null, or give a threshold as 0.5"
            )
        return region_of(record, p_values)

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
