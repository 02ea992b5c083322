"""Tables in Markdown."""

from __future__ import annotations

import pytest

from finercam_clip.tables import markdown

HEADER = ["method", "pointing", "seconds"]
ROWS = [["hirescam", "0.91", "0.2"], ["gradcam", "0.84", "0.2"], ["rise", "0.52", "31"]]


def cells(line: str) -> list[str]:
    """As Markdown reads a line: what stands between its first and its last bar."""
    assert line[0] == line[-1] == "|"
    return [cell.strip() for cell in line[1:-1].split("|")]


def test_a_table_is_its_header_a_rule_and_its_rows() -> None:
    assert markdown(["method", "pointing"], [["hirescam", "0.91"], ["rise", "0.52"]], numbers=1) == (
        "| method | pointing |\n|---|---:|\n| hirescam | 0.91 |\n| rise | 0.52 |"
    )


@pytest.mark.parametrize("numbers", range(4))
def test_every_line_has_a_cell_per_column(numbers: int) -> None:
    header, rule, *rows = (cells(line) for line in markdown(HEADER, ROWS, numbers=numbers).split("\n"))
    assert header == HEADER
    assert len(rule) == len(HEADER)
    assert rows == ROWS


@pytest.mark.parametrize("numbers", range(4))
def test_the_last_columns_are_aligned_to_the_right_and_no_others(numbers: int) -> None:
    rule = cells(markdown(HEADER, ROWS, numbers=numbers).split("\n")[1])
    assert [cell.endswith(":") for cell in rule] == [i >= 3 - numbers for i in range(3)]
    assert all(set(cell.rstrip(":")) == {"-"} and len(cell) >= 3 for cell in rule)


def test_columns_are_text_unless_said_otherwise() -> None:
    assert markdown(HEADER, ROWS) == markdown(HEADER, ROWS, numbers=0)


def test_rows_may_be_read_only_once() -> None:
    assert markdown(HEADER, iter(ROWS)) == markdown(HEADER, ROWS)


def test_without_rows_the_header_stands_alone() -> None:
    assert markdown(HEADER, []).split("\n") == ["| method | pointing | seconds |", "|---|---|---|"]
