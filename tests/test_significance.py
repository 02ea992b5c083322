"""Is a map more than chance? The p-values against their definition, and what the null of a question is."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.models import BLUE, GREEN, NOISE, RED
from scipy.stats import spearmanr

from finercam_clip import InputError, render
from finercam_clip.aviary import demo
from finercam_clip.aviary.questions import make_question
from finercam_clip.concepts.vocabulary import read_prompts
from finercam_clip.evaluation.metrics import auroc
from finercam_clip.explainer import Explainer
from finercam_clip.significance import FEWEST, HARDLY, LEVEL, p_values, significance_of
from finercam_clip.tensors import unit_norm

MAPS = np.random.default_rng(0).normal(size=(40, 3, 4)).astype(np.float32)
WORDS = [f"a {size} {colour} thing" for size in ("small", "large", "round", "flat") for colour in "abcdefgh"]
RECTIFIED: dict[str, Any] = {"objective": "finer-rectified", "gamma": 1.0}


# --------------------------------------------------------------------------------------------------------- statistics


def test_a_p_value_is_the_share_of_maps_that_reach_the_cell_anywhere() -> None:
    grid, null = MAPS[0], MAPS[1:]
    mean = MAPS.astype(np.float64).mean(0)
    for cell in np.ndindex(grid.shape):
        height = float(grid[cell] - mean[cell])
        reached = sum(
            any(other[c] > 0 and other[c] - mean[c] >= height for c in np.ndindex(grid.shape)) for other in null
        )
        expected = (1 + reached) / (1 + len(null)) if grid[cell] > 0 else 1
        assert p_values(grid, null)[cell] == pytest.approx(expected)


def test_the_lowest_p_values_of_exchangeable_maps_are_all_ranks() -> None:
    """Each map of a set in the target's place: every rank once, so that the p-value is exactly uniform."""
    lowest = [p_values(MAPS[i], np.delete(MAPS, i, 0)).min() for i in range(len(MAPS))]
    np.testing.assert_allclose(sorted(lowest), np.arange(1, len(MAPS) + 1) / len(MAPS), rtol=1e-6)


def test_what_all_maps_share_does_not_count() -> None:
    high = MAPS + 10  # so that every cell speaks for its text, whatever is added
    shared = np.random.default_rng(1).uniform(0, 9, MAPS.shape[1:]).astype(np.float32)
    np.testing.assert_array_equal(p_values(high[0] - shared, high[1:] - shared), p_values(high[0], high[1:]))


def test_a_map_that_speaks_for_nothing_stands_out_nowhere() -> None:
    assert (p_values(-np.abs(MAPS[0]), MAPS[1:]) == 1).all()
    assert (p_values(MAPS[0], -np.abs(MAPS[1:]))[MAPS[0] > 0] == np.float32(1 / len(MAPS))).all()


def test_p_values_do_not_depend_on_units_or_on_the_order_of_the_null() -> None:
    own = p_values(MAPS[0], MAPS[1:])
    np.testing.assert_array_equal(p_values(8 * MAPS[0], 8 * MAPS[1:]), own)
    np.testing.assert_array_equal(p_values(MAPS[0], MAPS[:0:-1]), own)


def test_z_and_specific_are_those_of_the_textbook() -> None:
    grid, null = MAPS[0] + np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 4), MAPS[1:]
    answer = significance_of(grid, null, grid)
    np.testing.assert_allclose(answer.z, (grid - null.mean(0)) / null.std(0, ddof=1), rtol=1e-4, atol=1e-5)
    correlation = float(spearmanr(grid, null.mean(0), axis=None).statistic)
    assert answer.specific == pytest.approx(1 - max(correlation, 0))


def test_specific_is_about_the_target_and_not_about_what_is_subtracted() -> None:
    subtracted = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32) * 5
    alone = significance_of(MAPS[0], MAPS[1:], MAPS[0])
    beside = significance_of(2 * MAPS[0] - subtracted, 2 * MAPS[1:] - subtracted, MAPS[0], weight=2)
    assert beside.specific == pytest.approx(alone.specific, abs=1e-6)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_map_of_any_text_is_not_specific(factor: float) -> None:
    answer = significance_of(factor * MAPS[0], np.stack([MAPS[0]] * 30), MAPS[0] * factor)
    assert answer.specific == pytest.approx(0, abs=1e-6)
    assert "hardly depends on your text" in str(answer.caution)
    assert (answer.z == 0).all()  # no spread, no deviation


def test_the_fewest_that_a_null_may_have_reach_the_level() -> None:
    assert pytest.approx(LEVEL) == 1 / (1 + FEWEST)


# --------------------------------------------------------------------------------------------------- nulls of questions


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "finer"},
        RECTIFIED,
        {"objective": "probability"},
        {"objective": "finer-softmax"},
        {"method": "gradcam", "refine": "affinity"},
        {"method": "layercam"},
        {"background": ["a tree", "the sky"]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:'layercam' makes every map")
def test_the_null_is_the_same_question_with_other_targets(tiny: Explainer, changes: dict[str, Any]) -> None:
    image = tiny.encode(NOISE)
    answer = image.explain(RED, [BLUE], null=WORDS, **changes)
    question = tiny.question(RED, [BLUE], null=WORDS, **changes)
    assert question.null is not None
    texts = [concept.label for concept in question.null.concepts]
    assert set(texts) <= set(WORDS)
    null = np.stack([image.explain(text, [BLUE], **changes).grid for text in texts])
    weight = image.explain(RED, [BLUE], **changes).weight
    expected = significance_of(answer.grid, null, answer.target_grid, weight=weight)
    assert answer.significance is not None
    assert answer.significance.texts == len(texts)
    np.testing.assert_allclose(answer.significance.p_values, expected.p_values, atol=1.5 / len(texts))
    np.testing.assert_allclose(answer.z, expected.z, rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(answer.grid, image.explain(RED, [BLUE], **changes).grid)


def test_without_a_null_nothing_is_compared(tiny: Explainer) -> None:
    answer = tiny.explain(NOISE, RED, [BLUE])
    assert (answer.significance, answer.p_value, answer.specific, answer.z) == (None, None, None, None)
    assert not answer.region.any()
    assert answer.significant_boxes() == []
    assert answer.to_dict()["null"] is None


def test_target_contrasts_and_what_is_near_the_target_are_not_in_its_null(tiny: Explainer) -> None:
    null = tiny.question([RED, GREEN], [BLUE], null=[*WORDS, RED.upper(), GREEN, BLUE, *WORDS]).null
    assert null is not None
    labels = [concept.label for concept in null.concepts]
    assert len(set(labels)) == len(labels)
    assert set(labels) <= set(WORDS)
    own = tiny.embed([[RED, GREEN]])[0]
    every = tiny.embed([*WORDS])
    typical = np.mean([float(every[i] @ every[j]) for i in range(len(every)) for j in range(i)])
    others = tiny.embed([*WORDS]) @ own
    kept = {word for word, cosine in zip(WORDS, others.tolist(), strict=True) if cosine < (1 + typical) / 2}
    assert len(set(labels) ^ kept) <= 2  # the mean cosine here is without BLUE


def test_near_is_halfway_between_a_typical_pair_and_the_target_itself(bundled: Explainer) -> None:
    null = bundled.question("a bird with a red crown", (), null="aviary").null
    assert null is not None
    missing = set(read_prompts("aviary")) - {concept.label for concept in null.concepts}
    assert "a bird with a red crown" in missing
    assert len(missing) < 10
    synonyms = [*read_prompts("aviary"), "a bird with a red cap", "red cap", "a red crown"]
    null = bundled.question("a bird with a red crown", (), null=synonyms).null
    assert null is not None
    assert not {"a bird with a red cap", "red cap", "a red crown"} & {concept.label for concept in null.concepts}


def test_contrasts_that_are_chosen_per_image_leave_the_null_then(tiny: Explainer) -> None:
    image = tiny.encode(NOISE)
    question = tiny.question(RED, 3, vocabulary=WORDS, null=WORDS)
    chosen = question.about(image.embedding)
    assert question.null is not None
    assert chosen.null is not None
    own = {concept.label for concept in chosen.concepts}
    assert not own & {concept.label for concept in chosen.null.concepts}
    kept = [i for i, concept in enumerate(question.null.concepts) if concept.label not in own]
    torch.testing.assert_close(chosen.null.directions, question.null.directions[kept])
    assert image.answer(question).significance is not None


def test_words_that_the_model_does_not_know_leave_the_null(bundled: Explainer) -> None:
    null = bundled.question("a red crown", (), null=[*read_prompts("aviary"), "a toaster"]).null
    assert null is not None
    assert "a toaster" not in {concept.label for concept in null.concepts}


@pytest.mark.parametrize(
    ("source", "fragments"),
    [
        ("everyday", ["'everyday'", "needs 19"]),
        (WORDS[:3], ["0 concepts", "longer list"]),
        ("nothing", ["there are no prompts 'nothing'"]),
        ("classes", ["for classifiers", "everyday"]),
    ],
)
def test_a_null_that_cannot_serve_is_refused(bundled: Explainer, source: Any, fragments: list[str]) -> None:
    with pytest.raises(InputError) as error:
        bundled.question("a red crown", (), null=source)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_the_null_of_a_classifier_is_its_other_classes(photos: Explainer) -> None:
    answer = photos.explain(NOISE, "toaster", 3, null="classes")
    assert answer.significance is not None
    assert 980 < answer.significance.texts < 997
    with pytest.raises(InputError, match="null='classes'"):
        photos.explain(NOISE, "toaster", null="everyday")


def test_the_nearest_classes_are_those_whose_rows_are_most_like_the_targets(
    photos: Explainer, bundled: Explainer
) -> None:
    """But for the bias, which is the last dimension."""
    null = photos.question("toaster", ("waffle iron",), null="nearest").null
    every = photos.question("toaster", ("waffle iron",), null="classes").null
    assert null is not None
    assert every is not None
    own = unit_norm(photos.embed(["toaster"])[0, :-1])
    rows = unit_norm(every.directions[:, :-1])
    cosines = {concept.key: float(row @ own) for concept, row in zip(every.concepts, rows, strict=True)}
    names = [concept.key for concept in null.concepts]
    assert 58 <= len(names) <= 60
    others = [key for key in cosines if key not in names]
    assert min(cosines[key] for key in names) > np.quantile([cosines[key] for key in others], 0.95)
    with pytest.raises(InputError, match="null='nearest' is for classifiers"):
        bundled.question("a red crown", (), null="nearest")


def test_a_method_that_is_not_linear_tells_the_price_first(tiny: Explainer) -> None:
    with pytest.warns(UserWarning, match=r"'layercam' makes every map of the null by itself: .* \d+ times"):
        tiny.explain(NOISE, RED, null=WORDS, method="layercam")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.explain(NOISE, RED, null=WORDS)


@pytest.mark.parametrize("name", ["everyday", "traits"])
def test_the_packaged_nulls_are_lists_of_some_hundred_things(name: str) -> None:
    assert 300 <= len(read_prompts(name)) <= 500
    assert all(len(text) < 60 for text in read_prompts(name))


# ----------------------------------------------------------------------------------------------------------- the answer


def test_the_answer_says_what_stands_out(bundled: Explainer) -> None:
    answer = bundled.explain(demo.IMAGE, "a bird with a red crown", ["a bird with a blue crown"], null="aviary")
    stored = json.loads(answer.to_json())["null"]
    assert stored["p_value"] == answer.p_value == answer.significance.p_values.min() <= 0.15  # type: ignore[union-attr]
    assert np.shape(stored["p_values"]) == np.shape(stored["z"]) == answer.grid.shape
    assert answer.caution is None
    crown = demo.demo_scene().masks[0]["crown"]
    assert answer.region.any()
    assert crown[answer.region].mean() > 0.5
    boxes = answer.significant_boxes()
    assert [list(box) for box in boxes] == stored["boxes"]
    for x0, y0, x1, y1, _ in boxes:
        assert answer.region[y0:y1, x0:x1].any()
    outside = answer.region.copy()
    for x0, y0, x1, y1, _ in boxes:
        outside[y0:y1, x0:x1] = False
    assert not outside.any()


def test_the_line_is_drawn_on_the_last_picture_of_the_panel(bundled: Explainer) -> None:
    for contrasts in ((), ("a bird with a blue crown",)):
        plain = bundled.explain(demo.IMAGE, "a bird with a red crown", contrasts).tiles()
        tiles = bundled.explain(demo.IMAGE, "a bird with a red crown", contrasts, null="aviary").tiles()
        changed = [bool((a.image != b.image).any()) for a, b in zip(plain, tiles, strict=True)]
        assert changed == [False] * (len(tiles) - 1) + [True]
        assert "p-value" in tiles[-1].caption + tiles[-1].note
        assert not tiles[-1].warning


def test_any_model_cautions_where_others_light_up_as_much() -> None:
    low = significance_of(MAPS[0] / 10, MAPS[1:], MAPS[0] / 10)
    assert low.p_value > LEVEL
    assert str(low.caution) == f"{low.p_value:.0%} of other texts light up as much: the target may not be there"
    high = significance_of(MAPS[0] * 10, MAPS[1:], MAPS[0] * 10)
    assert high.p_value == np.float32(1 / len(MAPS))
    assert high.caution is None


def _grown(region: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    grown = region.copy()
    for axis in (0, 1):
        moved = [np.roll(np.pad(grown, pixels), shift, axis) for shift in range(-pixels, pixels + 1)]
        grown = np.any(moved, 0)[pixels:-pixels, pixels:-pixels]
    return grown


@pytest.mark.parametrize("box", [(20, 20, 60, 70), (0, 0, 30, 30), (0, 0, 120, 90)], ids=str)
def test_a_line_runs_along_the_edge_of_a_region_only(box: tuple[int, int, int, int]) -> None:
    image = np.full((90, 120, 3), 128, np.uint8)
    region = np.zeros((90, 120), np.bool_)
    x0, y0, x1, y1 = box
    region[y0:y1, x0:x1] = True
    drawn = (render.outlined(image, region) != image).any(-1)
    within = np.pad(region, 1)  # the picture's own edge is an edge of the region, too
    inner = ~_grown(~within, 4)[1:-1, 1:-1]
    assert drawn.any()
    assert not drawn[inner].any()
    assert not drawn[~_grown(region, 4)].any()
    assert drawn[y0 + 20, x0]


def test_no_region_leaves_the_picture_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(render.outlined(image, np.zeros((20, 30), np.bool_)), image)


# -------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.slow
def test_targets_of_the_null_itself_are_significant_as_often_as_they_may_be(bundled: Explainer) -> None:
    rng, texts, lowest = np.random.default_rng(0), read_prompts("aviary"), []
    for seed in range(20):
        image = bundled.encode(make_question("attribute", 600_000 + seed).scene.image)
        for text in rng.choice(texts, 20, replace=False):
            lowest.append(image.explain(str(text), null="aviary").p_value)
    assert 0.02 < np.mean(np.array(lowest, float) <= 0.05) < 0.08
    assert 0.4 < np.mean(np.array(lowest, float) <= 0.5) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("contrasted", [False, True])
def test_absent_targets_stand_out_less_than_present_ones(bundled: Explainer, contrasted: bool) -> None:
    absent, present = [], []
    for seed in range(60):
        question = make_question("absent", 610_000 + seed)
        image, contrasts = bundled.encode(question.scene.image), [question.contrast] if contrasted else []
        for text, values in ((question.target, absent), (question.siblings[-1], present)):
            values.append(image.explain(text, contrasts, null="aviary", **RECTIFIED).p_value)
    assert auroc(-np.array(present, float), -np.array(absent, float)) > 0.93
    assert np.mean(np.array(absent, float) > 0.15) > 0.85
    assert np.mean(np.array(present, float) > 0.15) < 0.2


@pytest.mark.slow
def test_maps_of_random_towers_say_that_they_hardly_depend_on_the_text(vit_b_16: Explainer, bundled: Explainer) -> None:
    values: list[list[float]] = [[], []]
    for seed in range(8):
        question = make_question("attribute", 620_000 + seed)
        for model, own in zip((vit_b_16, bundled), values, strict=True):
            own.append(float(model.explain(question.scene.image, question.target, null="aviary").specific or 0))
    assert np.mean(np.array(values[0]) < HARDLY) > 0.8
    assert np.mean(np.array(values[1]) < HARDLY) < 0.2
