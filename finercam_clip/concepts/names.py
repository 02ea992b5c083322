"""Names of classes. They are found loosely, and never silently wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from finercam_clip.concepts.imagenet import definition, synonyms, wordnet_id
from finercam_clip.concepts.words import normalised, words_of
from finercam_clip.errors import LONGEST, InputError, one_line

_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_NUMBERED = re.compile(r" #\d+$")  # what tells namesakes apart
_LISTED = 4  # classes of one name that an error lists
_NEAR = 5  # classes that it suggests
_LETTERS = 50  # of a class in such a list


class ClassNameError(InputError):
    """A name is no class, or that of several.

    Attributes:
        brief: The same in a few words, to stand in a list: "'crane' (n02012849 or n03126707)".
    """

    def __init__(self, message: str, brief: str) -> None:
        super().__init__(message)
        self.brief = brief


@dataclass(frozen=True)
class ClassNames:
    """The classes of something, by name.

    Attributes:
        names: K, no two alike. "tench, Tinca tinca" are two names of one class, and the first is what it is called.
        ids: Their WordNet ids; () where there are none.
        owner: Whose classes they are, as errors say it.
        numbered: Whether "207" is the class with that index, where no class is called so.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()
    owner: str = "this classifier"
    numbered: bool = True

    def index(self, name: str) -> int:
        """The class that is called so.

        Raises:
            ClassNameError: No class is, or several are. The message names similar ones, or all of them.
        """
        indices = self.meant(name)
        if len(indices) == 1:
            return indices[0]
        raise self._several(name, indices) if indices else self._none(name)

    def meant(self, name: str) -> list[int]:
        """The classes that a name may mean: one if it is clear, none if no class is called so.

        The first of these that any class has: the whole name, letter by letter; a WordNet id ("n01440764", or
        "n01440764-tench"); the first of several names, letter by letter; the whole or the first name whatever its case,
        punctuation, spacing or numbering ("001."); any other of its names; its index, where no other class is numbered.
        """
        if name in self.positions:
            return [self.positions[name]]
        if (id := wordnet_id(name)) in self._by_id:
            return self._of_id(name, id)
        key = normalised(name) if any(letter.isalpha() for letter in name) else ""  # "1.0" is not loosely "0"
        called = self._first.get(name.strip()) or self._main.get(key) or self._synonyms.get(key)
        return called or self._at(name.strip())

    @cached_property
    def positions(self) -> dict[str, int]:
        """Name -> index."""
        return {name: i for i, name in enumerate(self.names)}

    def _of_id(self, name: str, id: str) -> list[int]:
        """The class of an id, and those that are called what stands behind it, if it is not one of them."""
        index, rest = self._by_id[id], name.strip()[len(id) :].strip("-_. ")
        others = self.meant(rest) if rest else []
        return [index] if index in others or not others else [index, *others]

    def _at(self, number: str) -> list[int]:
        if not self._counted or not _NUMBER.fullmatch(number) or int(number) >= len(self.names):
            return []
        return [int(number)]

    @cached_property
    def _counted(self) -> bool:
        """Whether numbers can only be indices: no class is called by a number that is another class's index."""
        numbers = ((i, name) for i, name in enumerate(self.names) if _NUMBER.fullmatch(name))
        return self.numbered and all(int(name) == i for i, name in numbers)

    @cached_property
    def _plain(self) -> list[list[str]]:
        """All names of each class, without the number that tells namesakes apart."""
        return [[part.strip() for part in _NUMBERED.sub("", name).split(",")] for name in self.names]

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {id: i for i, id in enumerate(self.ids)}

    @cached_property
    def _first(self) -> dict[str, list[int]]:
        return _inverted((parts[0], i) for i, parts in enumerate(self._plain))

    @cached_property
    def _main(self) -> dict[str, list[int]]:
        spelt = ((name, i) for i, parts in enumerate(self._plain) for name in (parts[0], ",".join(parts)))
        return _inverted((normalised(name), i) for name, i in spelt)

    @cached_property
    def _synonyms(self) -> dict[str, list[int]]:
        return _inverted((normalised(part), i) for i, parts in enumerate(self._plain) for part in parts[1:])

    # ------------------------------------------------------------------------------------------------------ errors

    def _several(self, name: str, indices: list[int]) -> ClassNameError:
        more = f", or one of {len(indices) - _LISTED} more" if len(indices) > _LISTED else ""
        few = indices[:_LISTED]
        brief = " or ".join(self.ids[i] if self.ids else _quoted(self.names[i]) for i in few)
        message = f"{_quoted(name)} is the name of {len(indices)} classes: give {' or '.join(map(self._told, few))}"
        return ClassNameError(message + more, f"{_quoted(name)} ({brief}{more})")

    def _told(self, index: int) -> str:
        """A class as one tells it from its namesakes."""
        name = self.names[index]
        if not self.ids:
            return _quoted(name)
        return f"{self.ids[index]} ({_begun(definition(self.ids[index]) if _NUMBERED.search(name) else name)})"

    def _none(self, name: str) -> ClassNameError:
        id = wordnet_id(name)
        meaning = synonyms(id) if id else ""
        message = f"there is no class {_quoted(name)}{f' ({_begun(meaning)})' if meaning else ''} among the "
        message += f"{len(self.names):,} of {self.owner}" + (
            ", which has no WordNet ids" if id and not self.ids else ""
        )
        near = [i for part in meaning.split(",") for i in self.meant(part)] if id else self._near(name)
        if near:
            brief = f"{_quoted(name)} ({self._listed(near[:1])}?)"
            return ClassNameError(f"{message}; did you mean {self._listed(near[:_NEAR])}?", brief)
        if self._counted and _NUMBER.fullmatch(name.strip()):
            hint = f"indices are 0 to {len(self.names) - 1}"
        else:
            hint = f"they are such as {self._listed(range(3))}"
        return ClassNameError(f"{message}; {hint}", f"{_quoted(name)} (none)")

    def _near(self, name: str) -> list[int]:
        """Classes that have all words of the name, then those that are spelt like it."""
        words, keys = set(words_of(name)), self._main | self._synonyms
        holding = [i for i, others in enumerate(self._words) if words and words <= others]
        spelt = difflib.get_close_matches(normalised(name)[:LONGEST], keys, n=_NEAR, cutoff=0.7)
        return list(dict.fromkeys([*holding, *(i for key in spelt for i in keys[key])]))

    @cached_property
    def _words(self) -> list[set[str]]:
        return [set(words_of(name)) for name in self.names]

    def _listed(self, indices: Sequence[int]) -> str:
        return ", ".join(_quoted(self._short(i)) for i in indices if i < len(self.names))

    def _short(self, index: int) -> str:
        """A class's name, or the first of its names where all of them would be long, if that is enough."""
        name, first = self.names[index], self._plain[index][0]
        return first if len(name) > _LETTERS and self.meant(first) == [index] else name


def _quoted(name: str) -> str:
    return f"'{one_line(name, _LETTERS)}'"


def _begun(text: str) -> str:
    """The beginning of a text, if it is long."""
    text = one_line(text, LONGEST)
    return text if len(text) <= _LETTERS else text[:_LETTERS].rpartition(" ")[0].rstrip(",;") + " …"


def _inverted(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Name -> its classes, each once. What has no name is left out."""
    found: dict[str, list[int]] = {}
    for name, i in pairs:
        if name and i not in found.setdefault(name, []):
            found[name].append(i)
    return found
