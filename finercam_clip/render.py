"""For the eye: colour, overlay, captions, panel, and files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from finercam_clip.errors import InputError
from finercam_clip.files import write_whole
from finercam_clip.opencv import cv2

Picture = NDArray[np.uint8]
FORMATS = (".png", ".jpg", ".jpeg", ".webp")
TILE = 360  # longest side of a panel's tile, pixels
_INK, _FAINT, _WARNING, _PAPER = (24, 24, 27), (113, 113, 122), (190, 30, 30), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """One picture of a panel. image: uint8 [H, W, 3]; marked: (x, y) to point at; warning: the caption is one."""

    image: Picture
    title: str
    caption: str
    marked: tuple[int, int] | None = None
    warning: bool = False


def colour(heat: NDArray[np.float32]) -> Picture:
    """Heat 0..1 [H, W] in inferno, a perceptually uniform colour map: uint8 [H, W, 3] RGB."""
    mapped = cv2.applyColorMap((np.clip(heat, 0, 1) * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(mapped[..., ::-1])


def overlay(
    image: Picture,
    heat: NDArray[np.float32],
    *,
    opacity: float = 0.85,
    seen: tuple[int, int, int, int] | None = None,
) -> Picture:
    """Heat 0..1 [H, W] over the image in light grey: all colour is the heat's. Darker outside `seen`."""
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity lies between 0 and 1, not {opacity}")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) * 0.7 + 60
    weight = (opacity * np.clip(1.6 * heat, 0, 1))[..., None]
    blended = grey * (1 - weight) + colour(heat) * weight
    if seen is not None:
        x0, y0, x1, y1 = seen
        outside = np.ones(heat.shape, bool)
        outside[y0:y1, x0:x1] = False
        blended[outside] *= 0.35
    result: Picture = blended.round().clip(0, 255).astype(np.uint8)
    return result


def panel(tiles: Sequence[Tile]) -> Picture:
    """The tiles side by side at one size, each under its title and over its caption: uint8 [h, w, 3]."""
    height, width = tiles[0].image.shape[:2]
    factor = TILE / max(height, width)
    w, h = max(round(width * factor), 1), max(round(height * factor), 1)
    column, margin, header = max(w, 200), 16, 34
    captions = [_wrapped(tile.caption, column) for tile in tiles]
    footer = 20 * max(len(lines) for lines in captions) + 10
    sheet = Image.new("RGB", (margin + len(tiles) * (column + margin), header + h + footer + margin), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        x = margin + i * (column + margin)
        pen.text((x, 9), tile.title, font=_font(17), fill=_INK)
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        sheet.paste(Image.fromarray(cv2.resize(tile.image, (w, h), interpolation=method)), (x, header))
        if tile.marked is not None:
            cx, cy = x + (tile.marked[0] + 0.5) * factor, header + (tile.marked[1] + 0.5) * factor
            for radius, ink in ((9, _INK), (7.5, _PAPER)):
                pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), outline=ink, width=2)
        for row, line in enumerate(lines):
            ink = _WARNING if tile.warning else _INK if row == 0 else _FAINT
            pen.text((x, header + h + 8 + 20 * row), line, font=_font(14), fill=ink)
    return np.asarray(sheet)


def sheet(tiles: Sequence[Tile], columns: int, *, side: int = 180, title: str = "") -> Picture:
    """The tiles in rows of `columns`, each within a square of `side` pixels over its title and caption."""
    margin, header = 12, 34 if title else 12
    captions = [[*_wrapped(tile.title, side), *_wrapped(tile.caption, side)][:4] for tile in tiles]
    footer = 18 * max(len(lines) for lines in captions) + 10
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    page = Image.new("RGB", (margin + columns * (side + margin), header + rows * (side + footer)), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((margin, 9), title, font=_font(17), fill=_INK)
    for i, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        x, y = margin + i % columns * (side + margin), header + i // columns * (side + footer)
        page.paste(Image.fromarray(fitted(tile.image, (side, side))), (x, y))
        if tile.marked is not None:
            height, width = tile.image.shape[:2]
            factor = side / max(height, width)
            cx = x + (side - width * factor) / 2 + (tile.marked[0] + 0.5) * factor
            cy = y + (side - height * factor) / 2 + (tile.marked[1] + 0.5) * factor
            for radius, ink in ((7, _INK), (5.5, _PAPER)):
                pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), outline=ink, width=2)
        for row, line in enumerate(lines):
            ink = _INK if row == 0 else _WARNING if tile.warning else _FAINT
            pen.text((x, y + side + 4 + 18 * row), line, font=_font(14), fill=ink)
    return np.asarray(page)


def fitted(image: Picture, shape: tuple[int, int]) -> Picture:
    """An image as large as it fits into (H, W), centred on paper."""
    factor = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    h, w = (max(round(side * factor), 1) for side in image.shape[:2])
    canvas = blank(shape)
    y, x = (shape[0] - h) // 2, (shape[1] - w) // 2
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    canvas[y : y + h, x : x + w] = cv2.resize(image, (w, h), interpolation=method)
    return canvas


def blank(shape: tuple[int, int]) -> Picture:
    """Paper, uint8 [H, W, 3]."""
    return np.full((*shape, 3), 244, np.uint8)


def shrunk(image: Picture) -> Picture:
    """A larger image at the size of a panel's tile."""
    factor = TILE / max(image.shape[:2])
    size = tuple(max(round(side * factor), 1) for side in image.shape[1::-1])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def write_picture(path: str | Path, image: Picture) -> Path:
    """Writes a picture beside its final place and renames it: a reader never sees half a file.

    Raises:
        InputError: the ending is not of `FORMATS`, or the place cannot be written to.
    """
    path = check_output(path)
    done, data = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise InputError(
            f"{path}: a picture of {image.shape[1]} x {image.shape[0]} does not fit the format {path.suffix}"
        )
    return write_whole(path, data.tobytes())


def check_output(path: str | Path) -> Path:
    """The path, if a picture could be written there; to be asked before the work, not after.

    Raises:
        InputError: the ending is not of `FORMATS`, or there is no such folder, or it may not be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: no permission in {path.parent}")
    return path


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines no wider than `width` pixels in the caption's font."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _font(14).getlength(longer) > width:
                lines.append(line)
                longer = word
            while _font(14).getlength(longer) > width:  # a word too wide for a line, or a script without spaces
                fits = next(n for n in range(len(longer) - 1, 0, -1) if _font(14).getlength(longer[:n]) <= width)
                lines.append(longer[:fits])
                longer = longer[fits:]
            line = longer
        lines.append(line)
    return lines
