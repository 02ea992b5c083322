"""Tables of traits as runs: the numbers of `explain`, thresholds from a user's labels, and Darwin Core."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from reference.folders import tree

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.runs import Share
from finercam_clip.runs.calibration import FEWEST, calibrated, read_answers
from finercam_clip.runs.trait_runs import trait_run
from finercam_clip.runs.trait_tables import write_tables
from finercam_clip.traits import Trait, read_traits, trait_table

TRAITS = (
    Trait("red crown", "a bird with a red crown", ("a bird with a blue crown", "a bird with a yellow crown")),
    Trait("alone", "a bird with a red tail"),
)
SETTINGS: dict[str, Any] = {"shard_size": 4, "batch": 2, "threads": 1}


@pytest.fixture(scope="module")
def run(birds: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traits") / "run"
    summary = trait_run(bundled, open_dataset(birds), TRAITS, folder, **SETTINGS)
    assert (summary.images, summary.computed, len(summary.unreadable)) == (14, 12, 2)
    return folder


def test_the_numbers_are_those_of_a_table_in_memory(run: Path, birds: Path, bundled: Explainer, tmp_path: Path) -> None:
    write_tables(run, tmp_path)
    table = trait_table(bundled, open_dataset(birds), TRAITS)
    rows = {(row["image"], row["trait"]): row for row in pq.read_table(tmp_path / "traits.parquet").to_pylist()}
    assert len(rows) == 24
    with (tmp_path / "traits.csv").open(encoding="utf-8", newline="") as file:
        wide = {row["image"]: row for row in csv.DictReader(file)}
    assert len(wide) == 14
    for name, cells in table.rows.items():
        for trait, cell in zip(TRAITS, cells, strict=True):
            row = rows[name, trait.name]
            assert row["score"] == pytest.approx(cell.score, abs=1e-5)
            assert row["probability"] == (cell.probability and pytest.approx(cell.probability, abs=1e-4))
            assert (row["peak_x"], row["peak_y"]) == (cell.peak or (None, None))
            assert tuple(row[side] for side in ("x0", "y0", "x1", "y1")) == (cell.box or (None,) * 4)[:4]
            assert wide[name][f"{trait.name} score"] == f"{row['score']:.4f}"
            assert row["state"] is None
    assert sorted(name for name, row in wide.items() if row["error"]) == sorted(table.unreadable)


def test_two_processes_make_the_run_of_one(run: Path, birds: Path, bundled: Explainer, tmp_path: Path) -> None:
    for index in (1, 0):
        with pytest.raises(InputError, match=r"no run|not finished"):
            write_tables(tmp_path / "run")
        trait_run(bundled, open_dataset(birds), TRAITS, tmp_path / "run", share=Share(index, 2), **SETTINGS)
    assert tree(tmp_path / "run") == tree(run)
    with pytest.raises(InputError, match="other settings"):
        trait_run(bundled, open_dataset(birds), TRAITS[:1], tmp_path / "run", **SETTINGS)


# ---------------------------------------------------------------------------------------------------------- thresholds


def test_thresholds_part_what_scores_part_and_say_how_sure_that_is() -> None:
    rng = np.random.default_rng(0)
    answers = {str(i): i % 2 == 0 for i in range(40)}
    scores = {name: rng.normal(2.0 if there else -2.0, 0.5) for name, there in answers.items()}
    threshold = calibrated(scores, answers)
    assert threshold is not None
    assert -2 < threshold.absent_below < threshold.present_above < 2
    assert threshold.labelled == 40
    assert threshold.right == threshold.decided >= 36
    assert threshold.low < 1 <= threshold.high + 1e-9
    assert [threshold.state(score) for score in (3.0, -3.0, 0.0)] == ["present", "absent", "uncertain"]


@pytest.mark.parametrize("seed", range(5))
def test_where_the_score_says_nothing_little_is_decided_and_the_interval_says_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = {str(i): i % 2 == 0 for i in range(20)}
    threshold = calibrated({name: float(rng.normal()) for name in answers}, answers)
    assert threshold is not None
    assert threshold.decided <= 10
    assert threshold.low < 0.7


def test_a_score_that_falls_where_the_trait_is_there_decides_nothing() -> None:
    answers = {str(i): i < 10 for i in range(20)}
    threshold = calibrated({name: float(name) for name in answers}, answers)
    assert threshold is not None
    assert threshold.decided == 0
    assert {threshold.state(score) for score in (-1e9, 0.0, 1e9)} == {"uncertain"}


def test_too_few_labels_make_no_threshold() -> None:
    answers = {str(i): i < FEWEST - 1 for i in range(30)}
    assert calibrated({name: float(name) for name in answers}, answers) is None
    assert calibrated({}, {str(i): i < 15 for i in range(30)}) is None


def test_twenty_labelled_images_make_a_table_of_present_and_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bundled_once: None, many_birds: Path
) -> None:
    images = [item.name for item in open_dataset(many_birds).items]
    lines = [f"{name},{int('red' in name)}\n" for name in images[::2]]
    (tmp_path / "few.csv").write_text("image,red crown\n" + "".join(lines))
    (tmp_path / "t.yaml").write_text(
        "red crown: {target: a bird with a red crown, contrasts: [a bird with a blue crown]}\nother: a bird\n"
    )
    command = ["traits", str(many_birds), "--concepts", str(tmp_path / "t.yaml"), "--output", str(tmp_path / "run")]
    assert main([*command, "--labels", str(tmp_path / "few.csv")]) == 0
    out = capsys.readouterr().out
    assert f"{len(lines)} labelled" in out
    rows = pq.read_table(tmp_path / "run" / "traits.parquet").to_pylist()
    states = {row["image"]: row["state"] for row in rows if row["trait"] == "red crown"}
    unlabelled = [name for name in images[1::2] if states[name] != "uncertain"]
    assert len(unlabelled) >= 15
    right = [states[name] == ("present" if "red" in name else "absent") for name in unlabelled]
    assert np.mean(right) >= 0.9
    assert all(row["state"] is None for row in rows if row["trait"] == "other")
    with (tmp_path / "run" / "measurements.csv").open(encoding="utf-8", newline="") as file:
        facts = list(csv.DictReader(file))
    assert len({fact["measurementID"] for fact in facts}) == len(facts) == 2 * len(images)
    for fact in facts:
        assert fact["occurrenceID"] in images
        calibrated_one = fact["measurementType"] == "red crown"
        assert (fact["measurementValue"] in ("present", "absent", "uncertain")) == calibrated_one
        assert ("right" in fact["measurementAccuracy"]) == calibrated_one
        assert "hirescam" in fact["measurementMethod"]


@pytest.fixture(scope="module")
def many_birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn birds, half of them with a red crown, half with a blue one."""
    from PIL import Image

    from finercam_clip.aviary import drawing, world

    root = tmp_path_factory.mktemp("many")
    for i in range(40):
        colour = ("red", "blue")[i % 4 // 2]
        bird = world.sample_bird(np.random.default_rng(i)).with_trait("crown", colour)
        path = root / f"{i:02}_{colour}.png"
        Image.fromarray(drawing.draw(bird, i, size=112).image).save(path)
    return root


WRONG = {
    "no image column": ("name,red crown\n", "image and traits"),
    "no trait": ("image\n", "image and traits"),
    "another trait": ("image,red crowns\nx.png,1\n", "is no trait.*red crown"),
    "a trait twice": ("image,red crown,red crown\n", "is there twice"),
    "another image": ("image,red crown\nz.png,1\n", "line 2.*no image 'z.png'"),
    "another word": ("image,red crown\nx.png,perhaps\n", "line 2.*1 .present., 0 .absent. or empty"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_labels_that_cannot_be_used_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_answers(tmp_path / "few.csv", ["red crown"], ["x.png", "y.png"])


def test_labels_are_1_0_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("image,a,b\nx.png,1,\ny.png,absent,YES\n")
    assert read_answers(tmp_path / "few.csv", ["a", "b"], ["x.png", "y.png"]) == {
        "a": {"x.png": True, "y.png": False},
        "b": {"y.png": True},
    }


def test_packaged_traits_fit_into_a_run(tmp_path: Path, bundled: Explainer, birds: Path) -> None:
    dataset = open_dataset(birds).split("train")
    trait_run(bundled, dataset, read_traits("birds-traits"), tmp_path / "run", **SETTINGS)
    tables = write_tables(tmp_path / "run")
    assert (tables.images, tables.thresholds) == (4, {})
    assert {"traits.csv", "traits.parquet", "measurements.csv"} <= set(tree(tmp_path / "run"))
    assert not any(item.path.is_relative_to(tmp_path) for item in open_dataset(birds).items)
