"""The aviary's birds: parts and traits that are known exactly, and text that is true of each bird.

A `Bird` gives each *slot* (crown colour, breast pattern, tail shape, ...) a value. `describe` writes text that is true
of a bird, and `drawing.draw` draws it with one mask per part. Two birds that differ in one slot, and the mask of the
part that differs, make a question whose answer is known exactly (`questions`).

Everything is a function of its seed. Training draws from seeds >= `TRAINING_SEEDS`, so every smaller seed is held out.
Training also draws no bird with a combination of `is_unseen`, so those are held out in picture and text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRAINING_SEEDS = 1_000_000_000

COLOURS: dict[str, tuple[int, int, int]] = {  # RGB
    "red": (205, 32, 36),
    "orange": (243, 130, 22),
    "yellow": (248, 221, 48),
    "green": (44, 150, 60),
    "blue": (40, 84, 208),
    "purple": (124, 44, 160),
    "pink": (246, 148, 188),
    "brown": (116, 70, 36),
    "black": (26, 26, 29),
    "white": (246, 246, 243),
}
PARTS = ("crown", "beak", "eye ring", "throat", "breast", "back", "wing", "wing bar", "tail", "legs")
PATTERNS = ("plain", "spotted", "striped")

# From each slot to the values that it can take. A slot with the name of its part is the part's colour. Any other slot
# is named after its part with one more word.
SLOTS: dict[str, tuple[str, ...]] = {
    **{part: tuple(COLOURS) for part in PARTS},
    "breast pattern": PATTERNS,
    "wing pattern": PATTERNS,
    "beak shape": ("short", "long", "hooked"),
    "tail shape": ("short", "long", "forked"),
}
Trait = tuple[str, str]  # (slot, value)
TRAITS: tuple[Trait, ...] = tuple((slot, value) for slot, values in SLOTS.items() for value in values)
# For each of these pairs of slots, training never sees a tenth of the combinations of values, see `is_unseen`.
UNSEEN_PAIRS = (("crown", "breast"), ("wing", "tail"), ("throat", "back"))

_SYNONYMS = {"crown": "cap", "beak": "bill", "breast": "chest", "eye ring": "eye-ring"}
_ADJECTIVES = {
    "crown": "crowned", "beak": "billed", "eye ring": "eye-ringed", "throat": "throated", "breast": "breasted",
    "back": "backed", "wing": "winged", "wing bar": "wing-barred", "tail": "tailed", "legs": "legged",
}  # fmt: skip
GENERIC_TEXTS = ("a bird", "a photo of a bird", "a bird on a branch", "the bird", "a picture of a bird", "bird")


@dataclass(frozen=True)
class Bird:
    """A bird, which is nothing but its traits.

    Attributes:
        values: One value per slot of `SLOTS`, in their order.
    """

    values: tuple[str, ...]

    def __getitem__(self, slot: str) -> str:
        """The value in a slot."""
        return self.values[list(SLOTS).index(slot)]

    @property
    def traits(self) -> tuple[Trait, ...]:
        """Everything that is true of this bird: one (slot, value) per slot."""
        return tuple(zip(SLOTS, self.values, strict=True))

    def with_trait(self, slot: str, value: str) -> Bird:
        """The same bird with another value in one slot."""
        return Bird(tuple(value if name == slot else own for name, own in self.traits))


def part_of(slot: str) -> str:
    """The part that a slot is about: "breast" for "breast" and for "breast pattern"."""
    return slot if slot in PARTS else slot.split()[0]


def sample_bird(rng: np.random.Generator) -> Bird:
    """A bird whose values are drawn independently and uniformly."""
    return Bird(tuple(str(values[rng.integers(len(values))]) for values in SLOTS.values()))


def is_unseen(traits: tuple[Trait, ...]) -> bool:
    """Whether the traits hold a combination that training never sees, in picture or text.

    For each pair of `UNSEEN_PAIRS` these are ten of the hundred combinations of two colours.
    """
    values = {slot: SLOTS[slot].index(value) for slot, value in traits}
    pairs = [(values[one], values[other]) for one, other in UNSEEN_PAIRS if one in values and other in values]
    return any((one + 3 * other) % 10 == 0 for one, other in pairs)


def sample_training_bird(rng: np.random.Generator) -> Bird:
    """A bird without a combination that training must not see, drawn uniformly from all of those."""
    while is_unseen((bird := sample_bird(rng)).traits):
        pass
    return bird


def change_trait(bird: Bird, slot: str, rng: np.random.Generator) -> Bird:
    """The same bird with another value in `slot`, drawn uniformly from the others."""
    others = [value for value in SLOTS[slot] if value != bird[slot]]
    return bird.with_trait(slot, others[rng.integers(len(others))])


# ---------------------------------------------------------------------------------------------------------------- text


def trait_phrase(trait: Trait, *, noun: str | None = None) -> str:
    """A noun phrase for a trait: ("crown", "red") -> "a red crown"; ("legs", "orange") -> "orange legs".

    Args:
        trait: Slot and value.
        noun: The word for the part, if it is not the part's own name.
    """
    slot, value = trait
    noun = noun or part_of(slot)
    if noun == "legs":
        return f"{value} legs"
    return f"{_article(value)} {value} {noun}"


def describe(traits: tuple[Trait, ...], rng: np.random.Generator | None = None) -> str:
    """Text that names `traits`, as "a bird with a red crown and a blue tail".

    Args:
        traits: What the text says. Without any trait it is a generic text, one of `GENERIC_TEXTS`.
        rng: Draws the words and the form of the sentence; without it the text is the plain one above.
    """
    if not traits:
        return GENERIC_TEXTS[rng.integers(len(GENERIC_TEXTS))] if rng is not None else GENERIC_TEXTS[0]
    if rng is None:
        return f"a bird with {_list_phrases([trait_phrase(t) for t in traits])}"
    nouns = [_noun(part_of(slot), rng) for slot, _ in traits]
    phrases = [trait_phrase(t, noun=n) for t, n in zip(traits, nouns, strict=True)]
    together = _list_phrases(phrases, oxford=rng.random() < 0.2)
    if len(traits) == 1:
        (slot, value), noun = traits[0], nouns[0]
        adjective = f"{value}-{_ADJECTIVES[part_of(slot)]}"
        verb = "are" if noun == "legs" else "is"
        forms = [
            f"a bird with {together}", f"a bird with {together}", f"a photo of a bird with {together}", together,
            f"{value} {noun}", f"a bird whose {noun} {verb} {value}", f"{_article(value)} {adjective} bird",
            f"the {value} {noun} of a bird", f"the bird has {together}", f"a picture of {together}",
            f"the {noun} {verb} {value}", f"a photo of {_article(value)} {adjective} bird",
        ]  # fmt: skip
    else:
        bare = _list_phrases([f"{value} {noun}" for (_, value), noun in zip(traits, nouns, strict=True)])
        forms = [
            f"a bird with {together}", f"a bird with {together}", f"a photo of a bird with {together}", together,
            f"the bird has {together}", f"a bird that has {together}", f"a bird with {bare}", bare,
            f"a picture of a bird with {together}", "a bird with " + " and ".join(phrases),
        ]  # fmt: skip
    text = forms[rng.integers(len(forms))]
    return text + "." if rng.random() < 0.1 else text


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _noun(part: str, rng: np.random.Generator) -> str:
    return _SYNONYMS[part] if part in _SYNONYMS and rng.random() < 0.2 else part


def _list_phrases(phrases: list[str], *, oxford: bool = False) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    comma = "," if oxford and len(phrases) > 2 else ""
    return f"{', '.join(phrases[:-1])}{comma} and {phrases[-1]}"
