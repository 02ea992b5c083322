"""The strip of a visitor's images: small pictures in a row. A click asks the last question about one of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from finercam_clip.errors import InputError
from finercam_clip.images import read_image

MOST_IMAGES = 200  # in a strip
_SIDE = 144  # of a small picture, pixels: twice what is shown, for sharp screens


@dataclass(frozen=True)
class Strip:
    """The images that a visitor brought.

    Attributes:
        files: Their paths, without repetition.
        pictures: For each a small picture, as a data URL.
        left_out: How many files could not be read as an image, or were more than `MOST_IMAGES`.
    """

    files: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    left_out: int = 0


def with_files(strip: Strip, files: Sequence[str]) -> tuple[Strip, str | None]:
    """The strip with further images behind the others, by name, and the first new one, or None."""
    new: dict[str, str] = {}
    left_out = 0
    for file in sorted(dict.fromkeys(files), key=lambda file: Path(file).name.lower()):
        if file in strip.files:
            continue
        picture = _small(file) if len(strip.files) + len(new) < MOST_IMAGES else None
        if picture is None:
            left_out += not Path(file).name.startswith(".")  # a folder's hidden files are nobody's images
        else:
            new[file] = picture
    return Strip((*strip.files, *new), (*strip.pictures, *new.values()), left_out), next(iter(new), None)


def html(strip: Strip) -> str:
    """The strip as HTML: per image a button that asks about it, and one that makes it the second image."""
    cells = []
    for i, (file, picture) in enumerate(zip(strip.files, strip.pictures, strict=True)):
        name = escape(Path(file).name)
        cells.append(
            f'<div><button type="button" class="fc-thumb" data-index="{i}" data-does="ask" title="{name}"'
            f' aria-label="Ask about {name}"><img alt="" src="{picture}"></button>'
            f'<button type="button" class="fc-beside" data-index="{i}" data-does="compare"'
            f' aria-label="Compare with {name}">compare</button></div>'
        )
    note = ""
    if strip.left_out:
        note = f"left out: {strip.left_out} (not an image that can be read, or more than {MOST_IMAGES})"
    return f'<div class="fc-strip" role="group" aria-label="Your images">{"".join(cells)}</div><p>{note}</p>'


def _small(file: str) -> str | None:
    """A small picture of an image file as a data URL, or None if it cannot be read."""
    try:
        with Image.open(file) as opened:
            opened.draft("RGB", (_SIDE, _SIDE))  # a JPEG is decoded at a fraction of its size
            image = read_image(opened)
    except (InputError, OSError, Image.DecompressionBombError):
        return None
    image.thumbnail((2 * _SIDE, _SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
