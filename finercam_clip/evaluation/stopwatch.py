"""What time is spent on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Seconds by kind of work, and how many pictures went through the model.

    Attributes:
        seconds: Kind of work -> seconds.
        passes: Pictures that went through the model to be scored.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    passes: int = 0

    @contextmanager
    def on(self, work: str) -> Iterator[None]:
        """Inside, time goes to a kind of work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[work] = self.seconds.get(work, 0.0) + time.perf_counter() - began

    def line(self) -> str:
        """The split of cost, for people."""
        total = sum(self.seconds.values())
        if not total:
            return "cost: nothing was computed"
        parts = ", ".join(f"{work} {seconds / total:.0%}" for work, seconds in self.seconds.items())
        return f"cost: {total:.0f} s, {self.passes:,} pictures through the model: {parts}"
