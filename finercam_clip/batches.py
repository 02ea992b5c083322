"""Batches that fit: out of memory halves the batch and goes on. On a CPU, batches side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


class Sliceable(Protocol):
    """A list or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Any: ...


Items = TypeVar("Items", bound=Sliceable)
Result = TypeVar("Result")


_OWN = 4 * 224 * 224  # pixels of a batch on a CPU: its features stay in the caches, and memory is used again


def batch_of(pixels: Tensor) -> int:
    """How many pictures go through a model at a time: on a CPU so few that memory is not what takes the time.

    Args:
        pixels: [B, 3, H, W], on the device that computes.
    """
    if pixels.device.type != "cpu":
        return 64
    return max(_OWN // (pixels.shape[-2] * pixels.shape[-1]), 1)


def through_model(run: Callable[[Tensor], list[Result]], pixels: Tensor, *, hooked: bool) -> list[Result]:
    """Runs a model over pictures in batches: on a CPU side by side, unless hooks listen to the model.

    Args:
        run: Takes some of the pictures and returns one result per picture.
        pixels: [B, 3, H, W].
        hooked: Whether `run` listens to modules with hooks, which only one batch at a time can do.
    """
    alone = hooked or pixels.device.type != "cpu"
    return (in_batches if alone else side_by_side)(run, pixels, batch_of(pixels))


def in_batches(run: Callable[[Items], list[Result]], items: Items, batch: int) -> list[Result]:
    """Runs a function over items, several at a time.

    Args:
        run: Takes a slice of the items and returns one result per item.
        items: What is worked on.
        batch: How many items to try at once, 1 and up. It is halved, with a warning, whenever memory runs out.

    Returns:
        One result per item, in the order of the items.

    Raises:
        torch.cuda.OutOfMemoryError: Not even one item fits.
    """
    results: list[Result] = []
    batch = max(min(batch, len(items)), 1)
    while len(results) < len(items):
        try:
            results += run(items[len(results) :][:batch])
        except torch.cuda.OutOfMemoryError:  # torch.OutOfMemoryError is the same class, but exists from torch 2.5 only
            if batch == 1:
                raise
            batch //= 2
            warnings.warn(f"out of memory: going on with batches of {batch}", stacklevel=3)
    return results


def side_by_side(run: Callable[[Items], list[Result]], items: Items, batch: int) -> list[Result]:
    """Runs a function over items on the CPU: a batch on each of torch's threads at a time.

    It suits small pictures: several threads that share the sums of one batch wait for each other at every layer.

    Args:
        run: Takes a slice of the items and returns one result per item. It is called from several threads at once.
        items: What is worked on.
        batch: How many items at most are in a batch, 1 and up. All batches are of one size, but for the last.

    Returns:
        One result per item, in the order of the items.
    """
    threads = torch.get_num_threads()
    rounds = max(math.ceil(len(items) / (batch * threads)), 1)
    size = max(math.ceil(len(items) / (rounds * threads)), 1)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    if threads == 1 or len(parts) == 1:
        return [result for part in parts for result in run(part)]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [result for results in pool.map(run, parts) for result in results]
    finally:
        torch.set_num_threads(threads)  # each thread sets its own number, and with it the default
