"""Exports of a run, read back by the tools that they are for, or by their rules."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from PIL import Image
from reference.folders import UNREADABLE, tree
from scipy import ndimage

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.exports import FORMATS, export
from finercam_clip.exports.regions import regions_of, signed_area
from finercam_clip.runs import generate, read_manifest, read_p_values
from finercam_clip.runs.gallery import visualize


@pytest.fixture(scope="module")
def run(birds: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "run"
    generate(bundled, open_dataset(birds), folder)
    return folder


@pytest.fixture(scope="module")
def heats(run: Path, birds: Path, bundled: Explainer) -> dict[str, np.ndarray]:
    """Image name -> the heatmap that `explain` gives, with the run's own question."""
    return {
        record["image"]: bundled.explain(birds / record["path"], record["target"], record["contrasts"]).heatmap
        for record in read_manifest(run)
    }


# -------------------------------------------------------------------------------------------------------------- regions


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_regions_cover_what_is_hot_and_their_outlines_enclose_just_their_pixels(heat: np.ndarray) -> None:
    regions = regions_of(heat, heat >= 0.5)
    height, width = heat.shape
    assert len(regions) == ndimage.label(heat >= 0.5)[1]  # neighbours by edges
    covered = sum((region.whole_mask((height, width)).astype(int) for region in regions), np.zeros(heat.shape, int))
    assert (covered == (heat >= 0.5)).all()
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).reshape(-1, 2)
    for region in regions:
        rings = region.rings()
        assert signed_area(rings[0]) > 0
        assert all(signed_area(ring) < 0 for ring in rings[1:])
        assert sum(map(signed_area, rings)) == region.area
        for ring in rings:
            assert ring[0] == ring[-1]
            assert len(set(ring)) == len(ring) - 1  # it never touches itself
        inside = sum(Outline(np.array(ring)).contains_points(centres).astype(int) for ring in rings) % 2
        assert (inside.reshape(height, width) == region.whole_mask((height, width))).all()


# -------------------------------------------------------------------------------------------------------------- formats


def test_coco_is_read_by_its_own_library(run: Path, heats: dict[str, np.ndarray], tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    assert main(["export", str(run), "--to", "coco", "--output", str(tmp_path)]) == 0
    truth = coco.COCO(str(tmp_path / "annotations.json"))
    records = {record["path"]: record for record in read_manifest(run)}
    assert {image["file_name"] for image in truth.imgs.values()} == set(records)
    for number, image in truth.imgs.items():
        record, mask = records[image["file_name"]], np.zeros((image["height"], image["width"]), int)
        for annotation in truth.loadAnns(truth.getAnnIds(imgIds=number)):
            own = truth.annToMask(annotation)
            assert own.sum() == annotation["area"]
            rows, columns = np.nonzero(own)
            x, y, w, h = annotation["bbox"]
            assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, w, h)
            assert truth.cats[annotation["category_id"]]["name"] == record["target"]
            assert annotation["score"] == pytest.approx(heats[record["image"]][own > 0].max(), abs=2e-3)
            mask += own
        expected = heats[record["image"]] >= 0.5
        assert mask.max() <= 1  # regions do not overlap
        assert (mask != expected).mean() < 2e-3  # maps are kept as float16
    assert sum(len(truth.getAnnIds(imgIds=number)) > 0 for number in truth.imgs) >= 3


def test_geojson_keeps_qupaths_rules(run: Path, tmp_path: Path) -> None:
    """A feature collection of annotations: each an id of its own, a polygon of closed rings, a class with a colour."""
    done = export(run, "geojson", tmp_path / "out")
    assert done.images == len(list((tmp_path / "out").rglob("*.geojson"))) == 12
    ids = set()
    for record in read_manifest(run):
        content = json.loads((tmp_path / "out" / f"{record['image']}.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        for feature in content["features"]:
            assert feature["type"] == "Feature"
            assert feature["geometry"]["type"] == "Polygon"
            assert uuid.UUID(feature["id"]) not in ids
            ids.add(uuid.UUID(feature["id"]))
            for ring in feature["geometry"]["coordinates"]:
                assert len(ring) >= 5
                assert ring[0] == ring[-1]
                assert all(0 <= x <= record["size"]["width"] and 0 <= y <= record["size"]["height"] for x, y in ring)
            properties = feature["properties"]
            assert properties["objectType"] == "annotation"
            assert properties["classification"]["name"] == record["target"]
            assert all(0 <= part <= 255 for part in properties["classification"]["color"])
            assert all(isinstance(value, float) for value in properties["measurements"].values())
    assert len(ids) >= 3


def test_masks_are_the_heatmaps_of_explain(run: Path, heats: dict[str, np.ndarray], tmp_path: Path) -> None:
    export(run, "masks", tmp_path / "out", threshold=0.3)
    for name, expected in heats.items():
        heat = np.asarray(Image.open(tmp_path / "out" / "heat" / f"{name}.png"))
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        assert np.abs(heat / 255 - expected).max() < 5e-3
        assert ((mask == 255) == (expected >= 0.3)).mean() > 0.998
        assert set(np.unique(mask)) <= {0, 255}


def test_the_table_has_a_row_for_every_image(run: Path, tmp_path: Path) -> None:
    assert export(run, "csv", tmp_path / "out").images == 14
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    for record in read_manifest(run):
        row = rows.pop(record["image"])
        assert row["contrasts"].split("|") == record["contrasts"]
        assert float(row["probability"]) == pytest.approx(record["probabilities"][record["target"]], abs=1e-4)
        assert row["error"] == ""
    assert {name: row["error"] for name, row in rows.items()} == UNREADABLE


def test_fiftyones_own_importer_reads_it(run: Path, birds: Path, tmp_path: Path) -> None:
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    export(run, "fiftyone", tmp_path / "out")
    importer = importers.FiftyOneImageDetectionDatasetImporter(dataset_dir=str(tmp_path / "out"), data_path="data.json")
    importer.setup()
    samples = {Path(path): label.detections for path, _, label in importer}
    assert set(samples) == {birds / record["path"] for record in read_manifest(run)}
    assert sum(len(detections) for detections in samples.values()) >= 6
    assert {d.label for detections in samples.values() for d in detections} <= set(
        importer.get_dataset_info()["classes"]
    )


def test_fiftyones_files_name_every_image_and_boxes_within_it(run: Path, birds: Path, tmp_path: Path) -> None:
    """What its importer relies on, where it cannot be installed."""
    export(run, "fiftyone", tmp_path / "out")
    images = json.loads((tmp_path / "out" / "data.json").read_text())
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert set(images) == set(labels["labels"])
    assert all(Path(path).is_file() for path in images.values())
    for detections in labels["labels"].values():
        for detection in detections:
            assert detection["label"] in labels["classes"]
            x, y, w, h = detection["bounding_box"]
            assert min(x, y) >= 0 < min(w, h)
            assert max(x + w, y + h) <= 1 + 1e-9


def test_fiftyones_heatmaps_are_pictures_beside_its_labels(
    run: Path, birds: Path, heats: dict[str, np.ndarray], tmp_path: Path
) -> None:
    export(run, "fiftyone", tmp_path / "out")
    pictures = json.loads((tmp_path / "out" / "heatmaps.json").read_text())
    assert set(pictures) == {str(birds / record["path"]) for record in read_manifest(run)}
    for record in read_manifest(run):
        picture = np.asarray(Image.open(tmp_path / "out" / pictures[str(birds / record["path"])]))
        assert np.abs(picture / 255 - heats[record["image"]]).max() < 5e-3


# -------------------------------------------------------------------------------------------------------- significance


@pytest.fixture(scope="module")
def compared(birds: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "compared"
    generate(bundled, open_dataset(birds).split("test"), folder, null="aviary")
    return folder


def test_what_is_more_than_chance_is_the_region_of_explain(
    compared: Path, birds: Path, bundled: Explainer, tmp_path: Path
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    for to in ("masks", "coco"):
        command = ["export", str(compared), "--to", to, "--threshold", "significance", "--output", str(tmp_path / to)]
        assert main(command) == 0
    truth = coco.COCO(str(tmp_path / "coco" / "annotations.json"))
    numbers = {image["file_name"]: number for number, image in truth.imgs.items()}
    found = 0
    for record in read_manifest(compared):
        answer = bundled.explain(birds / record["path"], record["target"], record["contrasts"], null="aviary")
        p_values = read_p_values(compared, record)
        assert answer.significance is not None
        assert p_values is not None
        np.testing.assert_allclose(p_values, answer.significance.p_values, atol=1.5 / answer.significance.texts)
        assert record["p_value"] == pytest.approx(p_values.min())
        assert record["level"] == answer.significance.level
        mask = np.asarray(Image.open(tmp_path / "masks" / "masks" / f"{record['image']}.png")) == 255
        assert (mask != answer.region).mean() < 5e-3
        own = [truth.annToMask(a) for a in truth.loadAnns(truth.getAnnIds(imgIds=numbers[record["path"]]))]
        assert (sum(own, np.zeros(mask.shape, int)) == mask).all()
        found += bool(own)
    assert found  # some regions, not only empty masks


def test_significance_needs_p_values_of_the_mode(run: Path, compared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="generate --null"):
        export(run, "coco", tmp_path / "out", threshold="significance")
    with pytest.raises(InputError, match="of the mode finer-default"):
        export(compared, "masks", tmp_path / "out", threshold="significance", mode="baseline")
    assert not list(tmp_path.iterdir())


def test_the_panel_of_a_run_with_a_null_has_the_line(
    compared: Path, birds: Path, bundled: Explainer, tmp_path: Path
) -> None:
    generate(bundled, open_dataset(birds).split("test"), tmp_path / "plain")
    panels = [
        visualize(folder, tmp_path / folder.name).page.parent / "panels" for folder in (compared, tmp_path / "plain")
    ]
    changed = 0
    for record in read_manifest(compared):
        p_values = read_p_values(compared, record)
        assert p_values is not None
        one, other = (np.asarray(Image.open(folder / f"{record['image']}.jpg")).astype(int) for folder in panels)
        tiles = np.abs(one[: min(one.shape[0], other.shape[0]) // 2] - other[: min(one.shape[0], other.shape[0]) // 2])
        standing = (p_values <= record["level"]).any()
        assert (tiles.max() > 60) == standing  # JPEG's own noise is less
        changed += bool(standing)
    assert changed


# ---------------------------------------------------------------------------------------------------------- in general


@pytest.mark.parametrize("to", FORMATS)
def test_exported_again_it_is_the_same_to_the_byte(to: str, run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(run, to, tmp_path / name, mode="baseline")
    assert tree(tmp_path / "one") == tree(tmp_path / "two") != {}


WRONG: dict[str, dict[str, Any]] = {
    "no such format": {"to": "pdf"},
    "no such mode": {"mode": "finest"},
    "threshold 0": {"threshold": 0},
    "threshold above 1": {"threshold": 1.5},
    "threshold text": {"threshold": "half"},
    "no run": {"run": "nowhere"},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(
    change: dict[str, Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        export(**{"run": run, "to": "csv", "output": tmp_path / "out"} | change)
    assert not list(tmp_path.iterdir())


def test_half_an_export_is_none(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run"
    for name, data in tree(run).items():
        (damaged / name).parent.mkdir(parents=True, exist_ok=True)
        (damaged / name).write_bytes(data[: len(data) // 2] if name.endswith(".parquet") else data)
    for to in FORMATS:
        with pytest.raises(InputError, match="damaged"):
            export(damaged, to, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
