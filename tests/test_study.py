"""The study of photographs: its tables are those of the figures that are kept, and its ranks are right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import significance
import study
import study_parts
import study_tables

from finercam_clip.datasets import Truth


def test_the_tables_are_those_of_the_figures_that_are_kept() -> None:
    text = study_tables.PAGE.read_text(encoding="utf-8")
    assert study_tables.filled(text) == text, "python docs/study.py --tables"
    for name in study_tables.TABLES:
        assert f"<!-- begin {name} -->" in text, name


def test_the_tables_of_p_values_are_those_of_the_figures_that_are_kept() -> None:
    text = significance.PAGE.read_text(encoding="utf-8")
    assert significance.filled(text) == text, "python docs/significance.py --tables"
    for name in significance.TABLES:
        assert f"<!-- begin {name} -->" in text, name


def test_the_dimensions_of_maps_are_how_many_are_independent() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(49, 49)))[0]
    for count in (1, 3, 40):
        maps = (rng.normal(size=(20_000, count)) @ basis[:count]).reshape(-1, 7, 7)
        assert significance._dimensions(maps) == pytest.approx(count, rel=0.05)


def test_no_two_cells_share_a_folder() -> None:
    names = [name for name, _ in study.steps(Path("data"), Path("run"))]
    assert len(names) == len(set(names))


def _record(heats: list[list[float]], parts: str = "abcd", asked: str = "ab") -> dict[str, Any]:
    """A photograph with a pair for each part that is asked about."""
    pairs = [
        {
            "part": part,
            "parts": list(parts),
            "lead": 0.1 * (i + 1),
            "similar": i == 0,
            "far": [name in (part, parts[-1]) for name in parts],
            "difference": [float(name == part) for name in parts],
            "heats": {"map": heat},
        }
        for i, (part, heat) in enumerate(zip(asked, heats, strict=True))
    ]
    return {"image": "x", "pairs": pairs}


def test_a_map_that_follows_the_difference_is_lifted_and_one_that_does_not_is_not() -> None:
    follows = _record([[0.9, 0.1, 0.2, 0.3], [0.1, 0.9, 0.2, 0.3]])
    assert study_parts.ranks_of(follows, "map") == [1.0, 1.0]
    assert study_parts.lift_of(follows, "map") == 1.0
    same = _record([[0.9, 0.5, 0.2, 0.3]] * 2)  # hot in a, whatever is asked
    assert study_parts.ranks_of(same, "map") == [1.0, pytest.approx(2 / 3)]
    assert study_parts.lift_of(same, "map") == 0.0
    against = _record([[0.1, 0.9, 0.8, 0.7], [0.9, 0.1, 0.8, 0.7]])
    assert study_parts.lift_of(against, "map") == -1.0
    assert (
        study_parts.correlation_of(follows, "map", "difference")
        > 0
        > study_parts.correlation_of(against, "map", "difference")
    )


def test_ranks_are_of_the_pairs_that_are_asked_for() -> None:
    record = _record([[0.9, 0.1, 0.2, 0.3], [0.8, 0.7, 0.2, 0.9]])
    assert study_parts.ranks_of(record, "map", similar=True) == [1.0]
    assert study_parts.ranks_of(record, "map", lead=0.15) == [pytest.approx(1 / 3)]
    assert study_parts.ranks_of(record, "map", part="b") == [pytest.approx(1 / 3)]
    assert study_parts.ranks_of(record, "map", other_than="b") == [1.0]
    assert study_parts.ranks_of(record, "map", far=True) == [1.0, 0.0]  # only the last part is far


def test_each_visible_part_has_the_pairs_that_differ_in_it_most() -> None:
    def looks(**parts: float) -> Any:
        return {part: (np.array([1 - value, value]),) for part, value in parts.items()}

    truth = Truth(
        classes={
            "own": looks(a=0.0, b=0.0, c=0.0, d=0.0, e=0.0),
            "one": looks(a=0.9, b=0.1, c=0.1, d=0.1, e=0.1),
            "two": looks(a=0.5, b=0.1, c=0.1, d=0.1, e=0.1),
            "three": looks(a=0.4, b=0.1, c=0.1, d=0.1, e=0.1),
            "four": looks(a=0.1, b=0.3, c=0.1, d=0.1, e=0.9),  # e is not visible
        }
    )
    points = dict.fromkeys("abcd", ((0.0, 0.0),))
    pairs = study_parts.pairs_of(truth, points, "own", list(truth.classes))
    assert [(other, part) for other, _, part, _ in pairs] == [("one", "a"), ("two", "a"), ("four", "b")]
    assert pairs[0][3] == pytest.approx(0.8)
    assert study_parts.pairs_of(truth, {"a": ((0.0, 0.0),)}, "own", list(truth.classes)) == []
