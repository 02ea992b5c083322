"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A Markdown table.

    Args:
        header: The title of each column.
        rows: A cell per column each.
        numbers: How many of the last columns hold numbers, which are aligned to the right.
    """
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
