"""The one place that looks at paths, and the rules for names that come from files.

A path is never trusted: it may be too long, lead in a circle, belong to somebody else, be a pipe that nobody writes to,
or a file that never ends. All of that is an `InputError` here, before anything is opened.

Names are data. The name of an image is text in UTF-8, whatever bytes its file is called by (`text_of`), and never leads
out of its folder (`stays_inside`).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from finercam_clip.errors import InputError, shown

Place = str | Path

MOST_TEXT = 1 << 28  # bytes of a text file: the largest of CUB-200-2011 has 100 million
_COMPONENT = 143  # bytes of a file's name that every file system takes, encrypted ones included
_WHOLE = 1000  # bytes of a name with its folders: half of what is left under a long path
_DIGEST = 12  # hexadecimal digits that tell a shortened name from others
_CHUNK = 1 << 20


def reason(error: Exception) -> str:
    """What the system says, without the path that an error's line has already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def place(path: object, what: str) -> Path:
    """A path as a caller gives it.

    Args:
        path: A str or a path.
        what: What it is, as in "the image".

    Raises:
        InputError: It is something else, is empty, or holds a zero byte.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise InputError(f"{what} is a path, not {shown(path)}")
    if not text:
        raise InputError(f"{what} is an empty path")
    if "\0" in text:
        raise InputError(f"{what} {shown(text)} holds a zero byte, which no path has")
    return Path(text)


def look(path: Place) -> os.stat_result | None:
    """What lies at a path, links followed; None if there is nothing.

    Raises:
        InputError: The system refuses to say.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - Path.stat is the same
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error


def look_or_none(path: Place) -> os.stat_result | None:
    """What lies at a path; None also where the system refuses to say, which whoever reads it will tell."""
    try:
        return look(path)
    except InputError:
        return None


def is_folder(path: Place) -> bool:
    """Whether a folder is there. Raises InputError where the system refuses to say."""
    status = look(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_file(path: Place) -> bool:
    """Whether a regular file is there: no folder, pipe or device. Raises InputError where the system refuses to say."""
    status = look(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def same_file(one: Place, other: Place) -> bool:
    """Whether two paths lead to one file, by whatever links."""
    first, second = look(one), look(other)
    return first is not None and second is not None and os.path.samestat(first, second)


def resolved(path: Place) -> Path:
    """The absolute path without links. Raises InputError where they lead in a circle."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error


def entries(folder: Place) -> list[os.DirEntry[str]]:
    """What lies in a folder, in the order of names. Raises InputError where it cannot be listed."""
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        raise InputError(f"the folder {folder} cannot be read: {reason(error)}") from error


def is_folder_entry(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one. What the system refuses to say of is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------------------- files


def check_file(path: Place, most: int | None = None) -> os.stat_result:
    """Makes sure that a path is a regular file that can be read to its end.

    Args:
        path: The file.
        most: How many bytes it may have.

    Returns:
        Its status.

    Raises:
        InputError: It is not there, is a folder, a pipe or a device, or is too large.
    """
    status = look(path)
    if status is None:
        raise InputError(f"{path}: no such file")
    _check_status(path, status, most)
    return status


def _check_status(path: Place, status: os.stat_result, most: int | None) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file but a pipe, a device or a socket: it is not read")
    if most is not None and status.st_size > most:
        raise InputError(f"{path} has {status.st_size:,} bytes; more than {most:,} are not read")


def opened(path: Place, most: int | None = None) -> BinaryIO:
    """A regular file, open for reading. It never waits for the other end of a pipe.

    Raises:
        InputError: As `check_file`, or it may not be read.
    """
    check_file(path, most)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error
    try:
        _check_status(path, os.fstat(handle), most)  # another file may lie there by now
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Place, most: int = MOST_TEXT) -> bytes:
    """A whole file. Raises InputError as `opened`."""
    with opened(path, most) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {reason(error)}") from error
    if len(data) > most:
        raise InputError(f"{path} has more than {most:,} bytes, which are not read")
    return data


def read_text(path: Place, most: int = MOST_TEXT) -> str:
    """A whole file as text.

    Raises:
        InputError: As `opened`, or it is no UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error


@dataclass(frozen=True)
class Fingerprint:
    """What tells the content of a file from another that lies at the same path later.

    Attributes:
        bytes: Its size.
        modified: When it was last written to, in nanoseconds.
        changed: When the system last touched it in any way, in nanoseconds. No program can set this one.
        sha256: Of its content, in hexadecimal digits.
    """

    bytes: int
    modified: int
    changed: int
    sha256: str

    def is_of(self, status: os.stat_result) -> bool:
        """Whether a file is the same by its size and times alone, so that it need not be read."""
        return (self.bytes, self.modified, self.changed) == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def fingerprint(file: BinaryIO, path: Place) -> Fingerprint:
    """The fingerprint of an open file, which is read from its beginning.

    Raises:
        InputError: It cannot be read, or is written to meanwhile.
    """
    digest = hashlib.sha256()
    try:
        before = os.fstat(file.fileno())
        file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        after = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{path} was written to while it was read; try again when it is finished")
    return Fingerprint(before.st_size, before.st_mtime_ns, before.st_ctime_ns, digest.hexdigest())


# ---------------------------------------------------------------------------------------------------------------- names


def text_of(name: str) -> str:
    """A file's name as text that JSON, CSV and terminals can hold, whatever bytes the system has for it.

    A byte that is no UTF-8 becomes \\xNN, and a backslash two, so that `path_of` leads back to the same file.
    """
    text = os.fsencode(name).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return name if text == name else text  # of millions of names there is one copy


def path_of(text: str) -> str:
    """The way back from `text_of`."""
    data = text.encode("utf-8", "replace")
    named = re.sub(rb"\\(\\|x[0-9a-f]{2})", lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1][1:], 16)]), data)
    return os.fsdecode(named)


def from_text(text: str) -> str:
    """A name that was read from a text file, as the system spells it: in UTF-8, whatever the locale."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def stays_inside(name: str) -> bool:
    """Whether a name that was read from a file leads to somewhere in the folder that it is relative to."""
    if not name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name):
        return False
    return os.name != "nt" or not PureWindowsPath(name).anchor


def stored(names: Iterable[str], ending: str) -> dict[str, str]:
    """Where to store something that is made of each image: image name -> a file, its folders separated by "/".

    The file is the name with an ending, if that can be. A name that a file system cannot hold, or that would be in the
    way of another, is shortened, and has a digest of its own behind it. Files that some systems take for the same (they
    differ in case, or in how an accent is written) are told apart in the same way.

    Args:
        names: The images' names, none of them twice.
        ending: Of the files, such as ".npz".
    """
    files: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        file, salt = _stored(name, ending), ""
        while _key(file) in taken:
            file, salt = _stored(name, ending, salt), salt + "~"
        taken.add(_key(file))
        files[name] = file
    return files


def _key(file: str) -> str:
    return unicodedata.normalize("NFC", file).casefold()


def _stored(name: str, ending: str, salt: str | None = None) -> str:
    """The file of one image. With a salt it has a digest, of the name and the salt, in any case."""
    *folders, last = name.split("/")
    # A folder may not be called as a file beside it could be.
    parts = [_component(folder, "", folder if folder.lower().endswith(ending) else None) for folder in folders]
    file = "/".join([*parts, _component(last, ending, None if salt is None else name + salt)])
    if len(file.encode()) > _WHOLE:
        return _component(last, ending, name + (salt or ""))
    return file


def _component(text: str, ending: str, digested: str | None) -> str:
    """One part of a path, shortened if need be, or with a digest in any case."""
    data = text.encode("utf-8", "backslashreplace")
    if digested is None and text not in ("", ".", "..") and len(data) + len(ending) <= _COMPONENT:
        return data.decode() + ending
    digest = hashlib.sha256((digested or text).encode("utf-8", "backslashreplace")).hexdigest()[:_DIGEST]
    head = data[: _COMPONENT - len(digest) - len(ending) - 1].decode("utf-8", "ignore").rstrip(".")
    return f"{head}~{digest}{ending}"
