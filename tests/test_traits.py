"""Tables of traits: images by concepts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from reference.folders import CLASSES
from reference.models import BLUE, RED

from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.traits import Trait, read_traits, to_csv, trait_table


@pytest.fixture(scope="module")
def two_birds(birds: Path) -> Path:
    """A folder with two drawn birds, and a file that is no image."""
    return birds / "test" / CLASSES[0]


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(argument) for argument in arguments])


def test_a_trait_table_has_the_numbers_of_explain(
    run_here: Callable[..., int], two_birds: Path, tmp_path: Path, bundled: Explainer
) -> None:
    assert run_here("explain", two_birds, "--concepts", "birds-traits", "--output", "t.png") == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert len(rows) == 2
    traits = read_traits("birds-traits")
    assert list(rows[0]) == ["image", *(f"{t.name} {part}" for t in traits for part in ("score", "p", "peak", "box"))]
    for row in rows:
        image = bundled.encode(two_birds / row["image"])
        for trait in traits:
            explanation = image.explain(trait.target, list(trait.contrasts))
            assert float(row[f"{trait.name} score"]) == pytest.approx(explanation.similarities[trait.target], abs=1e-3)
            assert float(row[f"{trait.name} p"]) == pytest.approx(explanation.probabilities[trait.target], abs=1e-2)
            peak = row[f"{trait.name} peak"]
            assert (tuple(int(v) for v in peak.split()) or None) == explanation.peak
    assert Image.open(tmp_path / "t.png").width > 6 * 180


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red crown: {target: x, colour: y}", "the trait 'red crown'"),
        ("red crown: [1, 2]", "the trait 'red crown'"),
        ("{", "cannot be read as YAML"),
        ("", "holds no traits"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_wrong_traits_are_one_line(
    text: str,
    message: str,
    run_here: Callable[..., int],
    two_birds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "t.yaml").write_text(text)
    assert run_here("explain", two_birds, "--concepts", "t.yaml") == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.yaml"]


def test_a_trait_table_may_be_named_by_its_csv_but_not_as_its_own_list(
    run_here: Callable[..., int], two_birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("explain", two_birds, "--concepts", "birds-traits", "--output", "t.csv") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.png"]
    image = min(two_birds.glob("*.png"))
    listed = f"image\n{image}\n"
    (tmp_path / "list.csv").write_text(listed)
    assert run_here("explain", "list.csv", "--concepts", "birds-traits", "--output", "list.png") == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "list.csv").read_text() == listed
    assert run_here("explain", two_birds, "--concepts", "bird-traits") == 2
    assert "birds-traits" in capsys.readouterr().err  # the name that was meant


def test_traits_may_be_a_plain_list(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a red crown\na blue crown\n")
    (tmp_path / "t.yaml").write_text("- a red crown\n- a blue crown\n")
    assert read_traits(tmp_path / "t.txt") == read_traits(tmp_path / "t.yaml")


def test_a_trait_may_have_a_target_of_several_texts_and_contrasts(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("crown:\n  target: [a red crown, a scarlet crown]\n  contrasts: a blue crown\n")
    assert read_traits(tmp_path / "t.yaml") == (Trait("crown", ["a red crown", "a scarlet crown"], ("a blue crown",)),)


def test_a_trait_without_contrasts_has_no_probability(bundled: Explainer, two_birds: Path) -> None:
    """It would be 1 of every image. What cannot be read is listed apart."""
    traits = [Trait("alone", RED), Trait("compared", RED, (BLUE,))]
    table = trait_table(bundled, open_dataset(two_birds), traits)
    assert [(alone.probability, compared.probability is None) for alone, compared in table.rows.values()] == [
        (None, False),
        (None, False),
    ]
    assert list(table.unreadable) == ["broken.jpg"]
    for row in csv.DictReader(io.StringIO(to_csv(table))):
        assert row["alone p"] == ""
        assert 0 < float(row["compared p"]) <= 1
