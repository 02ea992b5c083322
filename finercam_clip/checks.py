"""Values as callers give them: numbers, choices and lists, each checked and of one type afterwards.

NumPy's scalars are numbers. A bool is none, because `True` is hardly ever meant as 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar

from finercam_clip.errors import InputError, shown

Choice = TypeVar("Choice", bound=str)
Size = int | tuple[int, int] | Literal["native"] | None
Layer = int | str | tuple[int | str, ...] | None

MOST_GAMMA = 1e6  # far beyond any use; float32 still holds what a method makes of it
_MOST_ITEMS = 1_000_000
_MOST_PIXELS = 100_000  # along a side of a model's input


def whole(value: object) -> int | None:
    """A whole number as an int; None for anything else."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def real(value: object) -> float | None:
    """A finite number as a float; None for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def count(value: object, name: str, *, least: int = 1, most: int | None = None) -> int:
    """A whole number within its bounds.

    Args:
        value: What was given.
        name: What it is called.
        least: The least that is allowed.
        most: The most, or None.

    Raises:
        InputError: It is no whole number, or out of bounds.
    """
    number = whole(value)
    if number is None or number < least or (most is not None and number > most):
        up_to = "up" if most is None else f"to {most:,}"
        raise InputError(f"{name} is a number from {least} {up_to}, not {shown(value)}")
    return number


def choice(value: object, names: Sequence[Choice], what: str) -> Choice:
    """One of a few names.

    Raises:
        InputError: It is none of them. The message lists them.
    """
    for name in names:
        if isinstance(value, str) and value == name:
            return name
    quoted = f"'{value}'" if isinstance(value, str) else shown(value)
    raise InputError(f"there is no {what} {quoted}; there {'are' if len(names) > 1 else 'is'} {', '.join(names)}")


def number_in(word: str) -> float | None:
    """The finite number that a word of a file writes; None if it writes none."""
    try:
        return real(float(word))
    except ValueError:
        return None


def threshold(value: object, what: str) -> float:
    """A share of the hottest that a map can be. Raises InputError for what is no number above 0 and up to 1."""
    number = real(value)
    if number is None or not 0 < number <= 1:
        raise InputError(f"{what} lies above 0 and up to 1, as 0.5; not {shown(value)}")
    return number


def items(value: object, what: str) -> list[Any]:
    """What an iterable of several things holds.

    Raises:
        InputError: It is a text, bytes, a mapping, or nothing that can be iterated over.
    """
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{what}, not {shown(value)}")
    try:
        values = list(islice(value, _MOST_ITEMS + 1))
    except TypeError as error:  # an array without dimensions says that it is iterable
        raise InputError(f"{what}, not {shown(value)}") from error
    if len(values) > _MOST_ITEMS:
        raise InputError(f"{what}, {_MOST_ITEMS:,} at most")
    return values


# ----------------------------------------------------------------------------------------------------- of `Options`


def gamma(value: object) -> float:
    """A comparison strength. Raises InputError for what is no finite number from 0 to `MOST_GAMMA`."""
    number = real(value)
    if number is None or not 0 <= number <= MOST_GAMMA:
        raise InputError(
            f"gamma is a number from 0 (the plain method) up to {MOST_GAMMA:g}, as 0.6; not {shown(value)}"
        )
    return number


def size(value: object) -> Size:
    """The size of a model's input as `Options.image_size` has it.

    Raises:
        InputError: It is no size, whatever the model.
    """
    if value is None:
        return None
    if isinstance(value, str) and value == "native":
        return "native"
    single = whole(value)
    if single is not None and 0 < single <= _MOST_PIXELS:
        return single
    if isinstance(value, (tuple, list)) and len(value) == 2:
        height, width = map(whole, value)
        if height and width and 0 < height <= _MOST_PIXELS and 0 < width <= _MOST_PIXELS:
            return height, width
    raise InputError(f"image_size is a number, (height, width), 'native' or None, not {shown(value)}")


def layer(value: object) -> Layer:
    """Target layers as `Options.layer` has them. Raises InputError for what is no index, name, or several of these."""
    several = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    named = tuple(one if isinstance(one, str) else whole(one) for one in several)
    if value is None:
        return None
    layers = tuple(one for one in named if one is not None)
    if not layers or len(layers) < len(named) or any(isinstance(one, int) and abs(one) > _MOST_ITEMS for one in layers):
        raise InputError(f"layer is an index (-1 is the last), a name, or several of these, not {shown(value)}")
    return layers if isinstance(value, (tuple, list)) else layers[0]


def texts(value: object, what: str) -> str | Path | Sequence[str] | None:
    """Where texts come from: a name, a path, or the texts themselves, which can be read more than once."""
    if value is None or isinstance(value, (str, Path, list, tuple)):
        return value
    return items(value, f"{what} is a name, a file, or texts")
