"""Files that are written whole or not at all, by one process at a time."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from finercam_clip.errors import InputError
from finercam_clip.paths import entries, is_folder, look, look_or_none, reason, same_file
from finercam_clip.processes import is_alive, machine

SETTINGS, MAPS, MANIFEST = "run.json", "maps", "manifest.jsonl"  # in the folder of a run (see `runs.folder`)
PART = ".part"  # the ending of what is being written; its name begins with a dot, and says who writes
LOCK = ".lock"  # the file in a folder that a living process holds
_PART_NAME = re.compile(rf"\..*\.([0-9a-f]{{8}})-([0-9]{{1,10}})\.[^.]+{re.escape(PART)}")
_NAME = 24  # letters of a file's name that its part begins with: at four bytes each they fit into any name


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
    write_together({path: data})
    return path


def write_new(path: Path, data: bytes) -> bool:
    """Writes a file whole unless one is there already, of however many processes that try it at a time.

    Args:
        path: The file, in a folder that exists.
        data: All of its bytes.

    Returns:
        Whether it was written.

    Raises:
        InputError: The place cannot be written to.
    """
    try:
        part = _part(path, data)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from error
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if look(path) is not None:
            return False
        write_whole(path, data)
    finally:
        part.unlink(missing_ok=True)
    return True


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes several files whole, or none of them.

    All are written beside their places before the first is renamed. If a later renaming fails, what the earlier ones
    replaced is put back.

    Args:
        files: Path -> all of its bytes.

    Raises:
        InputError: A place cannot be written to.
    """
    parts: dict[Path, Path] = {}
    before: dict[Path, Path | None] = {}  # what was renamed over, in a part of its own; None: nothing was there
    path = Path()
    try:
        for path, data in files.items():
            parts[path] = _part(path, data)
        for path, part in parts.items():
            if len(parts) > 1:
                before[path] = _part(path, path.read_bytes()) if look(path) else None
            part.replace(path)
    except BaseException as error:
        for replaced, older in before.items():
            if not parts[replaced].exists():  # it was renamed
                replaced.unlink() if older is None else older.replace(replaced)
        if isinstance(error, (OSError, ValueError)) and not isinstance(error, InputError):
            raise InputError(f"{path} cannot be written: {reason(error)}") from error
        raise
    finally:
        for left in (*parts.values(), *before.values()):
            if left is not None:
                left.unlink(missing_ok=True)


def _part(path: Path, data: bytes) -> Path:
    """A file beside a path, with all the bytes that are to be there. None is left if it cannot be written."""
    prefix = f".{path.name[:_NAME]}.{machine()}-{os.getpid()}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=PART)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp's own 0600 would keep others from reading it
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def remove_parts(folder: Path) -> int:
    """Removes what dead processes of this machine were writing into a folder.

    Args:
        folder: A folder that exists.

    Returns:
        How many such files are left. Their writers are alive, or on other machines, where nobody here can tell.
    """
    left = 0
    for entry in entries(folder):
        writer = _PART_NAME.fullmatch(entry.name)
        if writer is None:
            continue
        if writer[1] == machine() and not is_alive(int(writer[2])):
            Path(entry.path).unlink(missing_ok=True)
        else:
            left += 1
    return left


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
    except (OSError, ValueError) as error:
        raise InputError(f"the folder {path} cannot be made: {reason(error)}") from error
    return path


def check_writable(path: Path) -> None:
    """Makes sure that a file could be written to a place, before the work and not after it. Nothing is written.

    Raises:
        InputError: It is a folder or a device, its folder is not there, or it may not be written to.
    """
    status = look(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; name a file in it")
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file but a pipe or a device, which is not replaced")
    if not is_folder(path.parent):
        raise InputError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission in {path.parent}")


def check_no_input(output: Path, inputs: Iterable[Path]) -> None:
    """Makes sure that writing a file would not replace one that is read, by whatever path or link.

    Raises:
        InputError: It would.
    """
    if look(output) is None:
        return
    for path in inputs:
        if look_or_none(path) is not None and same_file(output, path):
            name = "it" if str(output) == str(path) else f"it is {path}, which"
            raise InputError(f"{output}: {name} is read here, and never overwritten; name another file")


def check_folder(path: Path) -> None:
    """Makes sure that files could be written into a folder, which need not be there yet. Nothing is written.

    Raises:
        InputError: The folder, or the first one above it that is there, cannot be written to.
    """
    base = existing(path)
    if not is_folder(base):
        raise InputError(f"the folder {path} cannot be made: {base} is no folder")
    if not os.access(base, os.W_OK | os.X_OK):
        raise InputError(f"the folder {path} cannot be written to: no permission in {base}")


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run of `finercam-clip generate`, which no data set counts among its own."""
    return os.path.isfile(folder / SETTINGS) and (  # noqa: PTH113 - False where the system refuses to say
        os.path.isdir(folder / MAPS) or os.path.isfile(folder / MANIFEST)  # noqa: PTH112, PTH113
    )


def existing(path: Path) -> Path:
    """The path, or the first one above it that is there."""
    for place in (path, *path.parents):
        if look(place) is not None:
            return place
    return Path()


# ------------------------------------------------------------------------------------------------ one process at a time


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Inside, no other process is in `locked` with the same folder. The system lets go of it when a process dies.

    Args:
        folder: A folder that exists. A file lies in it meanwhile.
        name: What that file is called.

    Raises:
        InputError: Another process holds it, or it cannot be written to.
    """
    path = folder / name
    handle = _lock(path)
    try:
        with suppress(OSError):  # who it is, is only for people
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            path.unlink(missing_ok=True)
        os.close(handle)


def holder(path: Path) -> str | None:
    """Who holds a lock's file, in words; None if nobody does, or where the file system has no locks."""
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        return None if _taken(handle) else _holder(path)
    finally:
        os.close(handle)


def _lock(path: Path) -> int:
    """A handle of the lock's file, held."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise InputError(f"the folder {path.parent} cannot be written to: {reason(error)}") from error
        if not _taken(handle):
            os.close(handle)
            raise InputError(f"{_holder(path)} is working in {path.parent}: wait for it, or name another folder")
        status = look(path)
        if status is not None and os.path.samestat(os.fstat(handle), status):
            return handle
        os.close(handle)  # whoever held it before has removed the file since: this one is nobody's


def _taken(handle: int) -> bool:
    """Whether the lock on an open file is now ours. Where a file system has no locks, it is."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:100] or "another process"
    except OSError:
        return "another process"


@contextmanager
def workplace(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder. It is gone afterwards; one that was killed with its process goes when the next is made.

    Args:
        parent: Where it lies.
        prefix: What its name begins with. Nothing else in that place may be called so.

    Raises:
        InputError: It cannot be made.
    """
    for entry in entries(parent):
        if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
            _remove_if_left(Path(entry.path))
    try:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    except OSError as error:
        raise InputError(f"the folder {parent} cannot be written to: {reason(error)}") from error
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """Removes the folder of a process that is no more. One without a lock is just being made, or somebody else's."""
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return
    try:
        if _taken(handle):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


@contextmanager
def staged(folder: Path, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Many files that appear in a folder together, when the last of them is written, or not at all.

    Args:
        folder: Where they are to be. It is made if need be.
        inputs: Files that none of them may replace.

    Yields:
        A folder to write them to meanwhile.

    Raises:
        InputError: The folder cannot be written to, or one of the files lies where an input does.
    """
    check_folder(folder)
    with workplace(existing(folder), f".finercam{PART}-") as place:
        yield place
        _move_all(place, folder, inputs)


def _move_all(source: Path, folder: Path, inputs: Iterable[Path]) -> None:
    """Moves every file of a folder to the same name in another. What fails is taken back."""
    files = sorted(path for path in source.rglob("*") if path.is_file() and path != source / LOCK)
    for file in files:
        check_no_input(folder / file.relative_to(source), inputs)
    new: list[Path] = []
    try:
        for file in files:
            target = folder / file.relative_to(source)
            missing = [above for above in (target.parent, *target.parent.parents) if not above.exists()]
            make_folder(target.parent)
            new += reversed(missing)
            if not os.path.lexists(target):
                new.append(target)
            try:
                file.replace(target)
            except OSError as error:
                raise InputError(f"{target} cannot be written: {reason(error)}") from error
    except BaseException:
        for path in reversed(new):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        raise
