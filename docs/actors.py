"""Measures what docs/scale.md says of two actors on Ray against one: images per second, each actor with one thread.

    python docs/actors.py FOLDER --images 512 --rounds 3

It starts a cluster of this machine. The clock runs from the first part that each actor has written to the last part, so
that starting processes and loading models do not count. The ratio is the median of the rounds, with the least and the
largest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import ray

from finercam_clip.datasets import open_dataset
from finercam_clip.models.recipe import Recipe
from finercam_clip.runs.cluster import on_ray
from finercam_clip.runs.errand import Errand

SHARD = 32


def images_per_second(folder: Path, workers: int) -> float:
    """Of a run with so many actors."""
    settings = {"target": "robin", "threads": 1, "shard_size": SHARD}
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        on_ray(Errand(Recipe(classifier="photos"), folder, None, run, settings), workers=workers)
        written = sorted(part.stat().st_mtime for part in (run / "maps").glob("part-*.parquet"))
    return (len(written) - workers) * SHARD / (written[-1] - written[workers - 1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=512, help=f"a multiple of {SHARD}")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(num_cpus=2, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        for item in open_dataset(arguments.folder).items[: arguments.images]:
            shutil.copy(item.path, folder)
        rates = [[images_per_second(Path(folder), workers) for workers in (1, 2)] for _ in range(arguments.rounds)]
    ratios = sorted(two / one for one, two in rates)
    one, two = (statistics.median(side) for side in zip(*rates, strict=True))
    print(f"{one:.1f} images/s with one actor, {two:.1f} with two", end="; ")
    print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
