"""The strip of a visitor's images: which files are in it, and what it looks like as HTML."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from finercam_clip.ui import strip
from finercam_clip.ui.strip import Strip, html, with_files


def image_file(folder: Path, name: str, size: tuple[int, int] = (600, 400)) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path)
    return str(path)


def test_a_folder_becomes_a_strip_by_name_without_what_is_no_image(tmp_path: Path) -> None:
    files = [image_file(tmp_path, name) for name in ("b.jpg", "A.png", "sub/c.webp")]
    for name in ("notes.txt", ".DS_Store"):
        (tmp_path / name).write_text("no image")
        files.append(str(tmp_path / name))
    images, first = with_files(Strip(), files)
    assert [Path(file).name for file in images.files] == ["A.png", "b.jpg", "c.webp"]
    assert first == images.files[0]
    assert images.left_out == 1  # hidden files are not worth a word
    assert "left out: 1" in html(images)

    more, new = with_files(images, [files[0], image_file(tmp_path, "d.jpg")])
    assert [Path(file).name for file in more.files] == ["A.png", "b.jpg", "c.webp", "d.jpg"]
    assert new == more.files[3]
    assert with_files(more, files[:1]) == (more, None)


def test_pictures_are_small(tmp_path: Path) -> None:
    images, _ = with_files(Strip(), [image_file(tmp_path, "wide.jpg", (4000, 3000)), image_file(tmp_path, "s.png")])
    for picture in images.pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as small:
            assert max(small.size) <= 288
            assert small.height <= 144


def test_a_strip_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip, "MOST_IMAGES", 2)
    images, _ = with_files(Strip(), [image_file(tmp_path, f"{i}.png") for i in range(3)])
    assert len(images.files) == 2
    assert images.left_out == 1


def test_every_image_has_two_buttons_and_names_are_never_read_as_html(tmp_path: Path) -> None:
    images, _ = with_files(Strip(), [image_file(tmp_path, name) for name in ("a.png", "<b>'&.png")])
    text = html(images)
    assert re.findall(r'data-index="(\d)" data-does="(\w+)"', text) == [
        (index, does) for index in "01" for does in ("ask", "compare")
    ]
    assert "<b>" not in text
