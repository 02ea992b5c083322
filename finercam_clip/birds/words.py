"""Parts of birds, what they look like, and how people say it. The values are those of CUB-200-2011's attributes.

A group is one aspect of one part ("crown_color"), with the values that it may take. A trait is a group and one of its
values. Every trait has a noun phrase ("a red crown"); a text is a template around one to four of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Trait = tuple[str, str]  # a group and one of its values

COLORS = (
    "blue", "brown", "iridescent", "purple", "rufous", "grey", "yellow", "olive", "green", "pink", "orange", "black",
    "white", "red", "buff",
)  # fmt: skip
_PATTERNS = {
    "solid": "plain",
    "spotted": "spotted",
    "striped": "striped",
    "multi-colored": "multi-colored",
}  # CUB's word -> ours
_BEAKS = {
    "curved_(up_or_down)": "a curved beak",
    "dagger": "a dagger-shaped beak",
    "hooked": "a hooked beak",
    "needle": "a needle-like beak",
    "hooked_seabird": "a hooked seabird beak",
    "spatulate": "a spoon-shaped beak",
    "all-purpose": "an all-purpose beak",
    "cone": "a cone-shaped beak",
    "specialized": "a specialized beak",
}
_LENGTHS = {
    "about_the_same_as_head": "a beak as long as the head",
    "longer_than_head": "a long beak",
    "shorter_than_head": "a short beak",
}
_TAILS = ("forked", "rounded", "notched", "fan-shaped", "pointed", "squared")
_WINGS = ("rounded", "pointed", "broad", "tapered", "long")
_SYNONYMS = {"beak": "bill", "grey": "gray", "plain": "solid-colored", "striped": "streaked", "legs": "feet"}


@dataclass(frozen=True)
class Group:
    """One aspect of a part.

    Attributes:
        name: As CUB has it, without "has_".
        part: The part that it is about, one of `PARTS`.
        phrases: CUB's value -> the noun phrase.
    """

    name: str
    part: str
    phrases: dict[str, str]


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _colored(name: str, part: str, words: str, *, plural: bool = False) -> Group:
    colors = [color for color in COLORS if (part, color) != ("eye", "iridescent")]
    return Group(name, part, {c: f"{c} {words}" if plural else _article(f"{c} {words}") for c in colors})


def _patterned(part: str, *, plural: bool = False) -> Group:
    words = {value: f"{word} {part}" for value, word in _PATTERNS.items()}
    return Group(f"{part}_pattern", part, words if not plural else {v: w + "s" for v, w in words.items()})


def _with_articles(group: Group) -> Group:
    return Group(group.name, group.part, {value: _article(words) for value, words in group.phrases.items()})


GROUPS = (
    Group("bill_shape", "beak", _BEAKS),
    Group("bill_length", "beak", _LENGTHS),
    _colored("bill_color", "beak", "beak"),
    _colored("wing_color", "wing", "wings", plural=True),
    Group("wing_shape", "wing", {f"{word}-wings": f"{word} wings" for word in _WINGS}),
    _patterned("wing", plural=True),
    _colored("breast_color", "breast", "breast"),
    _with_articles(_patterned("breast")),
    _colored("back_color", "back", "back"),
    _with_articles(_patterned("back")),
    Group("tail_shape", "tail", {f"{word}_tail": f"a {word} tail" for word in _TAILS}),
    _with_articles(_patterned("tail")),
    _colored("upper_tail_color", "tail", "upper tail"),
    _colored("under_tail_color", "tail", "under tail"),
    _colored("throat_color", "throat", "throat"),
    _colored("eye_color", "eye", "eyes", plural=True),
    _colored("forehead_color", "forehead", "forehead"),
    _colored("nape_color", "nape", "nape"),
    _colored("belly_color", "belly", "belly"),
    _with_articles(_patterned("belly")),
    _colored("leg_color", "leg", "legs", plural=True),
    _colored("crown_color", "crown", "crown"),
)
PARTS = tuple(dict.fromkeys(group.part for group in GROUPS))
TRAITS: tuple[Trait, ...] = tuple((group.name, value) for group in GROUPS for value in group.phrases)
GROUP = {group.name: group for group in GROUPS}
_TEMPLATES = (
    "a bird with {}", "a photo of a bird with {}", "a bird that has {}", "this bird has {}", "{}", "the bird has {}",
    "a close-up of a bird with {}", "a picture of a bird with {}",
)  # fmt: skip
GENERIC = (
    "a bird",
    "a photo of a bird",
    "a picture of a bird",
    "a bird in a photo",
    "this bird",
    "a close-up of a bird",
)
_NAMED = ("a {}", "a photo of a {}", "{}", "a picture of a {}", "this bird is a {}")


def phrase(trait: Trait) -> str:
    """The noun phrase of a trait, such as "a red crown"."""
    return GROUP[trait[0]].phrases[trait[1]]


def describe(traits: Sequence[Trait], rng: np.random.Generator | None = None) -> str:
    """A text that says the traits of a bird, in the order of the sequence.

    Args:
        traits: None of them gives a generic text.
        rng: Draws the template and synonyms; None: the plainest words ("a bird with a red crown and black wings").
    """
    phrases = [phrase(trait) for trait in traits]
    if rng is None:
        return _TEMPLATES[0].format(listing(phrases)) if phrases else GENERIC[0]
    if not phrases:
        return str(rng.choice(GENERIC))
    text = str(rng.choice(_TEMPLATES)).format(listing(phrases))
    for word, other in _SYNONYMS.items():
        if rng.random() < 0.3:
            text = text.replace(word, other)
    return text


def listing(phrases: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def species(name: str) -> str:
    """A species as people write it, of a class of CUB: "001.Black_footed_Albatross" -> "Black footed Albatross"."""
    return name.partition(".")[2].replace("_", " ") if name[:1].isdigit() else name.replace("_", " ")


def named(name: str, rng: np.random.Generator | None = None) -> str:
    """A text that says which species a bird is; the article is "a" everywhere, as prompts for CLIP have it."""
    return (_NAMED[0] if rng is None else str(rng.choice(_NAMED))).format(species(name))
