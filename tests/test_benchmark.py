"""The benchmark's own arithmetic, against closed forms and brute force; its questions, against what they claim."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from finercam_clip import InputError
from finercam_clip.aviary import benchmark, sanity, world
from finercam_clip.explainer import Explainer

SEEDS = range(12)


def test_average_precision_of_perfect_inverted_and_constant_heat() -> None:
    answer = np.zeros((10, 10), bool)
    answer[:2] = True  # a fifth of the pixels
    heat = answer.astype(np.float32)
    assert benchmark.average_precision(heat, answer) == 1.0
    assert benchmark.average_precision(1 - heat, answer) == pytest.approx(0.2)
    assert benchmark.average_precision(np.zeros_like(heat), answer) == pytest.approx(0.2)  # chance


def test_average_precision_is_the_mean_precision_at_every_hit() -> None:
    rng = np.random.default_rng(0)
    heat = rng.permutation(60).astype(np.float32).reshape(6, 10)  # no two pixels alike
    answer = rng.random((6, 10)) < 0.3
    hits = answer.ravel()[np.argsort(-heat.ravel())]
    precisions = [hits[: i + 1].mean() for i in range(60) if hits[i]]
    assert benchmark.average_precision(heat, answer) == pytest.approx(np.mean(precisions))


def test_auroc_counts_the_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 6, 20).astype(float), rng.integers(0, 4, 30).astype(float)  # with ties
    pairs = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative)]
    assert benchmark.auroc(positive.tolist(), negative.tolist()) == pytest.approx(np.mean(pairs))


def test_masking_takes_the_hottest_pixels_and_no_others() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 200, (40, 50, 3)).astype(np.uint8)
    image[0, 0] = 255
    heat = rng.random((40, 50)).astype(np.float32)
    masked = benchmark.without_hottest(image, heat)
    changed = (masked != image).any(-1)
    assert abs(int(changed.sum()) - 100) <= 1  # 5 % of 2,000; a pixel may have the mean colour already
    assert heat[changed].min() > heat[~changed].max() - 0.01


def test_relative_confidence_drop_is_the_papers() -> None:
    before, after = np.float32([0.7, 0.2, 0.1]), np.float32([0.3, 0.5, 0.2])
    assert benchmark.confidence_drop(before, after) == pytest.approx((0.7 - 0.3) - (0.2 - 0.5))


@pytest.mark.parametrize("kind", benchmark.KINDS)
def test_a_question_is_a_function_of_its_seed_and_shows_what_it_asks_about(kind: str) -> None:
    for seed in SEEDS:
        one, two = benchmark.make_question(kind, seed), benchmark.make_question(kind, seed)
        assert (one.target, one.contrast) == (two.target, two.contrast)
        assert np.array_equal(one.scene.image, two.scene.image)
        assert one.answer.mean() >= 0.002
        assert one.contrast == one.siblings[0]
        assert one.target not in one.siblings
        words = zip(one.target.split(), one.contrast.split(), strict=True)
        changed = [(a, b) for a, b in words if a != b and {a, b} != {"a", "an"}]
        assert len(changed) == 1, (one.target, one.contrast)


def _named(text: str) -> tuple[world.Trait, ...]:
    """The traits that a plain text names."""
    phrases = re.split(", | and ", text.removeprefix("a bird with "))
    traits = {world.trait_phrase(trait): trait for trait in world.TRAITS}
    return tuple(traits[phrase] for phrase in phrases)


def _claims(text: str, bird: world.Bird) -> bool:
    return set(_named(text)) <= set(bird.traits)


def test_targets_are_true_and_contrasts_false() -> None:
    for seed in SEEDS:
        for kind in ("attribute", "species", "unseen"):
            question = benchmark.make_question(kind, seed)
            assert _claims(question.target, question.scene.birds[0]), question.target
            assert not any(_claims(text, question.scene.birds[0]) for text in question.siblings)
        both = benchmark.make_question("two birds", seed)
        assert [_claims(both.target, bird) for bird in both.scene.birds] == [True, False]
        assert [_claims(both.contrast, bird) for bird in both.scene.birds] == [False, True]
        absent = benchmark.make_question("absent", seed)
        assert [_claims(t, absent.scene.birds[0]) for t in (absent.target, absent.contrast)] == [False, False]
        assert _claims(absent.siblings[-1], absent.scene.birds[0])


def test_unseen_questions_name_a_combination_that_training_never_saw() -> None:
    for seed in SEEDS:
        question = benchmark.make_question("unseen", seed)
        assert world.is_unseen(_named(question.target)), question.target


def test_wrong_kinds_seeds_and_numbers_are_errors() -> None:
    with pytest.raises(InputError, match="attribute"):
        benchmark.make_question("fish", 0)
    with pytest.raises(InputError, match="held-out"):
        benchmark.make_question("attribute", world.TRAINING_SEEDS)
    with pytest.raises(InputError, match="1 or more"):
        benchmark.evaluate(None, methods=["hirescam"], questions=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 or more"):
        sanity.check_sanity(None, questions=0)  # type: ignore[arg-type]


def test_near_is_within_half_a_cell_of_the_part() -> None:
    answer = np.zeros((200, 200), bool)
    answer[100:110, 50:60] = True
    assert benchmark._distance(answer, (55, 105)) == 0
    assert benchmark._distance(answer, (62, 105)) == 3  # x from 50 to 59
    assert benchmark._distance(answer, (46, 97)) == 5


def test_differences_are_taken_question_by_question(bundled: Explainer) -> None:
    rows = benchmark.evaluate(bundled, kinds=["species"], methods=["hirescam"], questions=8)
    assert [row.objective for row in rows] == ["similarity", "finer", "finer - similarity"]
    plain, finer, gain = rows
    for name in ("pointing", "energy", "precision", "drop"):
        assert gain.figures[name][0] == pytest.approx(finer.figures[name][0] - plain.figures[name][0])
    assert "two birds" in benchmark.format_table(
        benchmark.evaluate(bundled, kinds=["two birds"], methods=["hirescam"], questions=2)
    )


def test_sanity_checks_pass_on_the_bundled_model(bundled: Explainer) -> None:
    before = {name: tensor.clone() for name, tensor in bundled.loaded.model.state_dict().items()}
    checks = sanity.check_sanity(bundled, questions=16)
    assert all(check.passed for check in checks), sanity.format_table(checks)
    correlations = [check.value for check in checks if check.check.startswith("random weights")]
    assert len(correlations) == 6
    assert all(np.isfinite(correlations))
    after = bundled.loaded.model.state_dict()
    assert all(bool((after[name] == tensor).all()) for name, tensor in before.items())  # it was a copy that was broken
