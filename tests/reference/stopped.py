"""Trainings that are stopped in the middle."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from torch import Tensor


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
