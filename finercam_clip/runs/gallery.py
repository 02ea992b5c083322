"""Pictures of a run: the paper's panel for each image, contact sheets, and a page that filters without a server."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip import checks, progress, render
from finercam_clip.concepts.words import normalised
from finercam_clip.errors import InputError
from finercam_clip.files import make_folder, staged, write_whole
from finercam_clip.paths import from_text, place, resolved, stored
from finercam_clip.runs.folder import dataset_folder, read_manifest, read_maps, read_p_values
from finercam_clip.runs.heat import alone_of, heatmap_of, region_of
from finercam_clip.runs.originals import Originals, originals_of
from finercam_clip.runs.records import TITLES, Record, geometry_in, main_mode
from finercam_clip.runs.store import is_address

PAGE = 48  # pictures per contact sheet
COLUMNS = 6
_TEMPLATE = Path(__file__).parent / "gallery.html"


@dataclass(frozen=True)
class Visualized:
    """What `visualize` wrote.

    Attributes:
        page: The page that filters.
        panels: How many panels there are.
        sheets: The contact sheets.
        skipped: Image name -> why it has no panel.
    """

    page: Path
    panels: int
    sheets: tuple[Path, ...]
    skipped: dict[str, str]


def visualize(
    run: str | Path, output: str | Path | None = None, *, dataset: str | Path | None = None, limit: int | None = None
) -> Visualized:
    """Writes panels/<name>.jpg for each image of a run, sheet-1.jpg and so on, and index.html.

    A panel shows the image, another image of the class most similar to its own, and the maps of the three modes over
    the image. In a run with a null, a line surrounds what is more than chance.

    Args:
        run: The folder that `generate` wrote.
        output: The folder to write to, by default RUN/pictures.
        dataset: Where the images lie now, if they were moved since.
        limit: Only the first so many images.

    Raises:
        InputError: There is no run, or the place cannot be written to.
    """
    if limit is not None:
        limit = checks.count(limit, "limit")
    every = read_manifest(run)
    records = every[:limit]
    if not records:
        raise InputError(f"the run in {run} has no images yet")
    originals = originals_of(run, dataset)
    if output is None and is_address(run):
        raise InputError(f"{run} is in an object store: name a folder of this machine for the pictures (--output)")
    folder = place(output, "the folder of the pictures") if output is not None else Path(run) / "pictures"
    _check_apart(folder, run)
    with staged(folder, map(originals.path, every)) as stage:
        pictures = _Pictures(run, originals, stage, _by_class(every))
        page = pictures.written(records)
    return Visualized(
        folder / page, len(pictures.rows), tuple(folder / name for name in pictures.sheets), pictures.skipped
    )


def _check_apart(folder: Path, run: str | Path) -> None:
    """Raises InputError where pictures would lie among the images of the data set, and be taken for them."""
    images = dataset_folder(run)
    if images is None or (not is_address(run) and resolved(folder).is_relative_to(resolved(run))):
        return
    if resolved(folder).is_relative_to(images):
        raise InputError(f"{folder} lies in the data set, whose images the pictures would be taken for: name another")


@dataclass(frozen=True)
class _Pictures:
    """What `visualize` writes.

    Attributes:
        run: The run.
        originals: The images.
        folder: Where the pictures are written.
        by_class: The records of each class, by its normalised name.
        rows: What the page knows of each image.
        sheets: The file names of the contact sheets.
        skipped: Image name -> why it has no panel.
    """

    run: str | Path
    originals: Originals
    folder: Path
    by_class: dict[str, list[Record]]
    rows: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def written(self, records: Sequence[Record]) -> str:
        """Writes them all, and returns the file name of the page."""
        panels = stored((record["image"] for record in records), ".jpg")
        thumbnails: list[render.Tile] = []
        for record in progress.each(records, "pictures"):
            try:
                image = np.asarray(self.originals.read(record))
            except InputError as error:
                self.skipped[record["image"]] = str(error)
                continue
            tiles = _tiles(self.run, record, image, self.by_class, self.originals)
            panel = self.folder / "panels" / from_text(panels[record["image"]])
            make_folder(panel.parent)
            render.write_picture(panel, render.panel(tiles))
            name, note = record["image"].split("/")[-1], f"p {record['probabilities'][record['target']]:.2f}"
            thumbnails.append(render.Tile(tiles[min(3, len(tiles) - 1)].image, name, record["target"], note=note))
            self.rows.append(_row(record, f"panels/{panels[record['image']]}"))
            if len(thumbnails) == PAGE:
                self._write_sheet(thumbnails)
                thumbnails = []
        if thumbnails:
            self._write_sheet(thumbnails)
        page = _page(self.rows, self.sheets, records[0])
        return write_whole(self.folder / "index.html", page.encode()).name

    def _write_sheet(self, tiles: list[render.Tile]) -> None:
        path = self.folder / f"sheet-{len(self.sheets) + 1}.jpg"
        self.sheets.append(render.write_picture(path, render.sheet(tiles, COLUMNS)).name)


def _by_class(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each class, by its normalised name."""
    by_class: dict[str, list[Record]] = {}
    for record in records:
        by_class.setdefault(normalised(record["target"]), []).append(record)
    return by_class


def _tiles(
    run: str | Path, record: Record, image: NDArray[np.uint8], by_class: dict[str, list[Record]], originals: Originals
) -> list[render.Tile]:
    """The tiles of one panel. `image` is [H, W, 3]."""
    small = render.shrunk(image) if max(image.shape[:2]) > render.TILE else image
    height, width = small.shape[:2]
    tiles = [render.Tile(small, "Image", record["target"], note=_scores(record, record["target"]))]
    if record["contrasts"]:
        nearest = record["contrasts"][0]
        example = _example(nearest, by_class, originals)
        if example is None:
            picture, note = render.blank((height, width)), f"{_scores(record, nearest)}\nno image of it"
        else:
            picture, note = render.fitted(example, (height, width)), _scores(record, nearest)
        tiles.append(render.Tile(picture, "Most similar class", nearest, note=note))
    geometry = replace(geometry_in(record), image=(height, width))
    maps, p_values = read_maps(run, record), read_p_values(run, record)
    for mode, grid in maps.items():
        alone, heat = alone_of(record, maps, grid), heatmap_of(record, maps, mode, (height, width))
        picture = render.overlay(small, heat, seen=geometry.seen)
        caption, note = _subtracted(record, mode)
        if p_values is not None and mode == main_mode(maps):
            picture = render.outlined(picture, region_of(record, p_values, (height, width)))
            note = f"{note}\np-value {record['p_value']:.3f}".lstrip()
        faint = 0 < render.share_of(np.maximum(grid, 0), alone) < render.FAINT
        tiles.append(render.Tile(picture, TITLES[mode], caption, note=f"nearly nothing\n{note}" if faint else note))
    return tiles


def _subtracted(record: Record, mode: str) -> tuple[str, str]:
    """The caption and the note of a mode: what it subtracts."""
    contrasts = {"baseline": [], "finer-compare": record["contrasts"][:1]}.get(mode, record["contrasts"])
    if not contrasts:
        return "the target alone", ""
    gamma = f"gamma {record['settings']['gamma']:g}"
    return f"against, {gamma}", "\n".join(f"{name} (p {record['probabilities'][name]:.2f})" for name in contrasts)


def _scores(record: Record, name: str) -> str:
    return f"{record['score']} {record['similarities'][name]:.3f}, p {record['probabilities'][name]:.2f}"


def _example(name: str, by_class: dict[str, list[Record]], originals: Originals) -> NDArray[np.uint8] | None:
    """The first image of a class that can be read, or None."""
    for record in by_class.get(normalised(name), []):
        try:
            return np.asarray(originals.read(record))
        except InputError:
            continue
    return None


def _row(record: Record, panel: str) -> dict[str, Any]:
    """What the page knows of an image."""
    return {
        "image": record["image"],
        "panel": panel,
        "class": record["target"],
        "score": round(record["probabilities"][record["target"]], 4),
        "predicted": next(iter(record["predicted"]), record["target"]),
        "contrasts": record["contrasts"],
    }


def _page(rows: list[dict[str, Any]], sheets: list[str], record: Record) -> str:
    """The page as one file: the template with the rows as JSON, which its script filters.

    Args:
        rows: What `_row` gives for each image.
        sheets: The file names of the contact sheets.
        record: Any record of the run. It names the model and the method.
    """
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")  # no text can end the script element
    links = " ".join(f'<a href="{html.escape(name)}">{html.escape(name)}</a>' for name in sheets)
    about = f"{record['model']['name']} ({record['model']['pretrained']}), {record['settings']['method']}"
    template = _TEMPLATE.read_text(encoding="utf-8")
    return template.replace("@ABOUT@", html.escape(about)).replace("@SHEETS@", links).replace("@ROWS@", data)
