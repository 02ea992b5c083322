"""Batches that fit: out of memory halves the batch and goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def in_batches(run: Callable[[Any], list[Result]], items: Any, batch: int) -> list[Result]:
    """What `run` makes of `items`, a sliceable of known length, `batch` at a time: one result an item."""
    found: list[Result] = []
    while len(found) < len(items):
        try:
            found += run(items[len(found) :][:batch])
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            warnings.warn(f"out of memory: going on with batches of {batch}", stacklevel=3)
    return found
