"""Pictures of a run: the paper's panel for each image, contact sheets, and a page that filters without a server."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip import progress, render
from finercam_clip.concepts.classes import normalised
from finercam_clip.errors import InputError
from finercam_clip.files import make_folder, write_whole
from finercam_clip.images import read_image
from finercam_clip.runs.folder import Record, geometry_in, images_root, read_manifest, read_maps

TITLES = {"baseline": "Baseline", "finer-default": "Finer-Default", "finer-compare": "Finer-Compare"}
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
    the image.

    Args:
        run: The folder that `generate` wrote.
        output: The folder to write to, by default RUN/pictures.
        dataset: Where the images lie now, if they were moved since.
        limit: Only the first so many images.

    Raises:
        InputError: There is no run, or the place cannot be written to.
    """
    records = read_manifest(run)[:limit]
    if not records:
        raise InputError(f"the run in {run} has no images yet")
    folder = make_folder(Path(output) if output is not None else Path(run) / "pictures")
    root = images_root(run) if dataset is None else Path(dataset)
    by_class = _by_class(read_manifest(run))
    skipped: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    thumbnails: list[render.Tile] = []
    sheets: list[Path] = []
    for record in progress.each(records, "pictures"):
        try:
            image = np.asarray(read_image(root / record["path"]))
        except InputError as error:
            skipped[record["image"]] = str(error)
            continue
        tiles = _tiles(run, record, image, by_class, root)
        panel = folder / "panels" / f"{record['image']}.jpg"
        make_folder(panel.parent)
        render.write_picture(panel, render.panel(tiles))
        name, note = record["image"].split("/")[-1], f"p {record['probabilities'][record['target']]:.2f}"
        thumbnails.append(render.Tile(tiles[min(3, len(tiles) - 1)].image, name, record["target"], note=note))
        rows.append(_row(record, panel.relative_to(folder).as_posix()))
        if len(thumbnails) == PAGE:
            sheets.append(_sheet(folder, len(sheets) + 1, thumbnails))
            thumbnails = []
    if thumbnails:
        sheets.append(_sheet(folder, len(sheets) + 1, thumbnails))
    page = write_whole(folder / "index.html", _page(rows, [path.name for path in sheets], records[0]).encode())
    return Visualized(page, len(rows), tuple(sheets), skipped)


def _by_class(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each class, by its normalised name."""
    by_class: dict[str, list[Record]] = {}
    for record in records:
        by_class.setdefault(normalised(record["target"]), []).append(record)
    return by_class


def _tiles(
    run: str | Path, record: Record, image: NDArray[np.uint8], by_class: dict[str, list[Record]], root: Path
) -> list[render.Tile]:
    """The tiles of one panel. `image` is [H, W, 3]."""
    small = render.shrunk(image) if max(image.shape[:2]) > render.TILE else image
    height, width = small.shape[:2]
    tiles = [render.Tile(small, "Image", record["target"], note=_scores(record, record["target"]))]
    if record["contrasts"]:
        nearest = record["contrasts"][0]
        example = _example(nearest, by_class, root)
        if example is None:
            picture, note = render.blank((height, width)), f"{_scores(record, nearest)}\nno image of it"
        else:
            picture, note = render.fitted(example, (height, width)), _scores(record, nearest)
        tiles.append(render.Tile(picture, "Most similar class", nearest, note=note))
    geometry = replace(geometry_in(record), image=(height, width))
    for mode, grid in read_maps(run, record).items():
        heat = geometry.to_image(render.positive(grid, float(np.abs(grid).max())))
        picture = render.overlay(small, heat, seen=geometry.seen)
        caption, note = _subtracted(record, mode)
        tiles.append(render.Tile(picture, TITLES[mode], caption, note=note))
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


def _example(name: str, by_class: dict[str, list[Record]], root: Path) -> NDArray[np.uint8] | None:
    """The first image of a class that can be read, or None."""
    for record in by_class.get(normalised(name), []):
        try:
            return np.asarray(read_image(root / record["path"]))
        except InputError:
            continue
    return None


def _sheet(folder: Path, number: int, tiles: list[render.Tile]) -> Path:
    return render.write_picture(folder / f"sheet-{number}.jpg", render.sheet(tiles, COLUMNS))


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
