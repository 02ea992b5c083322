"""Runs whose processes are killed at random moments. A process of its own, so that it can be forked cheaply.

    python killed.py MODEL DATASET FOLDER SETTINGS SEED...

makes FOLDER/<seed>, with a MODEL of `MODELS` and SETTINGS of `generate` as JSON, by one process, or for an odd seed by
two that share the run. They are killed with -9 at three random moments and started again. FOLDER/<seed>.log has a line
"begin N" or "done N" for each shard that a process began or has written.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

torch.set_num_threads(1)  # more would not survive a fork

import finercam_clip  # noqa: E402
from finercam_clip.datasets import open_dataset  # noqa: E402
from finercam_clip.explainer import Explainer  # noqa: E402
from finercam_clip.runs import Share, generate, work  # noqa: E402

SETTINGS: dict[str, Any] = {"shard_size": 3, "batch": 2, "threads": 1}  # of a few images


def small() -> Explainer:
    """A classifier of random weights that takes milliseconds."""
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=4).eval()
    return finercam_clip.wrap(model, classes=["robin", "wren", "jay", "gull"], name="small")


MODELS: dict[str, Callable[[], Explainer]] = {"bundled": finercam_clip.load, "small": small}


def started(explainer: Explainer, source: str, run: Path, share: Share, settings: dict[str, Any]) -> int:
    """Forks a process that works on a share of a run. Returns its number."""
    process = os.fork()
    if process:
        return process
    log = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    compute = work.computed_shard

    def logged(job: Any, store: Any, number: int, *rest: Any) -> Any:
        os.write(log, f"begin {number}\n".encode())
        shard = compute(job, store, number, *rest)
        os.write(log, f"done {number}\n".encode())
        return shard

    work.computed_shard = logged  # type: ignore[assignment]
    try:
        generate(explainer, open_dataset(source), run, share=share, **settings)
    finally:
        os._exit(0)
    return 0


def wait(log: Path, luck: random.Random) -> None:
    """Waits for up to two more lines of a log, and then for a moment."""
    enough = _lines(log) + luck.randint(0, 2)
    deadline = time.monotonic() + 10
    while _lines(log) < enough and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(luck.uniform(0, 0.2))


def _lines(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def main() -> None:
    model, source, folder, given, *seeds = sys.argv[1:]
    settings = json.loads(given)
    explainer = MODELS[model]()
    target = {"bundled": "a bird", "small": "robin"}[model]
    explainer.explain(open_dataset(source).items[0].path, target)  # what is done once, before the forks
    for seed in seeds:
        luck, run, count = random.Random(int(seed)), Path(folder) / seed, 1 + int(seed) % 2
        shares = [Share(i, count) for i in range(count)]
        for _ in range(3):
            processes = [started(explainer, source, run, share, settings) for share in shares]
            wait(run.with_suffix(".log"), luck)
            for process in processes:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
        for share in shares:
            os.waitpid(started(explainer, source, run, share, settings), 0)


if __name__ == "__main__":
    main()
