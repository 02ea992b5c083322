"""The losses of the bundled model, where their values are known or their order is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from birds import bird, values_of

from finercam_clip import training
from finercam_clip.aviary import losses, world

SIZES = [len(options) for options in world.SLOTS.values()]
BOTH = torch.stack([values_of(bird(seed)) for seed in (1, 2)])[:, None].expand(
    -1, 2, -1
)  # two pictures of one bird each


def test_the_traits_of_a_bird_are_found_among_all_traits() -> None:
    for seed in range(5):
        indices = losses.trait_indices(values_of(bird(seed)))
        assert tuple(world.TRAITS[i] for i in indices) == bird(seed).traits


def test_the_scores_of_each_slot_are_those_of_its_traits() -> None:
    numbers = torch.arange(len(world.TRAITS))[None]
    for slot, scores in zip(world.SLOTS, losses.by_slot(numbers), strict=True):
        assert [world.TRAITS[i] for i in scores[0]] == [(slot, value) for value in world.SLOTS[slot]]


def test_trait_loss_of_equal_similarities_is_that_of_chance() -> None:
    equal = torch.zeros(2, len(world.TRAITS))
    assert float(losses.trait_loss(equal, BOTH, hard=False)) == pytest.approx(np.log(SIZES).mean())
    assert float(losses.trait_loss(equal, BOTH, hard=True)) == pytest.approx(1)


def test_trait_loss_is_zero_if_every_true_trait_wins_and_of_two_birds_each_gets_half() -> None:
    solved = torch.zeros(2, len(world.TRAITS)).scatter(1, losses.trait_indices(BOTH[:, 0]), 50.0)
    assert float(losses.trait_loss(solved, BOTH, hard=False)) < 1e-6
    two = torch.stack([BOTH[:, 0], (BOTH[:, 0] + 1) % torch.tensor(SIZES)], 1)
    shared = torch.zeros(2, len(world.TRAITS)).scatter(1, losses.trait_indices(two).flatten(1), 50.0)
    assert float(losses.trait_loss(shared, two, hard=False)) == pytest.approx(math.log(2))
    assert losses.trait_loss(solved, two, hard=False) > losses.trait_loss(shared, two, hard=False)


def test_hard_trait_loss_weighs_slots_by_what_is_unsolved() -> None:
    """With all slots solved but one, the mean is a fourteenth of that one's loss; weighed it is all of it."""
    solved = torch.zeros(2, len(world.TRAITS)).scatter(1, losses.trait_indices(BOTH[:, 0]), 50.0)
    solved[:, : SIZES[0]] = 0
    assert float(losses.trait_loss(solved, BOTH, hard=False)) == pytest.approx(math.log(10) / len(SIZES))
    assert float(losses.trait_loss(solved, BOTH, hard=True)) == pytest.approx(1)


def test_the_best_patch_alone_must_tell_every_trait() -> None:
    """Zero once some patch, any one, leads for the true value; no less for evidence spread over all patches."""
    peaked, spread = torch.zeros(2, 2, len(world.TRAITS), 64)
    for i, row in enumerate(losses.trait_indices(BOTH[:, 0])):
        for j, trait in enumerate(row):
            peaked[i, trait, (7 * i + j) % 64] = 64.0
            spread[i, trait] = 1.0
    assert float(losses.peak_loss(peaked, BOTH)) < 1e-3
    assert float(losses.peak_loss(spread, BOTH)) > 0.3
    assert float(losses.peak_loss(torch.zeros_like(peaked), BOTH)) == pytest.approx(1)  # in units of chance


def test_agreement_is_least_where_both_are_seen_at_the_same_patch() -> None:
    part = torch.eye(4)[:2] * 20
    own = losses.agreement_loss(part, part)
    assert own < losses.agreement_loss(part.roll(1, 1), part)
    assert own < losses.agreement_loss(torch.zeros_like(part), part)


def test_agreement_moves_the_whole_and_never_the_part() -> None:
    whole, part = (torch.rand(2, 5, requires_grad=True) for _ in range(2))
    losses.agreement_loss(whole, part).backward()
    assert whole.grad is not None
    assert whole.grad.abs().max() > 0
    assert part.grad is None


def test_a_generic_text_belongs_between_the_true_traits_and_the_false_ones() -> None:
    values = torch.zeros(1, 2, len(world.SLOTS), dtype=torch.long)
    values[0, 1, 0] = 1  # the second bird has the second value of the first slot: both are true
    right = torch.full((1, len(world.TRAITS) + 1), -10.0)
    right[0, -1] = 0
    right[0, losses.trait_indices(values).flatten()] = 10.0
    assert float(losses.generic_loss(right, values)) < 1e-3
    assert float(losses.generic_loss(torch.zeros_like(right), values)) == pytest.approx(np.log(2))
    forgotten = right.clone()
    forgotten[0, 1] = -10.0
    assert losses.generic_loss(forgotten, values) > 0.2


def test_caption_loss_leaves_out_true_captions_of_others() -> None:
    true = torch.tensor([[True, True, False, False], [False, True, False, False]])
    similarities = torch.zeros(2, 4)
    tempting = similarities.clone()
    tempting[0, 1] = 50.0  # text 1 is true of picture 0 as well: no penalty for saying so
    own = training.caption_loss(tempting, true)
    assert torch.isfinite(own)
    assert own <= training.caption_loss(similarities, true) + 1e-6
    wrong = similarities.clone()
    wrong[0, 2] = 50.0  # text 2 is picture 0's own caption with one trait changed
    assert training.caption_loss(wrong, true) > 10


def test_caption_loss_of_equal_similarities_is_that_of_chance() -> None:
    true = torch.eye(3, 6, dtype=torch.bool)
    expected = (math.log(6) + math.log(3)) / 2  # a picture among six texts, a caption among three pictures
    assert float(training.caption_loss(torch.zeros(3, 6), true)) == pytest.approx(expected)
