"""Trainings that are small, and that are stopped in the middle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from finercam_clip.runs.pictures import threads_of


def batches_done(module: ModuleType, train: Callable[[], None], stop: int | None = None) -> int:
    """Trains to the end, or until batch `stop` of this run breaks.

    Args:
        module: Whose `batch_losses` the training calls once per batch.
        train: Runs it.
        stop: None: nothing breaks.

    Returns:
        How many batches were done.
    """
    done = 0
    of_batch: Callable[..., dict[str, Tensor]] = module.batch_losses

    def batch_losses(*arguments: object) -> dict[str, Tensor]:
        nonlocal done
        if done == stop:
            raise KeyboardInterrupt
        done += 1
        return of_batch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "batch_losses", batch_losses)
        if stop is None:
            train()
        else:
            with pytest.raises(KeyboardInterrupt):
                train()
    return done


@contextmanager
def shrunk(
    module: ModuleType, path: Path, vision: dict[str, Any], text: dict[str, Any]
) -> Iterator[pytest.MonkeyPatch]:
    """Inside, a training takes its architecture with other settings, on one thread, so that a step takes no time.

    Args:
        module: What has the path of the architecture's configuration, `CONFIG`.
        path: Where the changed configuration is written.
        vision: Settings of the image tower.
        text: Settings of the text tower.
    """
    config = json.loads(module.CONFIG.read_text())
    config["model_cfg"]["vision_cfg"] |= vision
    config["model_cfg"]["text_cfg"] |= text
    path.write_text(json.dumps(config))
    with threads_of(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CONFIG", path)
        yield patch
