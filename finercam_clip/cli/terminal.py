"""What is printed: results on stdout, and one line on stderr for each error, warning, and thing that was left out."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from finercam_clip.errors import one_line
from finercam_clip.paths import reason


def complain(line: str) -> None:
    """Prints one line on stderr. Where stderr is closed or full nobody reads it, and the exit code says it all."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(one_line(line), file=sys.stderr, flush=True)


def prepare() -> None:
    """Lets every letter be printed: a terminal that cannot show one shows "?"."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")


def finish(code: int) -> int:
    """Writes out what was printed on stdout.

    Args:
        code: The exit code so far.

    Returns:
        The exit code. It is 1 if results were lost: stdout is full or, as in `finercam-clip methods | head -1`, nobody
        reads it any more.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
        return code or 1
    except (OSError, ValueError) as error:
        complain(f"finercam-clip: error: stdout cannot be written to: {reason(error)}")
        _discard(sys.stdout)
        return code or 1
    return code


def _discard(stream: TextIO) -> None:
    """Sends what is left of a stream nowhere, so that Python does not fail once more when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
