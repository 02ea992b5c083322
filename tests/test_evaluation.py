"""Metrics and intervals, against closed forms, brute force and SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from finercam_clip.evaluation import faithfulness, intervals, metrics


def test_average_precision_of_perfect_inverted_and_constant_heat() -> None:
    answer = np.zeros((10, 10), bool)
    answer[:2] = True  # a fifth of the pixels
    heat = answer.astype(np.float32)
    assert metrics.average_precision(heat, answer) == 1.0
    assert metrics.average_precision(1 - heat, answer) == pytest.approx(0.2)
    assert metrics.average_precision(np.zeros_like(heat), answer) == pytest.approx(0.2)  # chance


def test_average_precision_is_the_mean_precision_at_every_hit() -> None:
    rng = np.random.default_rng(0)
    heat = rng.permutation(60).astype(np.float32).reshape(6, 10)  # no two pixels alike
    answer = rng.random((6, 10)) < 0.3
    hits = answer.ravel()[np.argsort(-heat.ravel())]
    precisions = [hits[: i + 1].mean() for i in range(60) if hits[i]]
    assert metrics.average_precision(heat, answer) == pytest.approx(np.mean(precisions))


def test_auroc_counts_the_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 6, 20).astype(float), rng.integers(0, 4, 30).astype(float)  # with ties
    pairs = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative)]
    assert metrics.auroc(positive.tolist(), negative.tolist()) == pytest.approx(np.mean(pairs))


def test_masking_takes_the_hottest_pixels_and_no_others() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 200, (40, 50, 3)).astype(np.uint8)
    image[0, 0] = 255
    heat = rng.random((40, 50)).astype(np.float32)
    masked = faithfulness.without_hottest(image, heat)
    changed = (masked != image).any(-1)
    assert abs(int(changed.sum()) - 100) <= 1  # 5 % of 2,000; a pixel may have the mean colour already
    assert heat[changed].min() > heat[~changed].max() - 0.01
    assert (masked[changed] == image.reshape(-1, 3).mean(0).round()).all()


def test_relative_confidence_drop_is_the_papers() -> None:
    before, after = np.float32([0.7, 0.2, 0.1]), np.float32([0.3, 0.5, 0.2])
    assert faithfulness.confidence_drop(before, after) == pytest.approx((0.7 - 0.3) - (0.2 - 0.5))


def test_a_peak_points_at_the_answer_if_it_is_on_it_and_is_near_up_to_the_tolerance() -> None:
    answer = np.zeros((200, 300), bool)
    answer[100:110, 50:60] = True
    for peak, distance in (((55, 105), 0), ((62, 105), 3), ((46, 97), 5)):  # x from 50 to 59, y from 100 to 109
        assert metrics.distance_to(answer, peak) == distance
        assert metrics.pointing(answer, peak) == (distance == 0)
        assert metrics.near(answer, peak, distance)
        assert not metrics.near(answer, peak, distance - 0.01)
    assert not metrics.pointing(answer, None)
    assert not metrics.near(answer, None, 1000)


def test_energy_is_the_share_of_the_heat_on_the_answer() -> None:
    heat = np.float32([[0.5, 0.25], [0.25, 0.0]])
    answer = np.array([[True, False], [False, True]])
    assert metrics.energy(heat, answer) == 0.5
    assert metrics.energy(heat, ~answer) == 0.5
    assert metrics.energy(np.zeros_like(heat), answer) == 0


def test_the_interval_of_a_mean_is_scipys_and_the_normal_approximation() -> None:
    """The ends of 1,000 resamples scatter by less than 0.1 standard errors; a 90 % interval would be off by 0.3."""
    values = np.random.default_rng(3).gamma(2.0, size=400)
    value, low, high = intervals.bootstrap(intervals.mean, values)
    error = values.std() / np.sqrt(len(values))
    assert value == values.mean()
    assert [(low - value) / error, (high - value) / error] == pytest.approx([-1.96, 1.96], abs=0.25)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=5000, random_state=np.random.default_rng(4)
    ).confidence_interval
    assert [low, high] == pytest.approx([theirs.low, theirs.high], abs=0.25 * error)


def test_the_interval_of_a_mean_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(400):
        _, low, high = intervals.bootstrap(intervals.mean, rng.normal(size=60))
        covered.append(low <= 0 <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


def test_columns_are_drawn_together() -> None:
    """Two columns that differ by 1 in every question differ by 1 in every resample: the interval has no width."""
    values = np.random.default_rng(6).random(30)
    assert intervals.bootstrap(lambda a, b: float((a - b).mean()), values + 1, values) == pytest.approx((1, 1, 1))


def test_an_interval_is_a_function_of_its_values() -> None:
    positive, negative = np.random.default_rng(7).random((2, 20))
    one, two = (intervals.bootstrap(metrics.auroc, positive + 0.3, negative) for _ in range(2))
    assert one == two
    assert one[1] < one[0] < one[2] <= 1
