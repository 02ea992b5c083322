"""The one error that users can mend themselves."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one line. It says what was given, what is allowed and what to do. The command line prints it to
    stderr and exits with code 2.
    """


def did_you_mean(name: str, names: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The end of an error message about a name that does not exist.

    Args:
        name: What was given.
        names: What exists.
        cutoff: How alike two names must be, 0..1.

    Returns:
        "; did you mean A, B?" with at most four names, or "" if none is alike.
    """
    near = difflib.get_close_matches(name, list(names), n=4, cutoff=cutoff)
    return f"; did you mean {', '.join(near)}?" if near else ""
