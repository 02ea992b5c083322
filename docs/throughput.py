"""Measures what docs/scale.md says: images per second of `generate` beside the bare forward passes of the same batches.

    python docs/throughput.py photos FOLDER --images 256 --rounds 5 --threads 2

In each round both are timed one after the other, so that what else a machine does meets both. The ratio is the median
of the rounds, with the least and the largest. "processor" is the same of processor seconds, which other programs hardly
change. Before the first round, both run once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import finercam_clip
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.images import read_image
from finercam_clip.runs import generate


def now() -> tuple[float, float]:
    """The time, and what this process has used of its processors, seconds."""
    return time.perf_counter(), time.process_time()


def since(begun: tuple[float, float]) -> list[float]:
    """What has passed of both."""
    return [end - start for start, end in zip(begun, now(), strict=True)]


def forward_passes(explainer: Explainer, paths: list[Path], batch: int) -> list[float]:
    """Seconds of the bare forward passes, as `since`; reading and preprocessing do not count."""
    tower, preprocess = explainer.loaded.tower, explainer.loaded.preprocess
    seconds = [0.0, 0.0]
    for start in range(0, len(paths), batch):
        pixels = torch.stack([preprocess(read_image(path))[0] for path in paths[start : start + batch]])
        begun = now()
        with torch.inference_mode():
            tower.visual(pixels)
        seconds = [total + own for total, own in zip(seconds, since(begun), strict=True)]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="photos, or an architecture of open_clip at random weights")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.model == "photos":
        explainer = finercam_clip.load_classifier("photos")
    else:
        explainer = finercam_clip.load(arguments.model, pretrained="random")
    dataset = open_dataset(arguments.folder)
    dataset = replace(dataset, items=tuple(replace(i, target=None) for i in dataset.items[: arguments.images]))
    paths = [item.path for item in dataset.items]
    target, contrasts = ("robin", None) if arguments.model == "photos" else ("a red crown", ["a blue crown"])
    torch.set_num_threads(arguments.threads)
    rows = []
    for round_ in range(-1, arguments.rounds):
        bare = forward_passes(explainer, paths, arguments.batch)
        with tempfile.TemporaryDirectory() as folder:
            begun = now()
            generate(
                explainer,
                dataset,
                Path(folder) / "run",
                target=target,
                contrasts=contrasts,
                batch=arguments.batch,
                threads=arguments.threads,
            )
            whole = since(begun)
        if round_ >= 0:
            rows.append((bare, whole))
    for kind, name in enumerate(("time", "processor")):
        ratios = sorted(bare[kind] / whole[kind] for bare, whole in rows)
        one, other = (len(paths) / statistics.median(own[kind] for own in side) for side in zip(*rows, strict=True))
        print(f"{arguments.model}, {name}: {one:.1f} images/s bare, {other:.1f} generate", end="; ")
        print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
