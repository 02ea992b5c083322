"""Pictures of a run: the paper's panel for each image, contact sheets, and a page that filters without a server."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip import render
from finercam_clip.concepts.classes import normalised
from finercam_clip.errors import InputError
from finercam_clip.files import make_folder, write_whole
from finercam_clip.images import read_image
from finercam_clip.runs import geometry_in, images_root, read_manifest, read_maps

TITLES = {"baseline": "Baseline", "finer-default": "Finer-Default", "finer-compare": "Finer-Compare"}
PAGE = 48  # pictures a contact sheet
COLUMNS = 6


@dataclass(frozen=True)
class Visualized:
    """What was written. skipped: image name -> why."""

    page: Path
    panels: int
    sheets: tuple[Path, ...]
    skipped: dict[str, str]


def visualize(
    run: str | Path,
    output: str | Path | None = None,
    *,
    dataset: str | Path | None = None,
    limit: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Visualized:
    """Writes panels/<name>.jpg for each image of a run, sheet-1.jpg and so on, and index.html into RUN/pictures.

    A panel: the image, another image of the class most similar to its own, and the three modes' maps over the image.
    dataset: where the images lie now, if they were moved since; limit: only the first so many.

    Raises:
        InputError: there is no run, or the place cannot be written to.
    """
    records = read_manifest(run)[:limit]
    if not records:
        raise InputError(f"the run in {run} has no images yet")
    folder = make_folder(Path(output) if output is not None else Path(run) / "pictures")
    root = images_root(run) if dataset is None else Path(dataset)
    examples = _examples(read_manifest(run))
    skipped: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    thumbnails: list[render.Tile] = []
    sheets: list[Path] = []
    for i, record in enumerate(records):
        progress(f"picture {i + 1:,} of {len(records):,}")
        try:
            image = np.asarray(read_image(root / record["path"]))
        except InputError as error:
            skipped[record["image"]] = str(error)
            continue
        tiles = _tiles(run, record, image, examples, root)
        panel = folder / "panels" / f"{record['image']}.jpg"
        make_folder(panel.parent)
        render.write_picture(panel, render.panel(tiles))
        caption = f"{record['target']}\np {record['probabilities'][record['target']]:.2f}"
        thumbnails.append(render.Tile(tiles[min(3, len(tiles) - 1)].image, record["image"].split("/")[-1], caption))
        rows.append(_row(record, panel.relative_to(folder).as_posix()))
        if len(thumbnails) == PAGE:
            sheets.append(_sheet(folder, len(sheets) + 1, thumbnails))
            thumbnails = []
    if thumbnails:
        sheets.append(_sheet(folder, len(sheets) + 1, thumbnails))
    page = write_whole(folder / "index.html", _page(rows, [path.name for path in sheets], records[0]).encode())
    return Visualized(page, len(rows), tuple(sheets), skipped)


def _examples(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Images a class, by the class's normalised name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(normalised(record["target"]), []).append(record)
    return found


def _tiles(
    run: str | Path,
    record: dict[str, Any],
    image: NDArray[np.uint8],
    examples: dict[str, list[dict[str, Any]]],
    root: Path,
) -> list[render.Tile]:
    small = render.shrunk(image) if max(image.shape[:2]) > render.TILE else image
    tiles = [render.Tile(small, "Image", f"{record['target']}\n{_scores(record, record['target'])}")]
    if record["contrasts"]:
        nearest = record["contrasts"][0]
        example = _example(nearest, examples, root)
        shape = (small.shape[0], small.shape[1])
        picture = render.blank(shape) if example is None else render.fitted(example, shape)
        title = "Most similar class" if example is not None else "Most similar class (no image of it)"
        tiles.append(render.Tile(picture, title, f"{nearest}\n{_scores(record, nearest)}"))
    geometry = geometry_in(record)
    scaled = type(geometry)(**(vars(geometry) | {"image": (small.shape[0], small.shape[1])}))
    for mode, grid in read_maps(run, record).items():
        most = float(np.abs(grid).max())
        heat = scaled.to_image(np.maximum(grid, 0) / np.float32(most or 1.0))
        picture = render.overlay(small, heat, seen=scaled.seen)
        tiles.append(render.Tile(picture, TITLES[mode], _against(record, mode)))
    return tiles


def _against(record: dict[str, Any], mode: str) -> str:
    """What a mode subtracts."""
    contrasts = {"baseline": [], "finer-compare": record["contrasts"][:1]}.get(mode, record["contrasts"])
    if not contrasts:
        return "the target alone"
    gamma = f"gamma {record['settings']['gamma']:g}"
    return "\n".join([f"against, {gamma}", *(f"{name} (p {record['probabilities'][name]:.2f})" for name in contrasts)])


def _scores(record: dict[str, Any], name: str) -> str:
    return f"{record['score']} {record['similarities'][name]:.3f}, p {record['probabilities'][name]:.2f}"


def _example(name: str, examples: dict[str, list[dict[str, Any]]], root: Path) -> NDArray[np.uint8] | None:
    """The first image of a class that can be read."""
    for record in examples.get(normalised(name), []):
        try:
            return np.asarray(read_image(root / record["path"]))
        except InputError:
            continue
    return None


def _sheet(folder: Path, number: int, tiles: list[render.Tile]) -> Path:
    return render.write_picture(folder / f"sheet-{number}.jpg", render.sheet(tiles, COLUMNS))


def _row(record: dict[str, Any], panel: str) -> dict[str, Any]:
    best = next(iter(record["predicted"]), record["target"])
    return {
        "image": record["image"],
        "panel": panel,
        "class": record["target"],
        "score": round(record["probabilities"][record["target"]], 4),
        "predicted": best,
        "contrasts": record["contrasts"],
    }


def _page(rows: list[dict[str, Any]], sheets: list[str], record: dict[str, Any]) -> str:
    """One file, no server: rows as JSON, filtered by a few lines of script."""
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")  # no text can end the script element
    links = " ".join(f'<a href="{html.escape(name)}">{html.escape(name)}</a>' for name in sheets)
    about = f"{record['model']['name']} ({record['model']['pretrained']}), {record['settings']['method']}"
    return (_TEMPLATE.replace("@ABOUT@", html.escape(about)).replace("@SHEETS@", links)).replace("@ROWS@", data)


_TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>finercam-clip</title>
<style>
  body { font: 15px/1.4 system-ui, sans-serif; margin: 0; color: #18181b; background: #fafafa; }
  header { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #e4e4e7; padding: 12px 20px;
    display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; }
  header b { margin-right: auto; } small { color: #71717a; }
  label { white-space: nowrap; } input[type=number] { width: 5em; } select { max-width: 22em; }
  main { padding: 12px 20px; } figure { margin: 0 0 16px; background: #fff; border: 1px solid #e4e4e7; padding: 8px; }
  figure img { max-width: 100%; display: block; } figcaption { padding: 4px 8px; }
  .wrong { color: #be1e1e; }
</style>
<header>
  <b>finercam-clip <small>@ABOUT@ &middot; @SHEETS@</small></b>
  <label>class <select id="class"><option value="">all</option></select></label>
  <label>p from <input id="low" type="number" min="0" max="1" step="0.05" value="0"></label>
  <label>to <input id="high" type="number" min="0" max="1" step="0.05" value="1"></label>
  <label>order <select id="order"><option value="">as in the data set</option><option value="up">p rising</option>
    <option value="down">p falling</option></select></label>
  <label><input id="wrong" type="checkbox"> only where another class is predicted</label>
  <span id="count"></span>
</header>
<main></main>
<script id="rows" type="application/json">@ROWS@</script>
<script>
const rows = JSON.parse(document.getElementById("rows").textContent);
const $ = id => document.getElementById(id), main = document.querySelector("main");
for (const name of [...new Set(rows.map(row => row.class))].sort()) $("class").add(new Option(name, name));
function element(tag, parent, text, kind) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
}
function show() {
  let chosen = rows.filter(row => (!$("class").value || row.class === $("class").value)
    && row.score >= +$("low").value && row.score <= +$("high").value
    && (!$("wrong").checked || row.predicted !== row.class));
  const order = $("order").value;
  if (order) chosen = [...chosen].sort((a, b) => order === "up" ? a.score - b.score : b.score - a.score);
  $("count").textContent = `${chosen.length} of ${rows.length}`;
  main.replaceChildren();
  for (const row of chosen) {
    const figure = element("figure", main), image = element("img", figure);
    image.loading = "lazy";
    image.alt = `${row.class}: image, most similar class, baseline, Finer-Default, Finer-Compare`;
    image.src = row.panel.split("/").map(encodeURIComponent).join("/");
    const caption = element("figcaption", figure, `${row.image} · ${row.class} · p ${row.score.toFixed(2)}`);
    if (row.predicted !== row.class) element("span", caption, ` · predicted: ${row.predicted}`, "wrong");
  }
}
for (const id of ["class", "low", "high", "order", "wrong"]) $(id).addEventListener("input", show);
show();
</script>
</html>
"""
