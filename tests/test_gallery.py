"""Pictures of a run: panels, contact sheets, and a page that filters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reference.folders import CLASSES, tree
from skimage import data

from finercam_clip import InputError
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.render import blank
from finercam_clip.runs import gallery as module
from finercam_clip.runs import generate, read_manifest
from finercam_clip.runs.gallery import Visualized, visualize


@pytest.fixture(scope="module")
def run(bundled: Explainer, birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over all birds."""
    folder = tmp_path_factory.mktemp("run") / "birds"
    generate(bundled, open_dataset(birds), folder)
    return folder


@pytest.fixture(scope="module")
def pictures(run: Path) -> Visualized:
    return visualize(run)


def _rows(page: str) -> list[dict[str, Any]]:
    """What the page's script reads."""
    match = re.search(r'<script id="rows" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    rows: list[dict[str, Any]] = json.loads(match.group(1))
    return rows


def test_every_image_has_a_panel_of_five_tiles(run: Path, pictures: Visualized) -> None:
    """Itself, one of the most similar class, and the three modes."""
    assert pictures.page == run / "pictures" / "index.html"
    assert (pictures.panels, pictures.skipped) == (12, {})
    panels = sorted(path.relative_to(run / "pictures" / "panels").as_posix() for path in run.rglob("panels/**/*.jpg"))
    assert panels == sorted(f"{record['image']}.jpg" for record in read_manifest(run))
    for path in run.rglob("panels/**/*.jpg"):
        with Image.open(path) as panel:
            assert 5 * 200 < panel.width < 5 * 400


def test_the_page_has_every_image_with_its_class_score_and_contrasts(run: Path, pictures: Visualized) -> None:
    rows, records = _rows(pictures.page.read_text()), read_manifest(run)
    assert [row["image"] for row in rows] == [record["image"] for record in records]
    assert {row["class"] for row in rows} == {name.replace("_", " ") for name in CLASSES}
    for row, record in zip(rows, records, strict=True):
        assert (pictures.page.parent / row["panel"]).is_file()
        assert row["contrasts"] == record["contrasts"]
        assert row["score"] == pytest.approx(record["probabilities"][record["target"]], abs=1e-4)


def test_the_page_needs_nothing_from_elsewhere(pictures: Visualized) -> None:
    page = pictures.page.read_text()
    assert "http" not in page.replace("application/json", "")
    assert "aviary (bundled), hirescam" in page
    assert not re.search(r"@[A-Z]+@", page)  # every place of the template is filled


def test_made_again_the_pictures_are_the_same_to_the_byte(run: Path, pictures: Visualized, tmp_path: Path) -> None:
    before = tree(pictures.page.parent)
    assert len(before) == 12 + 1 + 1  # panels, a sheet, the page
    assert visualize(run) == pictures
    assert tree(pictures.page.parent) == before
    assert visualize(run, tmp_path / "elsewhere").page == tmp_path / "elsewhere" / "index.html"
    assert tree(tmp_path / "elsewhere") == before


def test_contact_sheets_have_so_many_pictures_each(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 5)
    pictures = visualize(run, tmp_path)
    assert [path.name for path in pictures.sheets] == ["sheet-1.jpg", "sheet-2.jpg", "sheet-3.jpg"]
    sizes = [Image.open(path).size for path in pictures.sheets]
    assert sizes[0] == sizes[1]
    assert sizes[2][0] < sizes[0][0]  # two of them are left
    page = pictures.page.read_text()
    assert all(f'<a href="{path.name}">' in page for path in pictures.sheets)


def test_only_the_first_so_many_images(run: Path, tmp_path: Path) -> None:
    pictures = visualize(run, tmp_path, limit=3)
    assert pictures.panels == 3
    assert [row["image"] for row in _rows(pictures.page.read_text())] == [
        record["image"] for record in read_manifest(run)[:3]
    ]


def test_names_cannot_break_out_of_the_page(tmp_path: Path, bundled: Explainer) -> None:
    folder = tmp_path / "set" / "a red crown"
    folder.mkdir(parents=True)
    name = "<img src=x onerror=alert(1)>&.png"
    Image.fromarray(data.chelsea()).save(folder / name)
    generate(bundled, open_dataset(tmp_path / "set"), tmp_path / "run")
    page = visualize(tmp_path / "run").page.read_text()
    assert "<img src=x" not in page
    assert "\\u003cimg src=x" in page
    assert _rows(page)[0]["image"] == f"a red crown/{name}"


def test_images_that_were_moved_are_found_again_or_named(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    copy = tmp_path / "copy"
    for path in birds.glob("train/*/*.png"):
        place = copy / path.relative_to(birds)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    generate(bundled, open_dataset(copy), tmp_path / "run")
    copy.rename(tmp_path / "moved")
    skipped = visualize(tmp_path / "run").skipped
    assert set(skipped) == {record["image"] for record in read_manifest(tmp_path / "run")}
    assert all("no such file" in why for why in skipped.values())
    assert visualize(tmp_path / "run", dataset=tmp_path / "moved").panels == 4


def test_where_no_image_shows_the_contrast_its_tile_is_blank(tmp_path: Path, bundled: Explainer) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "black.png")
    table = "image,target,contrasts\nblack.png,a red crown,a blue crown\n"
    (tmp_path / "questions.csv").write_text(table)
    generate(bundled, open_dataset(tmp_path / "questions.csv"), tmp_path / "run")
    visualize(tmp_path / "run")
    with Image.open(tmp_path / "run" / "pictures" / "panels" / "black.png.jpg") as read:
        panel = np.asarray(read).astype(int)
    column = (panel.shape[1] - 16) // 5
    own, example = (panel[134:234, 16 + i * column + 100 : 16 + i * column + 200] for i in (0, 1))
    assert own.max() < 8
    assert np.abs(example - blank((1, 1))[0, 0]).max() < 8


def test_where_there_is_no_run_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        visualize(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="has no images yet"):
        visualize(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
