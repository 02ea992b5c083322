"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finercam_clip import InputError
from finercam_clip.files import PART, make_folder, write_whole

OLD, NEW = b"old" * 10_000, b"new" * 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is there already, alone in its folder."""
    file = tmp_path / "maps.npz"
    file.write_bytes(OLD)
    return file


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a full disk, writing stops in the middle of a file with an error of the system."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --------------------------------------------------------------------------------------------------------- write_whole


@pytest.mark.parametrize("data", [b"", b"\x00\r\n\xff", NEW], ids=["nothing", "any bytes", "much"])
def test_a_file_holds_what_was_written_and_is_alone(tmp_path: Path, data: bytes) -> None:
    assert write_whole(tmp_path / "maps.npz", data) == tmp_path / "maps.npz"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"maps.npz": data}


def test_an_older_file_is_whole_until_the_new_one_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, folders = Path.replace, []

    def seen(part: Path, target: Path) -> Path:
        folders.append({file.name: file.read_bytes() for file in path.parent.iterdir()})
        return rename(part, target)

    monkeypatch.setattr(Path, "replace", seen)
    write_whole(path, NEW)
    assert path.read_bytes() == NEW
    (folder,) = folders
    assert folder.pop(path.name) == OLD
    ((name, data),) = folder.items()
    assert data == NEW
    assert name.startswith(".")
    assert name.endswith(PART)


def test_a_disk_that_fills_up_in_the_middle_leaves_the_older_file(path: Path) -> None:
    with files_no_larger_than(len(NEW) // 2), pytest.raises(InputError, match="cannot be written") as caught:
        write_whole(path, NEW)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("anything")], ids=repr)
@pytest.mark.parametrize("step", ["chmod", "replace"])
def test_an_interruption_leaves_the_older_file_and_comes_out_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, step, interrupted)
    with pytest.raises(type(error)) as caught:
        write_whole(path, NEW)
    assert caught.value is error
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0, 0o666)])
def test_a_file_can_be_read_by_whom_the_umask_allows(path: Path, mask: int, mode: int) -> None:
    with umask(mask):
        write_whole(path, NEW)
        assert path.stat().st_mode & 0o777 == mode
        assert os.umask(mask) == mask  # the process keeps its own


@pytest.mark.parametrize("name", ["missing/maps.npz", "file/maps.npz", "folder", "m" * 300])
def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        write_whole(tmp_path / name, NEW)
    assert str(caught.value).startswith(f"{tmp_path / name} cannot be written: ")
    assert not str(caught.value).endswith(("None", ": "))
    assert "\n" not in str(caught.value)
    assert PART not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["m" * 255, "赤" * 85, "🐦" * 63], ids=["latin", "japanese", "symbols"])
def test_a_name_of_any_script_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    assert write_whole(tmp_path / name, NEW).read_bytes() == NEW
    assert [file.name for file in tmp_path.iterdir()] == [name]


# --------------------------------------------------------------------------------------------------------- make_folder


def test_a_folder_is_made_with_those_above_it_and_may_be_there_already(tmp_path: Path) -> None:
    place = tmp_path / "run" / "maps" / "train"
    for _ in range(2):
        assert make_folder(place) == place
        assert place.is_dir()


def test_a_folder_that_is_there_keeps_its_files(path: Path) -> None:
    make_folder(path.parent)
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("name", ["maps.npz", "maps.npz/train", "m" * 300])
def test_a_folder_that_cannot_be_made_is_one_line(path: Path, name: str) -> None:
    place = path.parent / name
    with pytest.raises(InputError) as caught:
        make_folder(place)
    assert str(caught.value).startswith(f"the folder {place} cannot be made: ")
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == [path]
