"""Directions in embedding space against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip import InputError
from finercam_clip.objectives import (
    OBJECTIVES,
    combined,
    finer,
    finer_softmax,
    finer_softmax_upstream,
    objective_named,
    rectified,
    slopes,
    strongest,
)
from finercam_clip.tensors import unit_norm

SCALE = 50.0


def _unit(rows: int, seed: int) -> Tensor:
    return F.normalize(
        torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


TARGETS, CONTRASTS, IMAGE = _unit(4, 0), _unit(3, 1), _unit(1, 2)[0]


def _ask(name: str, gamma: float, targets: Tensor = TARGETS, contrasts: Tensor = CONTRASTS) -> Tensor:
    weights = slopes(OBJECTIVES[name], targets, contrasts, IMAGE, scale=SCALE, gamma=gamma)
    return SCALE * combined(weights, targets, contrasts)


def _slopes(objective: object, s: Tensor, gamma: float = 1.0) -> Tensor:
    s = s.clone().requires_grad_()
    return torch.autograd.grad(objective(s, gamma), s)[0]  # type: ignore[operator]


def test_finer_is_the_papers_mean_difference() -> None:
    expected = SCALE * (TARGETS - 0.6 * CONTRASTS.mean(0))
    torch.testing.assert_close(_ask("finer", 0.6), expected)


def test_similarity_is_the_text_itself() -> None:
    torch.testing.assert_close(_ask("similarity", 0.6), SCALE * TARGETS)


def test_probability_is_the_softmax_derivative() -> None:
    for target, direction in zip(TARGETS, _ask("probability", 0.6), strict=True):
        texts = torch.cat([target[None], CONTRASTS])
        p = (SCALE * texts @ IMAGE).softmax(0)
        torch.testing.assert_close(direction, SCALE * p[0] * (target - p @ texts))


@pytest.mark.parametrize("name", ["finer", "similarity", "probability", "finer-softmax-upstream"])
def test_a_direction_is_the_objectives_gradient_at_the_embedding(name: str) -> None:
    direction = _ask(name, 0.6)[0]
    texts, step = torch.cat([TARGETS[:1], CONTRASTS]), 1e-6
    for axis in range(len(IMAGE)):
        shift = torch.zeros_like(IMAGE)
        shift[axis] = step
        up, down = (OBJECTIVES[name](SCALE * texts @ (IMAGE + sign * shift), 0.6) for sign in (1, -1))
        assert float(direction[axis]) == pytest.approx(float(up - down) / (2 * step), abs=1e-5)


def test_with_constant_weights_the_weights_are_not_differentiated() -> None:
    """finer-softmax is the gradient at the embedding of the difference with p frozen: finite differences."""
    direction = _ask("finer-softmax", 0.6)[0]
    texts, step = torch.cat([TARGETS[:1], CONTRASTS]), 1e-6
    p = (SCALE * texts @ IMAGE).softmax(0)[1:]

    def frozen(f: Tensor) -> Tensor:
        s = SCALE * texts @ f
        return (p * (s[0] - 0.6 * s[1:])).sum() / p.sum()

    for axis in range(len(IMAGE)):
        shift = torch.zeros_like(IMAGE)
        shift[axis] = step
        slope = float(frozen(IMAGE + shift) - frozen(IMAGE - shift)) / (2 * step)
        assert float(direction[axis]) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("name", ["finer", "finer-softmax", "finer-softmax-upstream", "similarity"])
def test_without_contrasts_it_is_the_similarity(name: str) -> None:
    torch.testing.assert_close(_ask(name, 0.6, contrasts=CONTRASTS[:0]), SCALE * TARGETS)


@pytest.mark.parametrize("name", ["finer", "finer-softmax"])
def test_gamma_zero_is_the_similarity(name: str) -> None:
    torch.testing.assert_close(_ask(name, 0.0), SCALE * TARGETS)


@pytest.mark.parametrize("name", ["finer", "finer-softmax"])
@pytest.mark.parametrize("gap", [0.0, 25.0, 150.0])
def test_gamma_zero_is_the_similarity_however_far_the_contrasts_are(name: str, gap: float) -> None:
    """In float32 the contrasts' probabilities are exactly 0 at a gap of 150."""
    gradient = _slopes(OBJECTIVES[name], torch.tensor([gap, 0.0, -1.0]), gamma=0.0)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0, 0.0]))


def test_upstreams_gamma_zero_is_the_similarity_up_to_its_epsilon() -> None:
    """sum p / (sum p + 1e-9) of it, while the contrasts' probability p is well above the epsilon."""
    s = torch.tensor([2.0, 1.5, -1.0], dtype=torch.float64)
    gradient = _slopes(finer_softmax_upstream, s, gamma=0.0)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-8, rtol=0)


def test_a_certain_probability_has_no_gradient_left() -> None:
    """1 - p rounds to 0 in float32 at a logit gap of 20, so softmax of the surest answers explains nothing."""
    assert float(_slopes(OBJECTIVES["probability"], torch.tensor([1.0, 0.0]))[0]) > 0.1
    assert float(_slopes(OBJECTIVES["probability"], torch.tensor([20.0, 0.0]))[0]) == 0
    assert float(_slopes(finer, torch.tensor([20.0, 0.0]))[0]) == 1


@pytest.mark.parametrize("name", ["similarity", "probability"])
def test_objectives_without_a_comparison_strength_do_not_depend_on_gamma(name: str) -> None:
    torch.testing.assert_close(_ask(name, 0.0), _ask(name, 5.0), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["finer", "finer-softmax", "finer-softmax-upstream"])
def test_the_others_are_linear_in_gamma(name: str) -> None:
    plain, half, whole = (_ask(name, gamma) for gamma in (0.0, 0.5, 1.0))
    assert not torch.allclose(plain, whole, rtol=0.01)
    torch.testing.assert_close(half, (plain + whole) / 2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_slope_per_text_needs_no_gradients_switched_on_and_leaves_none(name: str) -> None:
    with torch.no_grad():
        weights = slopes(OBJECTIVES[name], TARGETS, CONTRASTS, IMAGE, scale=SCALE, gamma=0.6)
    assert weights.shape == (4, 1 + 3)
    assert not weights.requires_grad
    assert not any(tensor.requires_grad for tensor in (TARGETS, CONTRASTS, IMAGE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unit_norm_is_in_float32_along_the_last_axis(dtype: torch.dtype) -> None:
    features = torch.tensor([[[3, 4], [0, -2]]], dtype=dtype)
    expected = torch.tensor([[[0.6, 0.8], [0, -1]]], dtype=torch.float32)
    torch.testing.assert_close(unit_norm(features), expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_many_questions_at_once_are_the_same_as_one_by_one(name: str) -> None:
    one_by_one = torch.cat([_ask(name, 0.6, targets=target[None]) for target in TARGETS])
    torch.testing.assert_close(_ask(name, 0.6), one_by_one)


def test_order_of_contrasts_does_not_matter() -> None:
    for name in OBJECTIVES:
        torch.testing.assert_close(_ask(name, 0.6), _ask(name, 0.6, contrasts=CONTRASTS.flip(0)))


def test_upstreams_weights_flip_the_contrast_at_a_large_gap_and_ours_do_not() -> None:
    """At a logit gap of 18 the gradient through the weights turns (1, -1) into about (-0.10, +0.10).

    By then p is near the 1e-9 that upstream's code adds to sum p, and the ratio of the two falls with the gap.
    """
    at = {gap: torch.tensor([float(gap), 0.0]) for gap in (0, 10, 18)}
    upstream = {gap: _slopes(finer_softmax_upstream, s) for gap, s in at.items()}
    torch.testing.assert_close(upstream[10], torch.tensor([1.0, -1.0]), atol=2e-3, rtol=0)
    torch.testing.assert_close(upstream[18], torch.tensor([-0.10, 0.10]), atol=2e-2, rtol=0)
    for s in at.values():
        constant = _slopes(finer_softmax, s)
        assert constant[0] > 0
        assert constant[1] < 0
        torch.testing.assert_close(_slopes(finer, s), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("gap", [1.0, 5.0, 10.0, 18.0, 20.7])
def test_upstreams_slope_has_its_closed_form(gap: float) -> None:
    """With one contrast L = r(g) g, r = p / (p + 1e-9), p = sigmoid(-g): L' = r - g 1e-9 p (1 - p) / (p + 1e-9)^2."""
    p, epsilon = 1 / (1 + math.exp(gap)), 1e-9
    slope = p / (p + epsilon) - gap * epsilon * p * (1 - p) / (p + epsilon) ** 2
    gradient = _slopes(finer_softmax_upstream, torch.tensor([gap, 0.0], dtype=torch.float64))
    torch.testing.assert_close(gradient, torch.tensor([slope, -slope], dtype=torch.float64))
    if gap == 20.7:
        assert slope == pytest.approx(-4.67, abs=0.01)


def test_upstream_rewards_far_contrasts_where_constant_weights_do_not() -> None:
    """At gaps 1, 5 and 7 and gamma 0.6 the far contrasts' slopes through the weights are positive: they are rewarded.

    With w the softmax over contrasts, the slope is -0.6 w_j (1 + s_j - w . s); with constant weights it is -0.6 w_j.
    """
    s = torch.tensor([0.0, -1.0, -5.0, -7.0], dtype=torch.float64)
    w = s[1:].softmax(0)
    upstream, ours = (_slopes(objective, s, 0.6)[1:] for objective in (finer_softmax_upstream, finer_softmax))
    torch.testing.assert_close(upstream, -0.6 * w * (1 + s[1:] - w @ s[1:]), atol=1e-7, rtol=0)
    torch.testing.assert_close(upstream, torch.tensor([-0.64, 0.03, 0.01]).double(), atol=5e-3, rtol=0)
    torch.testing.assert_close(ours, -0.6 * w)
    torch.testing.assert_close(_slopes(finer, s, 0.6)[1:], torch.full((3,), -0.2, dtype=torch.float64))


def test_constant_weights_are_upstreams_formula() -> None:
    s = torch.tensor([2.0, 1.5, -1.0])
    p = s.softmax(0)
    expected = (p[1] * (s[0] - 0.6 * s[1]) + p[2] * (s[0] - 0.6 * s[2])) / (p[1] + p[2])
    torch.testing.assert_close(finer_softmax(s, 0.6), expected)
    torch.testing.assert_close(finer_softmax_upstream(s, 0.6), expected)


def test_an_unknown_objective_is_an_error_that_lists_them() -> None:
    with pytest.raises(InputError, match="finer, similarity, probability"):
        objective_named("softmax")


def test_rectified_contrasts_are_subtracted_where_they_are_positive_and_added_as_they_are() -> None:
    maps = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 4.0, 0.0]])
    weights = torch.tensor([[1.0, -0.5, -0.5], [0.0, 0.5, 0.5]])
    targets = torch.tensor([[2.0, 2.0, 2.0]])
    expected = torch.tensor([[2.0 - 0.5 * 1, 2.0 - 0.5 * 4, 2.0 - 0.5 * 3], [0.0, 1.0, 1.5]])
    torch.testing.assert_close(rectified(weights, targets, maps), expected)


def test_the_strongest_contrast_of_each_cell_is_subtracted_or_added() -> None:
    maps = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 4.0, -5.0]])
    weights = torch.tensor([[1.0, -0.25, -0.25], [0.0, 0.5, 0.5]])
    targets = torch.tensor([[2.0, 2.0, 2.0]])
    expected = torch.tensor([[2.0 - 0.5 * 1, 2.0 - 0.5 * 4, 2.0 - 0.5 * 3], [1.0, 4.0, 3.0]])
    torch.testing.assert_close(strongest(weights, targets, maps), expected)
    torch.testing.assert_close(strongest(weights[:, :1], targets, maps[:0]), weights[:, :1] * targets)
    torch.testing.assert_close(
        strongest(weights[:, :2], targets, maps[:1]), rectified(weights[:, :2], targets, maps[:1])
    )
