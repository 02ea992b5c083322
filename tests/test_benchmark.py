"""The benchmark: its rows, its table, and what its mistakes say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finercam_clip import InputError
from finercam_clip.aviary import benchmark, causal, drawing, questions, world
from finercam_clip.evaluation import metrics
from finercam_clip.explainer import Explainer


def test_no_questions_and_unknown_kinds_are_errors() -> None:
    with pytest.raises(InputError, match="1 or more"):
        benchmark.evaluate(None, methods=["hirescam"], questions=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="attribute"):
        benchmark.evaluate(None, kinds=["fish"], methods=["hirescam"], questions=1)  # type: ignore[arg-type]


def test_differences_are_taken_question_by_question(bundled: Explainer) -> None:
    rows = benchmark.evaluate(
        bundled, kinds=["species"], methods=["hirescam"], objectives=["similarity", "finer"], questions=8, causal=False
    )
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
        bundled, kinds=["species"], methods=["hirescam"], objectives=["finer-strongest"], questions=2, seed=7
    )
    assert (row.kind, row.method, row.objective, row.questions) == ("species", "hirescam", "finer-strongest", 2)
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


def test_each_objective_has_its_own_strength_and_siblings_are_all_contrasts(bundled: Explainer) -> None:
    """The paper's formula at gamma 0.6 and the default at 1; the heat of one question is recomputed by hand."""
    rows = benchmark.evaluate(
        bundled, kinds=["attribute"], methods=["hirescam"], questions=1, seed=5, causal=False, siblings=True
    )
    question = questions.make_question("attribute", 5)
    assert len(question.siblings) > 1
    for row in rows[:3]:
        heat = bundled.explain(
            question.scene.image,
            question.target,
            list(question.siblings),
            objective=row.objective,  # type: ignore[arg-type]
            gamma=1.0 if row.objective == "finer-strongest" else 0.6,
        ).heatmap
        assert row.figures["energy"][0] == pytest.approx(heat[question.answer].sum() / heat.sum(), rel=1e-3)


def test_rows_are_the_same_after_json_and_the_table_leaves_empty_columns_out(bundled: Explainer) -> None:
    rows = benchmark.evaluate(bundled, kinds=["two birds", "absent"], methods=["hirescam"], questions=3, causal=False)
    kept = [benchmark.Row(**row) for row in json.loads(json.dumps([vars(row) for row in rows]))]
    table = benchmark.format_table(rows)
    assert benchmark.format_table(kept) == table
    header, rule, *lines = table.splitlines()
    assert "pair accuracy" not in header  # of two birds both texts are true
    assert header.startswith("| questions | method | objective | pointing | near | energy |")
    assert rule.count("---:") == header.count("|") - 4
    assert [line.split(" | ")[0] for line in lines] == ["| 3 two birds"] * 6 + ["| 3 absent"]
    assert set(rows[-1].figures) == {"flagged", "auroc"}


def test_an_absent_target_is_told_apart_from_its_contrast_and_not_from_the_truth(bundled: Explainer) -> None:
    """Against the true text every caution is easy: the image fits that one better."""
    (row,) = benchmark.evaluate(bundled, kinds=["absent"], methods=["hirescam"], questions=24, seed=500000)
    asked = [questions.make_question("absent", 500000 + i) for i in range(24)]
    cautions = [bundled.explain(q.scene.image, q.target, [q.contrast]).caution is not None for q in asked]
    truths = [bundled.explain(q.scene.image, q.target, [q.siblings[-1]]).caution is not None for q in asked]
    assert np.mean(cautions) < np.mean(truths)
    assert row.figures["flagged"][0] == pytest.approx(np.mean(cautions))


# ------------------------------------------------------------------------------------------------------- causal truth


def test_swaps_change_one_trait_each_of_the_same_picture(bundled: Explainer) -> None:
    """The effects are recomputed by hand: drawn again, encoded, scored."""
    question = questions.make_question("species", 3)
    texts = bundled.embed([question.target, question.contrast])
    swaps = causal.swaps_of(bundled, question, bundled.encode(question.scene.image).embedding, texts)
    assert (drawing.draw(question.scene.birds, question.key, size=questions.SIZE).image == question.scene.image).all()
    rng = np.random.default_rng((*question.key, 77))
    scale = bundled.loaded.space.scale
    whole = bundled.explain(question.scene.image, question.target, [question.contrast]).similarities
    falls: dict[str, list[float]] = {}
    for slot in world.SLOTS:
        part = world.part_of(slot)
        if part in swaps.after:
            bird = world.change_trait(question.scene.birds[0], slot, rng)
            assert sum(a != b for a, b in zip(bird.values, question.scene.birds[0].values, strict=True)) == 1
            image = drawing.draw(bird, question.key, size=questions.SIZE).image
            now = bundled.explain(image, question.target, [question.contrast]).similarities
            lost = {text: scale * (whole[text] - now[text]) for text in whole}
            falls.setdefault(part, []).append(lost[question.target] - 0.6 * lost[question.contrast])
    effects = swaps.effects("finer", 0.6)
    assert set(effects) == set(falls)
    for part, values in falls.items():
        assert effects[part] == pytest.approx(max(values), abs=2e-2)


def test_agreement_orders_maps_by_their_quality() -> None:
    """The effects themselves as heat agree; their complement does not; noise is in between."""
    question = questions.make_question("species", 5)
    masks = question.scene.masks[0]
    effects = {part: float(i) for i, part in enumerate(p for p in world.PARTS if masks[p].mean() >= 0.002)}
    truth = sum(effects[part] * masks[part] for part in effects).astype(np.float32)
    complement = (max(effects.values()) - truth).astype(np.float32)
    noise = np.random.default_rng(0).random(truth.shape).astype(np.float32)
    ranks = [causal.agreement(heat, question, effects)["causal rank"] for heat in (truth, noise, complement)]
    assert ranks[0] > ranks[1] > ranks[2]
    assert [ranks[0], ranks[2]] == pytest.approx([1, -1])
    assert causal.agreement(truth, question, effects)["causal hit"] == 1
    assert causal.agreement(complement, question, effects)["causal hit"] == 0
    assert causal.agreement(np.zeros_like(truth), question, effects) == {"causal rank": 0, "causal hit": 0}


def test_causal_columns_stand_beside_the_others(bundled: Explainer) -> None:
    rows = benchmark.evaluate(bundled, kinds=["attribute"], methods=["hirescam"], questions=2)
    assert "| drop | causal rank | causal hit | chance |" in benchmark.format_table(rows)
    assert {"causal rank", "causal hit"} <= set(rows[-1].figures)  # of the difference, too
