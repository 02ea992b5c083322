"""The one place that looks at paths: whatever lies there, an answer or one line; names lead back to their files."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.damaged import encoded

from finercam_clip import InputError, paths
from finercam_clip.concepts.vocabulary import class_names, read_prompts
from finercam_clip.datasets import open_dataset
from finercam_clip.images import read_image
from finercam_clip.models.heads import read_head
from finercam_clip.runs import read_manifest
from finercam_clip.runs.gallery import visualize
from finercam_clip.traits import read_traits

READERS: dict[str, Callable[[Path], object]] = {
    "image": read_image,
    "data set": open_dataset,
    "prompts": read_prompts,
    "classes": class_names,
    "head": lambda path: read_head(path.with_suffix(".pth") if path.suffix != ".pth" else path),
    "traits": read_traits,
    "manifest": read_manifest,
    "gallery": visualize,
}


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(30 << 30)  # 30 GB, of which the disk has nothing


PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": lambda path: os.mkfifo(path),
    "loop": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "30 GB": _sparse,
    "long": lambda path: None,
}


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices")
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", PLACES)
def test_nothing_hangs_or_is_read_whole(kind: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300 if kind == "long" else "place.pth")
    PLACES[kind](path)
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            read(path)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    (error,) = errors
    assert isinstance(error, InputError)
    assert "\n" not in str(error)


@pytest.mark.parametrize("path", ["", "a\0b", 5, None, b"bytes", 1.5, ["list"]], ids=repr)
def test_what_is_no_path_is_one_line(path: object) -> None:
    with pytest.raises(InputError, match=r"path|byte"):
        paths.place(path, "the image")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do everything")
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_place_without_permission_is_one_line(read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0)
    try:
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "locked" / "place.pth")
    finally:
        (tmp_path / "locked").chmod(stat.S_IRWXU)


# --------------------------------------------------------------------------------------------------------------- names

NAMES = st.binary(min_size=1, max_size=300).map(lambda data: os.fsdecode(data.replace(b"\0", b"_")))


@settings(max_examples=300, deadline=None)
@given(NAMES)
def test_a_name_is_text_and_leads_back_to_its_file(name: str) -> None:
    text = paths.text_of(name)
    assert text.encode("utf-8").decode("utf-8") == text
    assert paths.path_of(text) == name


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES.map(paths.text_of), unique=True, max_size=12))
def test_every_name_has_a_place_of_its_own_that_a_file_system_can_hold(names: list[str]) -> None:
    files = paths.stored(names, ".npz")
    assert list(files) == names
    assert len({paths.unicodedata.normalize("NFC", file).casefold() for file in files.values()}) == len(names)
    for file in files.values():
        parts = file.split("/")
        assert all(0 < len(part.encode()) <= 255 - 40 and part not in (".", "..") for part in parts)
        assert parts[-1].endswith(".npz")
        assert not any(file == other or other.startswith(f"{file}/") for other in files.values() if other != file)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a/b.jpg", True),
        ("a..b.jpg", True),
        ("", False),
        ("../x", False),
        ("a/../../x", False),
        ("/etc/x", False),
        ("a\\..\\..\\x", False),
        ("a\0b", False),
    ],
)
def test_names_from_files_stay_under_their_root(name: str, inside: bool) -> None:
    assert paths.stays_inside(name) == inside


# -------------------------------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_knows_a_file_by_its_times_and_another_content_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded("PNG"))
    with paths.opened(path) as file:
        own = paths.fingerprint(file, path)
    assert own.is_of(path.stat())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(own.modified, own.modified))  # as `cp -p` of another file of that size
    assert not own.is_of(path.stat())
    with paths.opened(path) as file:
        assert paths.fingerprint(file, path).sha256 != own.sha256
