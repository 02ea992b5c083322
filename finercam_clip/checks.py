"""Values as callers give them: numbers, choices and lists, each checked and of one type afterwards.

NumPy's scalars are numbers. A bool is none, because `True` is hardly ever meant as 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

from finercam_clip.errors import InputError, shown

Choice = TypeVar("Choice", bound=str)


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


def items(value: object, what: str) -> list[Any]:
    """What an iterable of several things holds.

    Raises:
        InputError: It is a text, bytes, a mapping, or nothing that can be iterated over.
    """
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{what}, not {shown(value)}")
    try:
        return list(value)
    except TypeError as error:  # an array without dimensions says that it is iterable
        raise InputError(f"{what}, not {shown(value)}") from error
