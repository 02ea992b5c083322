"""A table for spreadsheets: one row per image, those without maps included."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from finercam_clip.datasets import SEPARATOR
from finercam_clip.exports.images import Choice, Hot
from finercam_clip.files import write_whole
from finercam_clip.runs import read_unreadable
from finercam_clip.tables import defused

FILE = "table.csv"
_COLUMNS = (
    *("image", "path", "split", "target", "contrasts", "score", "similarity", "probability"),
    *("predicted", "predicted_probability", "peak_x", "peak_y"),
    *("regions", "x", "y", "width", "height", "heat", "error"),
)


def to_csv(choice: Choice, folder: Path) -> int:
    """Writes table.csv. x, y, width and height are the box of the hottest region, pixels; heat is its hottest value.

    Returns:
        How many rows it has.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    count = 0
    for hot in choice.each():
        writer.writerow(_row(hot))
        count += 1
    for name, why in read_unreadable(choice.run).items():
        writer.writerow({"image": defused(name), "error": defused(why)})
        count += 1
    write_whole(folder / FILE, buffer.getvalue().encode())
    return count


def _row(hot: Hot) -> dict[str, object]:
    record = hot.record
    row: dict[str, object] = {name: defused(record[name]) for name in ("image", "path", "target")}
    row |= {"split": record.get("split", ""), "contrasts": defused(SEPARATOR.join(record["contrasts"]))}
    row |= {"score": record["score"], "similarity": f"{record['similarities'][record['target']]:.4f}"}
    row |= {"probability": f"{hot.probability:.4f}", "regions": len(hot.regions)}
    if record["predicted"]:
        name, value = next(iter(record["predicted"].items()))
        row |= {"predicted": defused(name), "predicted_probability": f"{value:.4f}"}
    if hot.peak is not None:
        row |= dict(zip(("peak_x", "peak_y"), hot.peak, strict=True))
    if hot.regions:
        row |= dict(zip(("x", "y", "width", "height"), hot.regions[0].box, strict=True))
        row["heat"] = f"{hot.regions[0].score:.4f}"
    return row
