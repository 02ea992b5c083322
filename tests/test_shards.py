"""One run by any number of processes: killed, restarted, shared and moved, it has the same bytes in the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reference.folders import draw_photographs, tree
from reference.killed import SETTINGS, small

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.runs import Share, generate, read_manifest, read_maps
from finercam_clip.runs.shards import ALL, count_of, part_name, part_number, read_share, shard_of

KILLED = Path(__file__).parent / "reference" / "killed.py"


@pytest.fixture(scope="module")
def whole(birds: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one process that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    generate(bundled, open_dataset(birds), run, **SETTINGS)
    return run


@pytest.mark.parametrize("images", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_image_is_in_one_shard_and_every_shard_in_one_share(images: int, count: int) -> None:
    items, size = list(range(images)), 3
    shards = [n for i in range(count) for n in Share(i, count).of(count_of(images, size))]
    assert sorted(item for number in shards for item in shard_of(items, number, size)) == items
    assert [part_number(part_name(number)) for number in shards] == shards
    assert part_number(".part-000001.parquet.x.part") is None


@pytest.mark.parametrize("text", ["0/1", "3/8", "7/8"])
def test_a_share_is_counted_from_0(text: str) -> None:
    assert str(read_share(text)) == text


@pytest.mark.parametrize("text", ["8/8", "1", "1/0", "-1/2", "a/b", "", "1/2/3", "\u0661/\u0662"])
def test_what_is_no_share_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="0/8 to 7/8"):
        read_share(text)


@pytest.mark.parametrize(
    ("process", "tasks", "share"),
    [("2", "4", Share(2, 4)), ("0", "1", ALL), (None, "4", ALL), ("4", "4", ALL), ("x", "4", ALL)],
)
def test_slurm_says_which_share_it_is(
    process: str | None, tasks: str, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    if process is not None:
        monkeypatch.setenv("SLURM_PROCID", process)
    assert read_share(None) == share
    assert read_share("1/3") == Share(1, 3)


@pytest.mark.usefixtures("bundled_once")
def test_processes_of_slurm_make_the_run_of_one(
    whole: Path, birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(birds), "--output", str(tmp_path / "run"), "--shard-size", "3", "--batch", "2"]
    monkeypatch.setenv("SLURM_NTASKS", "3")
    for process in ("2", "0", "1"):
        monkeypatch.setenv("SLURM_PROCID", process)
        assert main([*command, "--threads", "1"]) in (0, 1)  # 1: an image that cannot be read is in its shards
        assert f"process {process} of 3" in capsys.readouterr().out
    assert tree(tmp_path / "run") == tree(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 12), marks=pytest.mark.slow)], ids=["two", "ten"])
def test_killed_at_random_moments_nothing_is_lost_and_nothing_computed_twice(
    seeds: range, whole: Path, birds: Path, tmp_path: Path
) -> None:
    """By one process, or by two that share the run, in turns."""
    _check_killed("bundled", birds, tmp_path, SETTINGS, seeds, whole)


def _check_killed(model: str, dataset: Path, folder: Path, settings: dict[str, Any], seeds: range, whole: Path) -> None:
    subprocess.run(
        [sys.executable, str(KILLED), model, str(dataset), str(folder), json.dumps(settings), *map(str, seeds)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    for seed in seeds:
        assert tree(folder / str(seed)) == tree(whole)
        done: set[str] = set()
        for line in (folder / f"{seed}.log").read_text().splitlines():
            word, number = line.split()
            assert number not in done
            done |= {number} if word == "done" else set()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("seeds", [range(2), range(2, 12)], ids=["two", "ten"])
def test_two_thousand_photographs_survive_every_schedule(seeds: range, tmp_path: Path) -> None:
    photographs = draw_photographs(tmp_path / "photographs", 2000)
    settings: dict[str, Any] = {"target": "robin", "contrasts": ["wren"], "shard_size": 128, "batch": 16, "threads": 1}
    generate(small(), open_dataset(photographs), tmp_path / "whole", **settings)
    assert len(read_manifest(tmp_path / "whole")) == 2000
    (tmp_path / "runs").mkdir()
    _check_killed("small", photographs, tmp_path / "runs", settings, seeds, tmp_path / "whole")


def test_another_mount_goes_on_with_the_same_run(whole: Path, birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    shutil.copytree(birds, tmp_path / "mount")
    shutil.copytree(whole, tmp_path / "run")
    for number in (0, 3):
        (tmp_path / "run" / "maps" / part_name(number)).unlink()
    summary = generate(bundled, open_dataset(tmp_path / "mount"), tmp_path / "run", **SETTINGS)
    assert 0 < summary.computed <= 6
    assert tree(tmp_path / "run") == tree(whole)


def test_nothing_that_is_written_names_the_place_but_the_ledger(whole: Path, birds: Path) -> None:
    for name, data in tree(whole).items():
        assert (str(birds).encode() in data) == (name == "run.json")


def test_a_run_keeps_its_number_of_threads(whole: Path, birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    shutil.copytree(whole, tmp_path / "run")
    own: dict[str, Any] = {"shard_size": 3, "batch": 2}
    generate(bundled, open_dataset(birds), tmp_path / "run", **own)  # by itself 1, as the run was begun
    with pytest.raises(InputError, match="threads 1 -> 2"):
        generate(bundled, open_dataset(birds), tmp_path / "run", **own, threads=2)
    assert tree(tmp_path / "run") == tree(whole)


def test_on_other_hardware_a_run_goes_on_and_says_what_that_means(
    whole: Path, birds: Path, tmp_path: Path, bundled: Explainer
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    ledger = json.loads(path.read_text())
    ledger["versions"]["torch"] = "2.2"
    path.write_text(json.dumps(ledger | {"hardware": "cuda, a card"}))
    with pytest.warns(UserWarning, match=r"cuda, a card.*torch 2.2.*last digits"):
        generate(bundled, open_dataset(birds), tmp_path / "run", **SETTINGS)


def test_maps_do_not_depend_on_how_images_are_cut_into_shards(
    whole: Path, birds: Path, tmp_path: Path, bundled: Explainer
) -> None:
    """But for their last digits: the batches are others."""
    generate(bundled, open_dataset(birds), tmp_path / "run", shard_size=100, batch=16, threads=1)
    for one, other in zip(read_manifest(whole), read_manifest(tmp_path / "run"), strict=True):
        assert one["image"] == other["image"]
        maps, others = read_maps(whole, one), read_maps(tmp_path / "run", other)
        for mode, grid in maps.items():
            assert abs(grid - others[mode]).max() < 2e-3 * abs(grid).max()
