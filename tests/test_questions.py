"""Questions about birds, held to what they claim: their texts, their pictures and their answers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from finercam_clip import InputError
from finercam_clip.aviary import drawing, questions, world

SEEDS = range(12)


def named(text: str) -> tuple[world.Trait, ...]:
    """The traits that a plain text names."""
    phrases = re.split(", | and ", text.removeprefix("a bird with "))
    traits = {world.trait_phrase(trait): trait for trait in world.TRAITS}
    return tuple(traits[phrase] for phrase in phrases)


def fits(text: str, bird: world.Bird) -> bool:
    return set(named(text)) <= set(bird.traits)


@pytest.mark.parametrize("kind", questions.KINDS)
def test_a_question_is_a_function_of_its_seed_and_shows_what_it_asks_about(kind: str) -> None:
    for seed in SEEDS:
        one, two = questions.make_question(kind, seed), questions.make_question(kind, seed)
        assert (one.target, one.contrast) == (two.target, two.contrast)
        assert np.array_equal(one.scene.image, two.scene.image)
        assert one.scene.image.shape == (questions.SIZE, questions.SIZE, 3)
        assert one.answer.mean() >= 0.002
        assert np.array_equal(one.answer, one.scene.masks[0][one.part])
        assert one.contrast == one.siblings[0]
        assert one.target not in one.siblings
        words = zip(one.target.split(), one.contrast.split(), strict=True)
        changed = [(a, b) for a, b in words if a != b and {a, b} != {"a", "an"}]
        assert len(changed) == 1, (one.target, one.contrast)


@pytest.mark.parametrize("kind", questions.KINDS)
def test_texts_differ_in_one_trait_of_the_part_that_is_the_answer(kind: str) -> None:
    for seed in SEEDS:
        question = questions.make_question(kind, seed)
        assert len(named(question.target)) == (3 if kind in ("species", "unseen") else 1)
        values = set()
        for text in question.siblings:
            ((_, before),) = set(named(question.target)) - set(named(text))
            ((slot, after),) = set(named(text)) - set(named(question.target))
            assert world.part_of(slot) == question.part
            values |= {before, after}
        assert values == set(world.SLOTS[slot])  # the siblings are all of them


def test_targets_are_true_and_contrasts_false() -> None:
    for seed in SEEDS:
        for kind in ("attribute", "species", "unseen"):
            question = questions.make_question(kind, seed)
            (bird,) = question.scene.birds
            assert fits(question.target, bird), question.target
            assert not any(fits(text, bird) for text in question.siblings)
        both = questions.make_question("two birds", seed)
        assert [fits(both.target, bird) for bird in both.scene.birds] == [True, False]
        assert [fits(both.contrast, bird) for bird in both.scene.birds] == [False, True]
        absent = questions.make_question("absent", seed)
        (bird,) = absent.scene.birds
        assert not fits(absent.target, bird)
        assert [fits(text, bird) for text in absent.siblings] == [False] * (len(absent.siblings) - 1) + [True]


def test_unseen_questions_name_a_combination_that_training_never_saw() -> None:
    for seed in SEEDS:
        question = questions.make_question("unseen", seed)
        assert world.is_unseen(named(question.target)), question.target


def test_a_part_that_can_hardly_be_seen_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first picture is made to show nothing of its bird; the question is then about the second."""
    first = questions.make_question("attribute", 3)
    draw = drawing.draw
    drawn: list[drawing.Scene] = []

    def hidden_at_first(birds: tuple[world.Bird, ...], key: tuple[int, ...], *, size: int) -> drawing.Scene:
        scene = draw(birds, key, size=size)
        drawn.append(scene)
        empty = {part: np.zeros_like(mask) for part, mask in scene.masks[0].items()}
        return drawing.Scene(scene.birds, scene.image, (empty,)) if len(drawn) == 1 else scene

    monkeypatch.setattr(drawing, "draw", hidden_at_first)
    second = questions.make_question("attribute", 3)
    assert len(drawn) > 1
    assert not np.array_equal(second.scene.image, first.scene.image)
    assert second.answer.mean() >= 0.002


def test_wrong_kinds_and_seeds_are_errors() -> None:
    with pytest.raises(InputError, match="attribute"):
        questions.make_question("fish", 0)
    for seed in (-1, world.TRAINING_SEEDS):
        with pytest.raises(InputError, match="held-out"):
            questions.make_question("attribute", seed)
