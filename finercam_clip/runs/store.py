"""Where a run lies: a folder of this machine, or a place in an object store. Files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from finercam_clip.errors import InputError
from finercam_clip.files import (
    LOCK,
    PART,
    check_folder,
    holder,
    locked,
    make_folder,
    remove_parts,
    write_new,
    write_whole,
)
from finercam_clip.paths import entries, is_folder, look, place, read_bytes
from finercam_clip.runs.shards import Share

_MOST = 1 << 31  # bytes of a file


class Store(Hashable, Protocol):
    """A place for the files of a run. Names are relative to it, with "/" between folder and file."""

    def names(self, folder: str = "") -> list[str]:
        """What lies in a folder of it, sorted; nothing if there is no such folder."""

    def read(self, name: str) -> bytes | None:
        """A whole file; None if it is not there. Raises InputError where it cannot be read."""

    def write(self, name: str, data: bytes, when: int | None = None) -> None:
        """Writes a file whole. `when` becomes the time of its last change, nanoseconds, where files have such."""

    def write_new(self, name: str, data: bytes) -> bool:
        """Writes a file whole unless one is there already. Returns whether it was written."""

    def changed(self, name: str) -> int | None:
        """When a file was last changed, nanoseconds; None where that cannot be compared with the images' times."""

    def work(self, share: Share, folder: str) -> Any:
        """Inside, this process works on a share of the run, whose parts lie in `folder`."""

    def check(self) -> None:
        """Raises InputError where nothing could be written. Writes nothing."""


def store_of(run: object) -> Store:
    """The place of a run.

    Args:
        run: A path, or an address such as s3://bucket/run.

    Raises:
        InputError: It is neither, or its kind of store cannot be reached from here.
    """
    if is_address(run):
        from finercam_clip.runs.objects import ObjectStore  # the file systems of clouds are heavy

        return ObjectStore.at(str(run))
    return Folder(place(run, "the run"))


def is_address(text: object) -> bool:
    """Whether something is an address of a store (s3://bucket/run) and no path."""
    return isinstance(text, str) and "://" in text


@dataclass(frozen=True)
class Folder:
    """A folder of this machine. See `Store`.

    Attributes:
        path: The folder, which need not be there yet.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def names(self, folder: str = "") -> list[str]:
        path = self.path / folder
        return [entry.name for entry in entries(path)] if is_folder(path) else []

    def read(self, name: str) -> bytes | None:
        return read_bytes(self.path / name, _MOST) if look(self.path / name) is not None else None

    def write(self, name: str, data: bytes, when: int | None = None) -> None:
        path = write_whole(self.path / name, data)
        if when is not None:
            os.utime(path, ns=(when, when))

    def write_new(self, name: str, data: bytes) -> bool:
        return write_new(self.path / name, data)

    def changed(self, name: str) -> int | None:
        status = look(self.path / name)
        return None if status is None else status.st_mtime_ns

    def check(self) -> None:
        check_folder(self.path)

    @contextmanager
    def work(self, share: Share, folder: str) -> Iterator[None]:
        """Refuses a process whose share overlaps with that of another one on this machine.

        Afterwards the folder is gone again if nothing could be written to it.
        """
        new = [above for above in (self.path, *self.path.parents) if look(above) is None]
        make_folder(self.path)
        try:
            with locked(self.path, _lock_of(share)):
                self._check_alone(share)
                make_folder(self.path / folder)
                for each in (self.path, self.path / folder):
                    remove_parts(each)
                yield
        finally:
            with suppress(OSError):  # they are not empty, as a rule
                (self.path / folder).rmdir()
            with suppress(OSError):
                for above in new:
                    above.rmdir()

    def _check_alone(self, share: Share) -> None:
        ending = f"-of-{share.count}{LOCK}"
        for name in self.names():
            if name.endswith(LOCK) and name != _lock_of(share) and (share.count == 1 or not name.endswith(ending)):
                other = holder(self.path / name)
                if other is not None:
                    raise InputError(
                        f"{other} is working in {self.path} on another share of it: wait for it, or give every "
                        "process --shards i/n with the same n"
                    )


def _lock_of(share: Share) -> str:
    return LOCK if share.count == 1 else f".{share.index}-of-{share.count}{LOCK}"


def is_ours(name: str) -> bool:
    """Whether a file in a run's folder is one that comes and goes with the processes that work there."""
    return name.startswith(".") and name.endswith((LOCK, PART))
