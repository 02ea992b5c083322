"""Tables of traits: images by concepts."""

from __future__ import annotations

import csv
import io
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from reference.damaged import encoded, picture
from reference.folders import CLASSES
from reference.models import BLUE, RED

from finercam_clip import InputError
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


def test_a_table_takes_labels(run_here: Callable[..., int], tmp_path: Path, two_birds: Path, photos: Explainer) -> None:
    """For the texts of its traits; the columns keep their names."""
    (tmp_path / "t.txt").write_text("ours\nn01440764\n")
    (tmp_path / "map.csv").write_text("ours,lynx\n")
    dataset = open_dataset(two_birds)
    own = trait_table(photos, dataset, [Trait("ours", "lynx, catamount"), Trait("n01440764", "tench")])
    table = trait_table(photos, dataset, read_traits(tmp_path / "t.txt"), labels=tmp_path / "map.csv")
    assert to_csv(table) == to_csv(own)
    ensembles = [Trait("cats", ["ours", "theirs"], (["ours"], "tabby"))]
    with pytest.raises(InputError, match="the target itself"):
        trait_table(photos, dataset, [Trait("cats", "ours", ("theirs",))], labels={"ours": "lynx", "theirs": "lynx"})
    assert list(trait_table(photos, dataset, ensembles, labels={"ours": "lynx", "theirs": 282}).rows)
    with pytest.raises(InputError, match=r"2 of 3 classes .*'ours' \(.*'theirs' \("):
        trait_table(photos, dataset, ensembles)
    command = ["explain", two_birds, "--concepts", "t.txt", "--classifier", "photos"]
    assert run_here(*command, "--output", "a.png") == 2
    assert run_here(*command, "--output", "a.png", "--labels", "map.csv") == 1
    assert (tmp_path / "a.csv").read_text() == to_csv(own)
    assert run_here(*command, "--output", "map.png", "--labels", "map.csv") == 2
    assert (tmp_path / "map.csv").read_text() == "ours,lynx\n"


# ------------------------------------------------------------------------------------------ what YAML makes of a text

ODD: dict[str, str] = {
    "a bool": "crown: no",
    "a number": "crown: 5",
    "a date": "crown: 2020-01-01",
    "no date": "crown: 2020-13-45",
    "a broken number": "crown: 0b_",
    "infinity": "crown: .inf",
    "bytes": "crown: !!binary aGVsbG8=",
    "a set": "crown: !!set {a, b}",
    "no time": "crown: !!timestamp x",
    "contrasts of a number": "crown: {target: a, contrasts: 5}",
    "contrasts of a mapping": "crown: {target: a, contrasts: {text: x}}",
    "contrasts of numbers": "crown: {target: a, contrasts: [1, 2]}",
    "a nested list": "crown: [[[a]]]",
    "a key that is a list": "? [a, b]\n: c",
    "a name twice": "crown: a\ncrown: b",
    "a field twice": "crown: {target: a, target: b}",
    "merged": "a: &a {target: x}\nb: {<<: *a}",
    "deep": "crown: " + "[" * 5000,
    "deep mappings": "{a: " * 5000,
    "an alias of itself": "crown: &a [*a]",
    "a text": "just words",
    "a number alone": "5",
    "zero byte": "crown: a\0",
    "tab": "crown:\n\t- a",
    "a bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "a bomb of merges": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{', '.join(9 * [f'*{a}'])}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_what_is_no_trait_is_one_line_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_traits(tmp_path / "t.yaml")
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "t.yaml" in str(caught.value)


def test_aliases_of_texts_are_fine(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("a: {target: x, contrasts: &c [y, z]}\nb: {target: w, contrasts: *c}\n")
    one, two = read_traits(tmp_path / "t.yaml")
    assert one.contrasts == two.contrasts == ("y", "z")


# ------------------------------------------------------------------------------------------------ what a table writes


def test_no_cell_is_a_formula_and_the_table_reads_back(bundled: Explainer, tmp_path: Path) -> None:
    names = ["=cmd.png", "+1.png", "-1.png", "@x.png", "'=x.png", "plain.png"]
    for i, name in enumerate(names):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(encoded("PNG", picture(i)))
    traits = [Trait("=1+1", "a bird with a red crown"), Trait("-x", "a bird with a blue crown")]
    text = to_csv(trait_table(bundled, open_dataset(tmp_path / "set"), traits))
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row if not re.fullmatch(r"-?[\d. ]*", cell)]
    assert len(cells) > len(names)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    rows = [row[0] for row in csv.reader(io.StringIO(text))][1:]
    (tmp_path / "set" / "questions.csv").write_text(
        "image,target\n" + "".join(f'"{name}",a red crown\n' for name in rows)
    )
    assert {item.path.name for item in open_dataset(tmp_path / "set" / "questions.csv").items} == set(names)


def test_a_table_comes_with_its_picture_or_not_at_all(
    run_here: Callable[..., int], birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("an older table")
    replace = Path.replace

    def full(part: Path, target: Path) -> Path:
        if target.suffix == ".png":
            raise OSError(28, "No space left on device")
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", full)
    assert run_here("explain", birds, "--concepts", "birds-traits", "--output", "t.png") == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"t.csv": "an older table"}


@pytest.mark.parametrize("way", ["path", "other path", "symbolic link", "hard link", "its table"])
def test_no_table_replaces_an_input_by_any_path_or_link(way: str, run_here: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    image, listed = tmp_path / "set" / "me.png", tmp_path / "list.csv"
    image.write_bytes(encoded("PNG"))
    listed.write_text("image,target\nset/me.png,a red crown\n")
    output = {
        "path": "set/me.png",
        "other path": "set/../set/./me.png",
        "symbolic link": "link.png",
        "hard link": "link.png",
        "its table": "list.png",
    }[way]
    if way == "symbolic link":
        (tmp_path / "link.png").symlink_to(image)
    elif way == "hard link":
        os.link(image, tmp_path / "link.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for source in ("set", "list.csv"):
        if way == "its table" and source == "set":
            continue
        assert run_here("explain", source, "--concepts", "birds-traits", "--output", output) == 2
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
