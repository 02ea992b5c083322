"""The results of a run in the formats of other tools.

images    the images of a run, each with its heatmap and where it is hot
regions   hot regions: boxes, masks, outlines
coco      COCO: boxes and masks
geojson   QuPath: outlines
masks     PNG files: heatmaps and masks
fiftyone  FiftyOne: boxes and heatmaps
sheet     CSV: a row per image
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finercam_clip import checks
from finercam_clip.errors import InputError
from finercam_clip.exports.coco import to_coco
from finercam_clip.exports.fiftyone import to_fiftyone
from finercam_clip.exports.geojson import to_geojson
from finercam_clip.exports.images import SIGNIFICANCE, THRESHOLD, Choice
from finercam_clip.exports.masks import to_masks
from finercam_clip.exports.sheet import to_csv
from finercam_clip.files import staged
from finercam_clip.paths import place
from finercam_clip.runs.store import is_address

FORMATS: dict[str, Callable[[Choice, Path], int]] = {
    "coco": to_coco,
    "geojson": to_geojson,
    "masks": to_masks,
    "fiftyone": to_fiftyone,
    "csv": to_csv,
}


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        folder: Where it lies.
        images: How many images it is about.
    """

    folder: Path
    images: int


def export(
    run: str | Path,
    to: str,
    output: str | Path | None = None,
    *,
    mode: str | None = None,
    threshold: float | str = THRESHOLD,
) -> Exported:
    """Writes the results of a run in another tool's format: all of it, or nothing.

    Args:
        run: The place of the run.
        to: A name in `FORMATS`.
        output: The folder to write to, by default RUN/exports/<to>.
        mode: Which of the run's maps: "baseline", "finer-default" or "finer-compare"; None for Finer-Default, or for
            the baseline where an image has no contrasts.
        threshold: From where on a pixel counts as hot, above 0 and up to 1: 1 is the largest value that a map can have.
            Or "significance": what is more than chance counts, in a run with a null (`generate(..., null=...)`).

    Raises:
        InputError: There is no such format, no run, or the place cannot be written to.
    """
    write = FORMATS[checks.choice(to, list(FORMATS), "format")]
    choice = Choice(run, mode, threshold).checked()
    if output is None:
        if is_address(run):
            raise InputError(f"{run} is in an object store: name a folder of this machine to write to (--output)")
        output = place(run, "the run") / "exports" / to
    folder = place(output, "the folder of the export")
    with staged(folder) as stage:
        images = write(choice, stage)
        if not images:
            raise InputError(f"the run in {run} has no images yet")
    return Exported(folder, images)


__all__ = ["FORMATS", "SIGNIFICANCE", "THRESHOLD", "Choice", "Exported", "export"]
