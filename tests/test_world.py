"""The aviary's birds and texts: a text claims what it should and nothing else; some combinations are held out."""

from __future__ import annotations

import re

import numpy as np
from birds import bird

from finercam_clip.aviary import world

# The words for each part, spelt out here again: a text that puts a value on another part's word is wrong.
WORDS = {
    "crown": "crown|cap|crowned",
    "beak": "beak|bill|billed",
    "eye ring": "eye[ -]ring|eye-ringed",
    "throat": "throat|throated",
    "breast": "breast|chest|breasted",
    "back": "back|backed",
    "wing": "wing(?![ -]bar)|winged",
    "wing bar": "wing bar|wing-barred",
    "tail": "tail|tailed",
    "legs": "legs|legged",
}
VALUES = sorted({value for values in world.SLOTS.values() for value in values})


def claims(text: str) -> set[tuple[str, str]]:
    """Every (value, part) that a text says."""
    return {
        (value, part)
        for part, words in WORDS.items()
        for value in VALUES
        if re.search(rf"\b{value}[ -](?:{words})\b|\b(?:{words}) (?:is|are) {value}\b", text)
    }


def test_what_a_text_claims_is_read_off_it() -> None:
    assert claims("a bird with a red crown and a blue tail") == {("red", "crown"), ("blue", "tail")}
    assert claims("a red-wing-barred bird") == {("red", "wing bar")}
    assert claims("a bird whose legs are pink.") == {("pink", "legs")}
    assert claims("a red bird with a tail") == set()


def test_texts_name_every_trait_that_they_claim_and_its_part_and_no_other() -> None:
    rng = np.random.default_rng(0)
    for seed in range(300):
        chosen = rng.permutation(len(world.SLOTS))[: rng.integers(1, 5)]
        traits = tuple(bird(seed).traits[i] for i in chosen)
        said = {(value, world.part_of(slot)) for slot, value in traits}
        for text in (world.describe(traits), world.describe(traits, rng)):
            assert claims(text) == said, text


def test_generic_texts_claim_nothing() -> None:
    rng = np.random.default_rng(0)
    texts = {world.describe(()), *(world.describe((), rng) for _ in range(50))}
    assert texts == set(world.GENERIC_TEXTS)
    assert not any(claims(text) for text in texts)


def test_changing_a_trait_changes_that_trait_only() -> None:
    one = bird(3)
    for slot in world.SLOTS:
        other = world.change_trait(one, slot, np.random.default_rng(0))
        different = [name for name, _ in set(one.traits) - set(other.traits)]
        assert different == [slot]
        assert other[slot] in world.SLOTS[slot]


def test_birds_of_training_have_no_held_out_combination() -> None:
    """A tenth of the combinations of each pair of slots is held out, so of all birds about one in four has one."""
    unseen = [world.is_unseen(bird(seed).traits) for seed in range(1000)]
    expected = 1 - 0.9 ** len(world.UNSEEN_PAIRS)
    assert abs(np.mean(unseen) - expected) < 4 * np.sqrt(expected * (1 - expected) / 1000)
    rng = np.random.default_rng(0)
    assert not any(world.is_unseen(world.sample_training_bird(rng).traits) for _ in range(400))
    for one, other in world.UNSEEN_PAIRS:
        held_out = [
            (a, b) for a in world.SLOTS[one] for b in world.SLOTS[other] if world.is_unseen(((one, a), (other, b)))
        ]
        assert len(held_out) == 10
        assert {a for a, _ in held_out} == set(world.SLOTS[one])  # each colour can be learned from the other nine
