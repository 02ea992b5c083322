"""The one error that users can mend themselves, and its one line."""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable

LONGEST = 400  # letters of a line that is printed: a few words of ours around the longest name that a file can have
_LONGEST = 600  # letters of a message, whose path may be absolute
_SHOWN = 80  # letters of a value that an error quotes
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * _SHOWN


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one line (`one_line`). It says what was given, what is allowed and what to do. The command line
    prints it to stderr and exits with code 2, and nothing has been written.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, _LONGEST))


class UnfinishedError(InputError):
    """Work stopped after some of it was written, which stays: a full disk, for example. The exit code is 1."""


def one_line(text: str, longest: int = LONGEST) -> str:
    """A text as a line that every terminal and every file can take.

    Control characters, and bytes of a file's name that are no UTF-8, are written as \\xNN. A text that is too long
    loses its middle: an error begins with what was given and ends with what to do.

    Args:
        text: Any text.
        longest: How many letters the line may have.
    """
    if len(text) > 4 * longest:  # what is never seen need not be looked at
        text = f"{text[: 2 * longest]}…{text[-2 * longest :]}"
    text = " ".join("".join(map(_printable, text)).split())
    return text if len(text) <= longest else _without_middle(text, longest)


def _without_middle(text: str, longest: int) -> str:
    end = longest // 3
    return f"{text[: longest - end - 1]}…{text[len(text) - end :]}"


def _printable(letter: str) -> str:
    """A letter as it is, white space as a blank, and what a terminal would obey or could not show as its number."""
    if letter.isspace():
        return " "
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if unicodedata.category(letter) in ("Cc", "Cs") or 0x202A <= number <= 0x202E or 0x2066 <= number <= 0x2069:
        return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    return letter


def shown(value: object) -> str:
    """A value that cannot be used, as an error quotes it: its repr, shortened, whatever it is."""
    try:
        return one_line(_REPR.repr(value), _SHOWN)
    except Exception:  # a repr may fail as any code may, and the error is about something else
        return f"a {type(value).__name__}"


def did_you_mean(name: str, names: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The end of an error message about a name that does not exist.

    Args:
        name: What was given.
        names: What exists.
        cutoff: How alike two names must be, 0..1.

    Returns:
        "; did you mean A, B?" with at most four names, or "" if none is alike.
    """
    near = difflib.get_close_matches(name[:LONGEST], list(names), n=4, cutoff=cutoff)
    return f"; did you mean {', '.join(near)}?" if near else ""
