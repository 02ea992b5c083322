"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int | tuple[int, ...] = 0) -> str:
    """A Markdown table.

    Args:
        header: The title of each column.
        rows: A cell per column each.
        numbers: Which columns hold numbers, which are aligned to the right: their indices, or how many of the last.
    """
    right = range(len(header) - numbers, len(header)) if isinstance(numbers, int) else numbers
    rule = ["---:" if i in right else "---" for i in range(len(header))]
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
