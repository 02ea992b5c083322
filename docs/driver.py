"""Measures what docs/scale.md says of the memory that the driver of a run on Ray needs.

    python docs/driver.py --images 1000000

The images are names only: they are listed as in a folder by class, but there are no files. The actors are pretended
ones, which answer at once. Memory is what the process grows by, with nothing but the package imported before.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from finercam_clip.datasets import DataSet, Item
from finercam_clip.runs import cluster
from finercam_clip.runs.shards import SHARD
from finercam_clip.runs.work import Job, Shard

ACTORS = 1000


class Actor:
    """Answers at once."""

    def __init__(self) -> None:
        self.shard = SimpleNamespace(remote=lambda number: (self, number))


def answer(ref: tuple[Actor, int]) -> tuple[Shard, float]:
    return Shard(ref[1], SHARD, {}), 1.0


def most_memory() -> float:
    """The most that this process has used so far, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def listed(count: int) -> DataSet:
    """Images of 1,000 classes, named as people name them."""
    root, classes = Path("/data/photographs"), [f"{i:04}.Species_of_bird" for i in range(1000)]
    names = (f"{classes[i * 1000 // count]}/photograph-of-a-bird-{i:09}.jpg" for i in range(count))
    items: Sequence[Item] = [Item(root, name, classes[i * 1000 // count]) for i, name in enumerate(names)]
    return DataSet(root, "images by class", tuple(items), tuple(classes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_000_000)
    count = parser.parse_args().images
    before = most_memory()
    dataset = listed(count)
    known = most_memory()
    fake_ray: Any = SimpleNamespace(
        wait=lambda refs, timeout: (refs[:1], refs[1:]),
        get=answer,
        exceptions=SimpleNamespace(RayActorError=OSError, RayError=OSError),
    )
    nothing: Any = None
    job = Job(nothing, dataset, nothing, nothing, nothing, nothing, {"shard_size": SHARD})
    cluster.shard_there = lambda *_: None  # type: ignore[assignment]  # nothing is done yet
    pool = cluster._Pool(fake_ray, job, nothing, {}, deque(Actor() for _ in range(ACTORS)))
    summary = pool.done()
    assert summary.images == job.shards * SHARD
    assert dataset.items[-1].path.name.endswith(".jpg")
    print(f"{count:,} images: {known - before:.0f} MiB for the list, {most_memory() - before:.0f} MiB in all")


if __name__ == "__main__":
    main()
