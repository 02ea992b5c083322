"""Runs on Ray: the same bytes, whatever happens to actors and machines."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reference.folders import draw_photographs, tree

from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.errors import UnfinishedError
from finercam_clip.explainer import Explainer
from finercam_clip.models.recipe import Recipe
from finercam_clip.runs import generate
from finercam_clip.runs.cluster import on_ray
from finercam_clip.runs.errand import Errand
from finercam_clip.runs.trait_runs import trait_run
from finercam_clip.traits import Trait

ray = pytest.importorskip("ray", reason="pip install 'finercam_clip[ray]'")
pytestmark = pytest.mark.slow  # a cluster takes half a minute to start
SETTINGS: dict[str, Any] = {"shard_size": 2, "batch": 2, "threads": 1}


@pytest.fixture(scope="module")
def whole(birds: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one process."""
    run = tmp_path_factory.mktemp("whole") / "run"
    generate(bundled, open_dataset(birds), run, **SETTINGS)
    return run


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of three simulated machines: the driver's, which has room for no actor, and two of a processor each."""
    from ray.cluster_utils import Cluster

    os.environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def _processes() -> list[int]:
    """The numbers of the actors' processes, among those that descend from this one."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [number for number in numbers if _title(number).startswith("ray::Worker") and _is_ours(number)]


def _title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _is_ours(process: int) -> bool:
    while process > 1 and process != os.getpid():
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return process == os.getpid()


def _when_parts(run: Path, count: int, action: Any) -> threading.Thread:
    """Does something when a run has so many parts."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while len(list(run.rglob("part-*.parquet"))) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_two_actors_make_the_run_of_one_process(machines: Any, whole: Path, birds: Path, tmp_path: Path) -> None:
    summary = on_ray(Errand(Recipe(), birds, None, tmp_path / "run", SETTINGS), workers=2)
    assert (summary.images, summary.computed, len(summary.unreadable), summary.failed) == (14, 12, 2, {})
    assert tree(tmp_path / "run") == tree(whole)
    assert on_ray(Errand(Recipe(), birds, None, tmp_path / "run", SETTINGS), workers=1).computed == 0


def test_an_actor_that_is_killed_is_replaced(machines: Any, whole: Path, birds: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        killed.extend(_processes()[:1])
        for process in killed:
            os.kill(process, signal.SIGKILL)

    thread = _when_parts(tmp_path / "run", 1, kill)
    summary = on_ray(Errand(Recipe(), birds, None, tmp_path / "run", SETTINGS), workers=2)
    thread.join()
    assert len(killed) == 1
    assert summary.failed == {}
    assert tree(tmp_path / "run") == tree(whole)


def test_two_thousand_photographs_survive_two_killed_actors(machines: Any, photos: Explainer, tmp_path: Path) -> None:
    photographs = draw_photographs(tmp_path / "photographs", 2000)
    settings: dict[str, Any] = {"target": "robin", "contrasts": ["jay"], "shard_size": 64, "batch": 16, "threads": 1}
    generate(photos, open_dataset(photographs), tmp_path / "whole", **settings)
    threads = [
        _when_parts(tmp_path / "run", count, lambda: os.kill(_processes()[0], signal.SIGKILL)) for count in (3, 17)
    ]
    summary = on_ray(Errand(Recipe(classifier="photos"), photographs, None, tmp_path / "run", settings), workers=2)
    for thread in threads:
        thread.join()
    assert (summary.images, summary.failed) == (2000, {})
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_machine_that_goes_takes_nothing_with_it(machines: Any, whole: Path, birds: Path, tmp_path: Path) -> None:
    gone = machines.worker_nodes.copy().pop()
    thread = _when_parts(tmp_path / "run", 1, lambda: machines.remove_node(gone, allow_graceful=False))
    summary = on_ray(Errand(Recipe(), birds, None, tmp_path / "run", SETTINGS), workers=2)
    thread.join()
    machines.add_node(num_cpus=1)
    assert summary.failed == {}
    assert tree(tmp_path / "run") == tree(whole)


def test_traits_on_ray_are_those_of_one_process(machines: Any, birds: Path, tmp_path: Path, bundled: Explainer) -> None:
    traits = (Trait("crown", "a bird with a red crown", ("a bird with a blue crown",)),)
    trait_run(bundled, open_dataset(birds), traits, tmp_path / "one", **SETTINGS)
    on_ray(Errand(Recipe(), birds, None, tmp_path / "ray", SETTINGS, traits), workers=1)
    assert tree(tmp_path / "ray") == tree(tmp_path / "one")


def test_a_shard_that_cannot_be_done_is_tried_again_and_listed(
    machines: Any, whole: Path, birds: Path, tmp_path: Path
) -> None:
    """A folder lies where its file should be."""
    blocked = tmp_path / "run" / "maps" / "part-000003.parquet"
    errand = Errand(Recipe(), birds, None, tmp_path / "run", SETTINGS)
    blocked.mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_bytes((whole / "run.json").read_bytes())
    summary = on_ray(errand, workers=1)
    assert list(summary.failed) == [3]
    blocked.rmdir()
    assert on_ray(errand, workers=1).failed == {}
    assert tree(tmp_path / "run") == tree(whole)


def test_where_no_actor_can_start_it_is_one_line(
    machines: Any, birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: Explainer
) -> None:
    errand = Errand(Recipe(), birds, None, tmp_path / "run", SETTINGS)
    monkeypatch.setattr(Recipe, "load", lambda self: bundled)  # of the driver only
    broken = Errand(Recipe(model="ViT-B-16", pretrained="nowhere.pt"), birds, None, tmp_path / "run", SETTINGS)
    with pytest.raises(UnfinishedError, match="no actor is left"):
        on_ray(broken, workers=1)
    monkeypatch.undo()
    assert on_ray(errand, workers=1).failed == {}


def test_an_address_without_a_cluster_is_one_line(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(birds), "--output", str(tmp_path / "run"), "--ray"]
    for words in (["--shards", "0/2"], ["--gpus", "-1"]):
        assert main([*command, "auto", *words]) == 2
    assert main([*command[:-1], "--workers", "2"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert not (tmp_path / "run").exists()
