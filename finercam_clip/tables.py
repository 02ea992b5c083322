"""Tables: in Markdown, and the cells of CSV files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a text begins that a spreadsheet would compute, or that was defused


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


def defused(text: str) -> str:
    """A text as the cell of a CSV file that no spreadsheet takes for a formula: with a "'" before it if need be."""
    return f"'{text}" if _FORMULA.match(text) else text


def undefused(cell: str) -> str:
    """The way back from `defused`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
