"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from finercam_clip.errors import InputError

PART = ".part"  # the ending of a file that is being written; it begins with a dot
_NAME = 40  # letters of a file's name that its part begins with: at four bytes each they fit into a name of 255


def write_whole(path: Path, data: bytes) -> Path:
    """Writes beside the final place and renames: a reader never sees half a file.

    If anything fails or the program is interrupted, an older file stays as it was and nothing else is left.

    Args:
        path: The file, in a folder that exists.
        data: All of its bytes.

    Returns:
        The path.

    Raises:
        InputError: The place cannot be written to.
    """
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_NAME]}.", suffix=PART)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            umask = os.umask(0)
            os.umask(umask)
            Path(part).chmod(0o666 & ~umask)  # mkstemp's own 0600 would keep others from reading it
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return path


def make_folder(path: Path) -> Path:
    """Makes a folder, and those above it, unless it is there already.

    Args:
        path: The folder.

    Returns:
        The path.

    Raises:
        InputError: The folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {path} cannot be made: {error.strerror}") from error
    return path
