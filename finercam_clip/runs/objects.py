"""A run in an object store: s3://, gs:// and whatever else fsspec knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec

from finercam_clip.errors import InputError
from finercam_clip.paths import reason
from finercam_clip.runs.shards import Share


@dataclass(frozen=True)
class ObjectStore:
    """A place in an object store. See `runs.store.Store`.

    An object is there whole or not at all, so nothing is renamed. There are no locks: processes are told apart by their
    shares, and two that compute the same shard write the same bytes.

    Attributes:
        address: Such as s3://bucket/run.
        system: What speaks its protocol.
        path: The address without its protocol.
    """

    address: str
    system: Any
    path: str

    @staticmethod
    def at(address: str) -> ObjectStore:
        """The place of an address. Raises InputError where its protocol is not known here."""
        system, path = system_of(address)
        return ObjectStore(address.rstrip("/"), system, path.rstrip("/"))

    def __str__(self) -> str:
        return self.address

    def names(self, folder: str = "") -> list[str]:
        path = f"{self.path}/{folder}".rstrip("/")
        with _errors(self.address):
            self.system.invalidate_cache(path)
            try:
                listed = self.system.ls(path, detail=False)
            except FileNotFoundError:
                return []
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in listed if name.rstrip("/") != path)

    def read(self, name: str) -> bytes | None:
        with _errors(f"{self.address}/{name}"):
            try:
                data: bytes = self.system.cat_file(f"{self.path}/{name}")
            except FileNotFoundError:
                return None
        return data

    def write(self, name: str, data: bytes, when: int | None = None) -> None:
        with _errors(f"{self.address}/{name}"):
            self.system.pipe_file(f"{self.path}/{name}", data)

    def write_new(self, name: str, data: bytes) -> bool:
        with _errors(f"{self.address}/{name}"):
            try:
                self.system.pipe_file(f"{self.path}/{name}", data, mode="create")
            except FileExistsError:
                return False
            except (TypeError, NotImplementedError):  # a store that cannot promise it
                self.system.pipe_file(f"{self.path}/{name}", data)
        return True

    def changed(self, name: str) -> int | None:
        return None

    def check(self) -> None:
        self.names()

    @contextmanager
    def work(self, share: Share, folder: str) -> Iterator[None]:
        yield


def system_of(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        InputError: Its protocol is not known here, or a package for it is missing.
    """
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise InputError(
            f"{address}: {reason(error)}; pip install 'finercam_clip[s3]' or 'finercam_clip[gs]'"
        ) from error
    except Exception as error:  # each store has its own
        raise InputError(f"{address} cannot be reached: {reason(error)}") from error
    return system, str(path)


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Turns whatever a store raises into one line."""
    try:
        yield
    except (InputError, FileExistsError):
        raise
    except Exception as error:  # each store has its own
        raise InputError(f"{address} cannot be reached: {reason(error)}") from error
