"""The benchmark: its rows, its table, and what its mistakes say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finercam_clip import InputError
from finercam_clip.aviary import benchmark, questions
from finercam_clip.evaluation import metrics
from finercam_clip.explainer import Explainer


def test_no_questions_and_unknown_kinds_are_errors() -> None:
    with pytest.raises(InputError, match="1 or more"):
        benchmark.evaluate(None, methods=["hirescam"], questions=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="attribute"):
        benchmark.evaluate(None, kinds=["fish"], methods=["hirescam"], questions=1)  # type: ignore[arg-type]


def test_differences_are_taken_question_by_question(bundled: Explainer) -> None:
    rows = benchmark.evaluate(bundled, kinds=["species"], methods=["hirescam"], questions=8)
    assert [row.objective for row in rows] == ["similarity", "finer", "finer - similarity"]
    plain, finer, gain = rows
    for name in ("pointing", "near", "energy", "precision", "drop"):
        assert gain.figures[name][0] == pytest.approx(finer.figures[name][0] - plain.figures[name][0])
    # The same picture with and without a contrast: the two figures vary together, and their difference varies less.
    width = {row.objective: row.figures["drop"][2] - row.figures["drop"][1] for row in rows}
    assert width["finer - similarity"] < width["similarity"] + width["finer"]


def test_a_row_is_the_mean_of_its_questions(bundled: Explainer) -> None:
    """One question of two is asked here by hand."""
    (row,) = benchmark.evaluate(
        bundled, kinds=["species"], methods=["hirescam"], objectives=["finer"], questions=2, seed=7
    )
    assert (row.kind, row.method, row.objective, row.questions) == ("species", "hirescam", "finer", 2)
    scores = []
    for seed in (7, 8):
        question = questions.make_question("species", seed)
        explanation = bundled.explain(question.scene.image, question.target, [question.contrast], method="hirescam")
        assert explanation.peak is not None
        cell = max(question.answer.shape) / max(explanation.grid.shape)
        scores.append(
            {
                "pair accuracy": explanation.similarities[question.target]
                > explanation.similarities[question.contrast],
                "pointing": question.answer[explanation.peak[::-1]],
                "near": metrics.distance_to(question.answer, explanation.peak) <= cell / 2,
                "energy": explanation.heatmap[question.answer].sum() / explanation.heatmap.sum(),
                "precision": metrics.average_precision(explanation.heatmap, question.answer),
                "chance": question.answer.mean(),
            }
        )
    for name in scores[0]:
        assert row.figures[name][0] == pytest.approx(np.mean([score[name] for score in scores]), rel=1e-3), name


def test_rows_are_the_same_after_json_and_the_table_leaves_empty_columns_out(bundled: Explainer) -> None:
    rows = benchmark.evaluate(bundled, kinds=["two birds", "absent"], methods=["hirescam"], questions=3)
    kept = [benchmark.Row(**row) for row in json.loads(json.dumps([vars(row) for row in rows]))]
    table = benchmark.format_table(rows)
    assert benchmark.format_table(kept) == table
    header, rule, *lines = table.splitlines()
    assert "pair accuracy" not in header  # of two birds both texts are true
    assert header.startswith("| questions | method | objective | pointing | near | energy |")
    assert rule.count("---:") == header.count("|") - 4
    assert [line.split(" | ")[0] for line in lines] == ["| 3 two birds"] * 3 + ["| 3 absent"]
    assert set(rows[-1].figures) == {"flagged", "auroc"}
