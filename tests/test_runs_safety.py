"""Runs lose nothing and are never wrong in silence: what changed since, who else works there, what is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference.damaged import encoded, picture
from reference.folders import tree

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.errors import UnfinishedError
from finercam_clip.explainer import Explainer
from finercam_clip.runs import Share, generate, read_manifest, read_maps, read_unreadable
from finercam_clip.runs.gallery import visualize

pytestmark = pytest.mark.usefixtures("bundled_once")
RED, BLUE = "a bird with a red crown", "a bird with a blue crown"


@pytest.fixture
def photos_of(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of photographs by class: name of each class -> how many."""

    def make(**classes: int) -> Path:
        root = tmp_path / "set"
        for name, count in (classes or {"a_red_crown": 2, "a_blue_crown": 2}).items():
            for i in range(count):
                (root / name).mkdir(parents=True, exist_ok=True)
                (root / name / f"{i}.png").write_bytes(encoded("PNG", picture(len(name) + i)))
        return root

    return make


# --------------------------------------------------------------------------------------------------- what changed since


@pytest.mark.parametrize("keep_time", [False, True], ids=["another time", "the same time and size"])
def test_the_shard_of_an_image_that_was_replaced_is_computed_anew(
    photos_of: Callable[..., Path], tmp_path: Path, bundled: Explainer, keep_time: bool
) -> None:
    root, run = photos_of(), tmp_path / "run"
    generate(bundled, open_dataset(root), run)
    path = root / "a_red_crown" / "0.png"
    before, status = read_manifest(run), path.stat()
    path.write_bytes(encoded("PNG", picture(99)).ljust(status.st_size, b"\0")[: max(status.st_size, 10_000)])
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(visualize(run, tmp_path / "old").skipped) == 1  # the panel would show a map of another picture
    assert generate(bundled, open_dataset(root), run).computed == 4  # its shard
    after = {record["image"]: record for record in read_manifest(run)}
    for record in before:
        same = after[record["image"]]["similarities"] == record["similarities"]
        assert same == (record["image"] != "a_red_crown/0.png")
    generate(bundled, open_dataset(root), tmp_path / "fresh")
    assert tree(run / "maps") == tree(tmp_path / "fresh" / "maps")


def test_a_copy_of_the_data_set_with_other_times_is_not_computed_again(
    photos_of: Callable[..., Path], tmp_path: Path, bundled: Explainer
) -> None:
    root, run = photos_of(), tmp_path / "run"
    generate(bundled, open_dataset(root), run)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(root)
    (tmp_path / "copy").rename(root)
    assert generate(bundled, open_dataset(root), run).computed == 0


@pytest.mark.parametrize("change", ["removed", "added", "renamed"])
def test_a_data_set_that_has_changed_is_refused_and_what_was_done_stays(
    change: str,
    photos_of: Callable[..., Path],
    tmp_path: Path,
    bundled: Explainer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, run = photos_of(), tmp_path / "run"
    generate(bundled, open_dataset(root), run)
    before, image = tree(run), root / "a_red_crown" / "1.png"
    if change == "removed":
        image.unlink()
    elif change == "added":
        shutil.copy(image, image.with_name("2.png"))
    else:
        image.rename(image.with_name("3.png"))
    assert main(["generate", str(root), "--output", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has changed since the run began" in line
    assert "name a new folder" in line
    assert tree(run) == before


def test_images_that_could_not_be_read_and_now_can_are_done(
    photos_of: Callable[..., Path], tmp_path: Path, bundled: Explainer
) -> None:
    root, run = photos_of(), tmp_path / "run"
    image = root / "a_red_crown" / "1.png"
    data = image.read_bytes()
    image.write_bytes(data[:100])
    assert set(generate(bundled, open_dataset(root), run).unreadable) == {"a_red_crown/1.png"}
    assert set(read_unreadable(run)) == {"a_red_crown/1.png"}
    image.write_bytes(data)
    assert generate(bundled, open_dataset(root), run).unreadable == {}
    generate(bundled, open_dataset(root), tmp_path / "fresh")
    assert tree(run / "maps") == tree(tmp_path / "fresh" / "maps")


def test_where_the_disk_with_the_images_goes_what_is_done_stays(
    photos_of: Callable[..., Path], tmp_path: Path, bundled: Explainer
) -> None:
    root, run = photos_of(), tmp_path / "run"
    dataset = open_dataset(root)
    generate(bundled, dataset, run, shard_size=2)
    whole = tree(run)
    (run / "maps" / "part-000001.parquet").unlink()
    root.rename(tmp_path / "unmounted")
    for empty in (False, True):
        if empty:
            root.mkdir()
        with pytest.raises(UnfinishedError, match="is the disk of the data set still there"):
            generate(bundled, dataset, run, shard_size=2)
        assert tree(run) == {name: data for name, data in whole.items() if "part-000001" not in name}
    root.rmdir()
    (tmp_path / "unmounted").rename(root)
    assert generate(bundled, dataset, run, shard_size=2).computed == 2
    assert tree(run) == whole


def test_a_run_in_its_own_data_set_never_feeds_on_its_pictures(
    photos_of: Callable[..., Path], bundled: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photos_of()
    monkeypatch.chdir(root)
    images = {item.name for item in open_dataset(root).items}
    for _ in range(3):
        assert generate(bundled, open_dataset(root), root / "run").images == len(images)
        visualize(root / "run")
        assert main(["explain", "a_red_crown/0.png", "--target", RED, "--output", "a_red_crown/0-finercam.png"]) == 0
        assert main(["explain", ".", "--concepts", "birds-traits", "--output", "traits.png"]) == 0
        assert {item.name for item in open_dataset(root).items} == images
    with pytest.raises(InputError, match="lies in the data set"):
        visualize(root / "run", root / "pictures")
    with pytest.raises(InputError, match=r"data set itself|other files"):
        generate(bundled, open_dataset(root), root)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such names are one there")
@pytest.mark.parametrize(
    "several",
    [
        ("A.png", "a.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("x\\y.png", "x_y.png", "x%y.png"),
        (os.fsdecode(b"\xe9.png"), os.fsdecode(b"\xe8.png"), "\\xe9.png"),
        ("n" * 250 + ".png", "n" * 249 + "m.png"),
        ("a.png", "a.png.npz/a.png"),
        ("a~2.png", "a.png"),
    ],
    ids=["case", "accents", "separators", "bytes", "long", "folders", "tilde"],
)
def test_as_many_maps_as_images_whatever_they_are_called(
    several: tuple[str, ...], tmp_path: Path, bundled: Explainer
) -> None:
    for i, name in enumerate(several):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(encoded("PNG", picture(i)))
    run, dataset = tmp_path / "run", open_dataset(tmp_path / "set")
    assert generate(bundled, dataset, run, target=RED, contrasts=[BLUE]).computed == len(several)
    records = read_manifest(run)
    assert len({record["image"] for record in records}) == len(several)
    for record, item in zip(records, dataset.items, strict=True):
        expected = bundled.explain(item.path, RED).grid
        np.testing.assert_allclose(read_maps(run, record)["baseline"], expected, atol=1e-3 * np.abs(expected).max())
    assert generate(bundled, dataset, run, target=RED, contrasts=[BLUE]).computed == 0
    assert visualize(run).panels == len(list(run.rglob("panels/**/*.jpg"))) == len(several)


# ----------------------------------------------------------------------------------------------------------- who else


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Starts a process that holds a run's lock and is in the middle of writing a file."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom finercam_clip.files import locked, write_whole\n"
        "def wait(*a):\n    print('writing', flush=True)\n    sys.stdin.read()\n"
        "Path.replace = wait\npath, lock = Path(sys.argv[1]), sys.argv[2]\n"
        "with locked(path.parents[1], lock):\n    write_whole(path, b'half')"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    started = []

    def start(path: Path, lock: str = ".lock") -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", script, str(path), lock]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_two_processes_never_work_on_the_same_images(
    photos_of: Callable[..., Path], writer: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = photos_of(), tmp_path / "run"
    command = ["generate", str(root), "--output", str(run), "--shard-size", "1", "--shards"]
    (run / "maps").mkdir(parents=True)
    writer(run / "maps" / "part-000000.parquet", ".0-of-2.lock")
    before = tree(run)
    for share in ("0/1", "0/2", "1/3"):  # they overlap with 0/2
        assert main([*command, share]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is working in" in line
        assert tree(run) == before
    assert main([*command, "1/2"]) == 0
    assert {path.name for path in run.rglob("*.parquet")} == {"part-000001.parquet", "part-000003.parquet"}


def test_half_files_of_the_dead_go_and_those_of_the_living_stay(
    photos_of: Callable[..., Path], writer: Callable[..., Any], tmp_path: Path, bundled: Explainer
) -> None:
    run = tmp_path / "run"
    (run / "maps").mkdir(parents=True)
    elsewhere = run / "maps" / ".part-000000.parquet.00000000-1.abc.part"  # of another machine
    elsewhere.write_bytes(b"half")
    process = writer(run / "maps" / "part-000000.parquet", ".dead.lock")
    process.kill()
    process.wait()
    dead = set(run.rglob("*.part")) - {elsewhere}
    writer(run / "maps" / "part-000001.parquet", ".0-of-2.lock")
    living = set(run.rglob("*.part")) - dead - {elsewhere}
    assert (len(dead), len(living)) == (1, 1)
    generate(bundled, open_dataset(photos_of()), run, shard_size=1, share=Share(1, 2))
    assert set(run.rglob("*.part")) == living | {elsewhere}


# ------------------------------------------------------------------------------------------------ before the first byte

WRONG: dict[str, list[str]] = {
    "class": ["--vocabulary", "aviary", "--target", "a helicopter"],
    "contrast": ["--target", RED, "--contrast", "a helicopter"],
    "vocabulary": ["--vocabulary", "nowhere.txt"],
    "templates": ["--templates", "nowhere.txt"],
    "background": ["--background", "nowhere.txt"],
    "image size": ["--image-size", "33"],
    "large image size": ["--image-size", "40000"],
    "method": ["--method", "cam"],
    "layer": ["--layer", "77"],
    "split": ["--split", "test"],
    "batch": ["--batch", "0"],
    "shard size": ["--shard-size", "0"],
    "threads": ["--threads", "0"],
    "shards": ["--shards", "2/2"],
    "shards in words": ["--shards", "half"],
    "gamma": ["--gamma", "1e30"],
    "refinement": ["--refine", "crf"],
    "pooling": ["--pooling", "max"],
    "data set": ["--classes", "nowhere"],
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_after_a_mistake_the_corrected_command_runs(
    words: list[str], photos_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(photos_of(a_red_crown=1)), "--output", str(tmp_path / "new" / "run")]
    assert main([*command, *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert main(command) == 0


def test_a_wrong_class_leaves_nothing(tmp_path: Path, photos_of: Callable[..., Path]) -> None:
    root = photos_of(a_red_crown=1, a_helicopter=1)
    assert main(["generate", str(root), "--output", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------ damaged


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data), 97):
        data[at] ^= 0xFF
    path.write_bytes(bytes(data))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _with(column: str, value: object) -> Callable[[Path], None]:
    """Gives the first row of a part another value in a column; takes the column away for None."""

    def harm(path: Path) -> None:
        table = pq.read_table(path)
        at = table.schema.get_field_index(column)
        if value is None:
            table = table.remove_column(at)
        else:
            values = [value, *table.column(column).to_pylist()[1:]]
            field = table.schema.field(column)
            try:
                array = pa.array(values, field.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                array = pa.array([value] * len(values))
            table = table.set_column(at, column, array).replace_schema_metadata(table.schema.metadata)
        pq.write_table(table, path)

    return harm


PART = "maps/part-000000.parquet"
COLUMNS = ("image", "path", "target", "contrasts", "similarities", "baseline_scale", "geometry", "grid", "baseline")
HARM: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "maps cut": (PART, _cut),
    "maps empty": (PART, lambda path: path.write_bytes(b"")),
    "maps flipped": (PART, _flip),
    "maps a text": (PART, lambda path: path.write_text("x" * 10)),
    "settings cut": ("run.json", _cut),
    "settings empty": ("run.json", lambda path: path.write_bytes(b"")),
    "settings flipped": ("run.json", _flip),
    "settings a list": ("run.json", lambda path: path.write_text("[1]")),
    "settings deep": ("run.json", lambda path: path.write_text("[" * 100_000)),
    **{f"no {column}": (PART, _with(column, None)) for column in COLUMNS},
    **{f"{column} of another type": (PART, _with(column, 5)) for column in COLUMNS if column != "baseline_scale"},
    "image outside": (PART, _with("image", "../../../x.png")),
    "path outside": (PART, _with("path", "../../secret.png")),
    "absolute path": (PART, _with("path", "/etc/hostname")),
    "no ledger": (PART, lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)),
}


@pytest.mark.parametrize(("name", "harm"), HARM.values(), ids=HARM)
def test_a_damaged_run_is_named_by_visualize_and_mended_by_generate(
    name: str,
    harm: Callable[[Path], Any],
    photos_of: Callable[..., Path],
    tmp_path: Path,
    bundled: Explainer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, run = photos_of(), tmp_path / "run"
    generate(bundled, open_dataset(root), run)
    whole = tree(run)
    harm(run / name)
    before = tree(tmp_path)
    assert main(["visualize", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert Path(name).name in line
    assert "generate again" in line
    assert tree(tmp_path) == before
    generate(bundled, open_dataset(root), run)
    assert tree(run) == whole
    assert main(["visualize", str(run)]) == 0


def test_a_full_disk_ends_with_one_line_and_the_run_goes_on_later(
    photos_of: Callable[..., Path],
    tmp_path: Path,
    bundled: Explainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, run = photos_of(), tmp_path / "run"
    command = ["generate", str(root), "--output", str(run), "--batch", "1", "--shard-size", "1"]
    write, count = Path.replace, []

    def full(part: Path, target: Path) -> Path:
        count.append(target)
        if len(count) > 2:
            raise OSError(28, "No space left on device")
        return write(part, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert "run the same command again" in line
    assert main(command) == 0
    generate(bundled, open_dataset(root), tmp_path / "fresh", batch=1, shard_size=1)
    assert tree(run / "maps") == tree(tmp_path / "fresh" / "maps")


def test_a_failing_visualize_leaves_no_folder(
    photos_of: Callable[..., Path], tmp_path: Path, bundled: Explainer
) -> None:
    run = tmp_path / "run"
    generate(bundled, open_dataset(photos_of()), run)
    _cut(run / PART)
    before = sorted(tmp_path.rglob("*"))
    for output in ("pictures", "a/b/c"):
        with pytest.raises(InputError):
            visualize(run, tmp_path / output)
    assert sorted(tmp_path.rglob("*")) == before


BAD: dict[str, dict[str, Any]] = {
    "batch 0": {"batch": 0},
    "batch True": {"batch": True},
    "batch text": {"batch": "3"},
    "shard size 0": {"shard_size": 0},
    "threads 0": {"threads": 0},
    "threads text": {"threads": "all"},
    "contrasts number": {"target": RED, "contrasts": 5},
    "contrasts numbers": {"target": RED, "contrasts": [5]},
    "target list": {"target": [RED]},
    "target number": {"target": 5},
    "unknown option": {"colour": 5},
    "gamma text": {"gamma": "high"},
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_wrong_values_for_a_run_are_one_line_and_nothing_is_written(
    arguments: dict[str, Any], photos_of: Callable[..., Path], tmp_path: Path, bundled: Explainer
) -> None:
    dataset = open_dataset(photos_of(a_red_crown=1))
    with pytest.raises(InputError):
        generate(bundled, dataset, tmp_path / "run", **arguments)
    with pytest.raises(InputError):
        generate(bundled, "no data set", tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
