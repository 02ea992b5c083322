"""For the eye: colour, overlay, captions, panel, sheet, and picture files.

All scaling for the eye happens here. Pictures are uint8 [H, W, 3], RGB; heat is float32 [H, W] in 0..1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from finercam_clip import checks
from finercam_clip.errors import InputError, shown
from finercam_clip.files import check_writable, write_whole
from finercam_clip.opencv import cv2
from finercam_clip.paths import place

Picture = NDArray[np.uint8]
Ink = tuple[int, int, int]  # RGB, 0..255
FORMATS = (".png", ".jpg", ".jpeg", ".webp")
FAINT = 0.1  # a difference below this share of the target's own map is shown in proportion, and not at full scale
TILE = 360  # longest side of a panel's tile, pixels
_LINES = 4  # under a tile of a sheet
_INK, _FAINT, _WARNING, _PAPER = (24, 24, 27), (113, 113, 122), (190, 30, 30), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """One picture of a panel or a sheet, and what is written beside it.

    Attributes:
        image: The picture, uint8 [H, W, 3].
        title: What kind of picture it is.
        caption: What it shows, in ink; on a sheet in grey, for there the title is in ink.
        note: Scores and the like, in grey. Its lines follow those of the caption, one under each.
        marked: The pixel (x, y) of the image to put a ring around, or None.
        warning: Whether the note, or without one the caption, is a warning, in red.
    """

    image: Picture
    title: str
    caption: str
    note: str = field(default="", kw_only=True)
    marked: tuple[int, int] | None = None
    warning: bool = False


def positive(grid: NDArray[np.floating], scale: float) -> NDArray[np.float32]:
    """The positive part of a signed map, scaled for the eye.

    Args:
        grid: A signed map of any shape.
        scale: The value that becomes 1, 0 and up; at 0 there is nothing to show.

    Returns:
        max(grid, 0) / scale, of the same shape; zeros if the scale is 0.
    """
    result = np.zeros(grid.shape, np.float32)
    if scale > 0:
        np.divide(np.maximum(grid, 0), np.float32(scale), out=result, dtype=np.float32)
    return result


def share_of(grid: NDArray[np.floating], alone: NDArray[np.floating], weight: float = 1.0) -> float:
    """How large a difference is beside what it was taken from: the ratio of the largest absolute values.

    Args:
        grid: A signed map, weight * target - contrasts.
        alone: The signed map of the target.
        weight: What the target counts for in the difference.

    Returns:
        0 and up. It is 0 where the difference is; 1 where the target's own map is nothing.
    """
    largest, own = float(np.abs(grid).max()), abs(weight) * float(np.abs(alone).max())
    return largest / own if own > 0 else float(largest > 0)


def full_scale(grid: NDArray[np.floating], alone: NDArray[np.floating], weight: float = 1.0) -> float:
    """The value of a difference that is shown as 1: its largest absolute value, or more where it is nearly nothing.

    What is left when two nearly equal maps are subtracted is their noise, and must not look like an answer. Below
    `FAINT` of the target's own map, the difference is as much fainter as it is smaller. Arguments as in `share_of`.
    """
    share, largest = share_of(grid, alone, weight), float(np.abs(grid).max())
    return largest if share >= FAINT else largest * (FAINT / share) if share > 0 else 0.0


def peak_of(heat: NDArray[np.floating]) -> tuple[int, int] | None:
    """The (x, y) of the hottest pixel of a heatmap [H, W]; None where there is no heat."""
    if not heat.any():
        return None
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(x), int(y)


def colour(heat: NDArray[np.float32]) -> Picture:
    """Heat as colour, in inferno, a perceptually uniform colour map.

    Args:
        heat: 0..1, [H, W]; what lies outside is taken as the nearer end.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    mapped = cv2.applyColorMap((np.clip(heat, 0, 1) * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(mapped[..., ::-1])


def overlay(
    image: Picture,
    heat: NDArray[np.float32],
    *,
    opacity: float = 0.85,
    seen: tuple[int, int, int, int] | None = None,
) -> Picture:
    """Heat over an image in light grey, so that all colour is the heat's.

    Args:
        image: uint8 [H, W, 3].
        heat: 0..1, [H, W].
        opacity: That of the hottest pixels, 0..1.
        seen: The box (x0, y0, x1, y1) that the model saw; outside it the picture is darker. None is the whole image.

    Returns:
        uint8 [H, W, 3].

    Raises:
        InputError: The opacity is not in its range.
    """
    share = checks.real(opacity)
    if share is None or not 0 <= share <= 1:
        raise InputError(f"opacity lies between 0 and 1, not {shown(opacity)}")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) * 0.7 + 60
    weight = (share * np.clip(1.6 * heat, 0, 1))[..., None]
    blended = grey * (1 - weight) + colour(heat) * weight
    if seen is not None:
        x0, y0, x1, y1 = seen
        outside = np.ones(heat.shape, bool)
        outside[y0:y1, x0:x1] = False
        blended[outside] *= 0.35
    result: Picture = blended.round().clip(0, 255).astype(np.uint8)
    return result


def outlined(image: Picture, region: NDArray[np.bool_]) -> Picture:
    """An image with a line around each part of a region, white within black, so that it shows on any ground.

    Args:
        image: uint8 [H, W, 3].
        region: bool [H, W].

    Returns:
        uint8 [H, W, 3]: the image itself where the region is empty.
    """
    if not region.any():
        return image
    edge = np.pad(region, 1).astype(np.uint8)  # a margin, so that a line runs along the picture's own edge, too
    lines, _ = cv2.findContours(edge, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    width = max(round(max(image.shape[:2]) / TILE), 1)
    for thickness, ink in ((2 * width + 1, _INK), (width, _PAPER)):
        cv2.drawContours(drawn, lines, -1, ink, thickness, cv2.LINE_AA)
    result: Picture = np.ascontiguousarray(drawn[1:-1, 1:-1])
    return result


def panel(tiles: Sequence[Tile]) -> Picture:
    """The tiles side by side, each under its title and over its caption.

    Args:
        tiles: At least one. All are drawn at the size of the first, whose longer side becomes `TILE` pixels.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = tiles[0].image.shape[:2]
    factor = TILE / max(height, width)
    w, h = max(round(width * factor), 1), max(round(height * factor), 1)
    column, margin, header = max(w, 200), 16, 34
    captions = [_caption(tile, column, _INK) for tile in tiles]
    footer = 20 * max(len(lines) for lines in captions) + 10
    page = Image.new("RGB", (margin + len(tiles) * (column + margin), header + h + footer + margin), _PAPER)
    pen = ImageDraw.Draw(page)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    for i, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        x = margin + i * (column + margin)
        pen.text((x, 9), tile.title, font=font(17), fill=_INK)
        page.paste(Image.fromarray(cv2.resize(tile.image, (w, h), interpolation=method)), (x, header))
        _mark(pen, tile, (x, header), factor, radius=9)
        _write(pen, (x, header + h + 8), lines, spacing=20)
    return np.asarray(page)


def sheet(tiles: Sequence[Tile], columns: int, *, side: int = 180, title: str = "") -> Picture:
    """The tiles in rows, each within a square over four lines at most of its title, caption and note.

    Args:
        tiles: At least one, of any sizes.
        columns: How many tiles a row has, 1 and up.
        side: The side of a tile's square, pixels.
        title: Above them all.

    Returns:
        uint8 [h, w, 3].
    """
    margin, header = 12, 34 if title else 12
    captions = [_titled(tile, side) for tile in tiles]
    footer = 18 * max(len(lines) for lines in captions) + 10
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    page = Image.new("RGB", (margin + columns * (side + margin), header + rows * (side + footer)), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((margin, 9), title, font=font(17), fill=_INK)
    for i, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        x, y = margin + i % columns * (side + margin), header + i // columns * (side + footer)
        page.paste(Image.fromarray(fitted(tile.image, (side, side))), (x, y))
        height, width = tile.image.shape[:2]
        factor = side / max(height, width)
        _mark(pen, tile, (x + (side - width * factor) / 2, y + (side - height * factor) / 2), factor, radius=7)
        _write(pen, (x, y + side + 4), lines, spacing=18)
    return np.asarray(page)


def _caption(tile: Tile, width: int, ink: Ink) -> list[tuple[str, Ink]]:
    """The lines of a tile's caption and note, none wider than `width` pixels, each with its ink."""
    caption, note = tile.caption.splitlines(), tile.note.splitlines()
    inks = (ink, _FAINT)
    if tile.warning:
        inks = (ink if note else _WARNING, _WARNING)
    lines = []
    for texts in zip_longest(caption, note, fillvalue=""):
        for text, tone in zip(texts, inks, strict=True):
            lines += [(line, tone) for line in wrapped(text, width)]
    return lines


def _titled(tile: Tile, width: int) -> list[tuple[str, Ink]]:
    """The lines of a tile on a sheet. A long title gives way to what is written under it."""
    below = _caption(tile, width, _FAINT)[: _LINES - 1]
    return [(line, _INK) for line in wrapped(tile.title, width)][: _LINES - len(below)] + below


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], lines: list[tuple[str, Ink]], spacing: int) -> None:
    """Writes lines, each in its ink, under one another from a corner (x, y) on."""
    x, y = corner
    for row, (line, ink) in enumerate(lines):
        pen.text((x, y + spacing * row), line, font=font(14), fill=ink)


def _mark(pen: ImageDraw.ImageDraw, tile: Tile, corner: tuple[float, float], factor: float, radius: int) -> None:
    """Draws a ring around the marked pixel of a tile whose picture lies at a corner (x, y), `factor` times as large."""
    if tile.marked is None:
        return
    x, y = (edge + (pixel + 0.5) * factor for edge, pixel in zip(corner, tile.marked, strict=True))
    for r, ink in ((radius, _INK), (radius - 1.5, _PAPER)):
        pen.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=2)


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
    """Paper of (H, W) pixels: uint8 [H, W, 3]."""
    return np.full((*shape, 3), 244, np.uint8)


def shrunk(image: Picture) -> Picture:
    """A larger image at the size of a panel's tile: its longer side is `TILE` pixels."""
    factor = TILE / max(image.shape[:2])
    size = tuple(max(round(side * factor), 1) for side in image.shape[1::-1])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def stretched(image: Picture, shape: tuple[int, int]) -> Picture:
    """An image as (H, W) pixels, whatever its own shape."""
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def write_picture(path: str | Path, image: Picture) -> Path:
    """Writes a picture, whole or not at all.

    Args:
        path: The file. Its ending, one of `FORMATS`, says the format.
        image: uint8 [H, W, 3] RGB.

    Returns:
        The path.

    Raises:
        InputError: The ending is another, the place cannot be written to, or the format cannot hold such a picture.
    """
    path = check_output(path)
    return write_whole(path, encoded(path, image))


def encoded(path: Path, image: Picture) -> bytes:
    """The bytes of a picture's file.

    Args:
        path: The file, which is not written. Its ending says the format.
        image: uint8 [H, W, 3] RGB.

    Raises:
        InputError: The format cannot hold such a picture.
    """
    done, data = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise InputError(
            f"{path}: a picture of {image.shape[1]} x {image.shape[0]} does not fit the format {path.suffix}"
        )
    compressed: bytes = data.tobytes()
    return compressed


def check_output(path: str | Path) -> Path:
    """Makes sure that a picture could be written to a place, before the work and not after it.

    Args:
        path: The file. Nothing is written.

    Returns:
        The path.

    Raises:
        InputError: The ending is not one of `FORMATS`, the folder does not exist, or it may not be written to.
    """
    path = place(path, "the picture to write")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")
    check_writable(path)
    return path


@lru_cache(maxsize=4)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of captions, `size` pixels high."""
    return ImageFont.load_default(size)


def wrapped(text: str, width: int, size: int = 14) -> list[str]:
    """The text in lines no wider than `width` pixels in the caption's font, `size` pixels high."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font(size).getlength(longer) > width:
                lines.append(line)
                longer = word
            while (count := _fitting(longer, width, size)) < len(longer):  # a word too wide, or a script without spaces
                lines.append(longer[:count])
                longer = longer[count:]
            line = longer
        lines.append(line)
    return lines


def _fitting(text: str, width: int, size: int) -> int:
    """How many letters of a text fit into `width` pixels, at least 1.

    The search doubles, then halves. What it measures is a small multiple of what fits, however long the text is.
    """

    def is_wider(count: int) -> bool:
        return font(size).getlength(text[:count]) > width

    most = 1
    while most < len(text) and not is_wider(most):
        most *= 2
    return max(bisect_left(range(1, min(most, len(text)) + 1), True, key=is_wider), 1)
