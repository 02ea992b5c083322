"""Progress: for a person at a terminal only, and not where it was switched off (`finercam-clip --quiet`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

SWITCH = "TQDM_DISABLE"  # tqdm's own environment variable, so that one word silences other libraries' bars as well

Item = TypeVar("Item")


@contextmanager
def silenced() -> Iterator[None]:
    """Inside, nothing shows progress, other libraries included."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        os.environ.pop(SWITCH)
        if before is not None:
            os.environ[SWITCH] = before


def bar(total: int, **settings: Any) -> Any:
    """A tqdm bar up to `total`."""
    from tqdm import tqdm  # here, so that the switch is thrown before tqdm reads it

    return tqdm(total=total, disable=True if os.environ.get(SWITCH) else None, **settings)


def each(items: Sequence[Item], name: str = "", *, unit: str = "image") -> Iterator[Item]:
    """The items one by one, beside a bar that goes when they are done.

    Args:
        items: What is worked on.
        name: What is done with them.
        unit: What one item is called.
    """
    with bar(len(items), desc=name or None, unit=unit, leave=False) as shown:
        for item in items:
            yield item
            shown.update()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows a line while something runs that has no count, and takes it back afterwards."""
    shown = sys.stderr.isatty() and not os.environ.get(SWITCH)
    if shown:
        print(f"{what} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
