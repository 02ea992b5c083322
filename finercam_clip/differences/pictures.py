"""The answer drawn: per text the scores of both sets, its clearest images with their maps, and the mean heat."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from finercam_clip import render
from finercam_clip.differences.places import Place, Shown

COLOURS = ((200, 80, 10), (20, 90, 170))  # of A and of B, which also the colour-blind can tell apart
_INK, _GREY, _PAPER, _RULE = (24, 24, 27), (113, 113, 122), (255, 255, 255), (228, 228, 231)
_TILE, _GAP, _MARGIN = 128, 8, 20
_PLOT = 330  # pixels, width of the plot of scores
_DOTS = (6, 5, 4, 3, 2)  # radii: the largest with which all stacks fit
_LINE = 20  # pixels from line to line
_TEMPLATE = Path(__file__).parent / "page.html"


@dataclass(frozen=True, eq=False)
class Block:
    """What is shown of one text.

    Attributes:
        title: Its number and the text.
        side: Which set has more of it, 0 or 1.
        sentences: What is known about it, for people.
        names: What the sets are called.
        scores: Its scores on the images of A and of B.
        place: Where its evidence is.
    """

    title: str
    side: int
    sentences: tuple[str, ...]
    names: tuple[str, str]
    scores: tuple[NDArray[np.float64], NDArray[np.float64]]
    place: Place


def block_picture(block: Block) -> render.Picture:
    """The plot of the scores; A's clearest images over their maps; the mean heat; B's: uint8 [h, w, 3]."""
    shown = [block.place.a, block.place.b]
    columns = [max(len(side), 1) * (_TILE + _GAP) - _GAP for side in shown]
    width = _PLOT + 3 * _MARGIN + sum(columns) + _TILE + 2 * _MARGIN
    height = _LINE + 2 * _TILE + _GAP + 4
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    _plot(pen, block, _PLOT, height)
    x = _PLOT + _MARGIN
    for side in (0, 1):
        pen.text((x, 0), _short(block.names[side], columns[side]), font=render.font(14), fill=COLOURS[side])
        for column, one in enumerate(shown[side]):
            _paste(page, one, (x + column * (_TILE + _GAP), _LINE))
        x += columns[side] + _MARGIN
        if side == 0:
            _paste_mean(page, pen, block, x)
            x += _TILE + _MARGIN
    return np.asarray(page)


def _paste(page: Image.Image, shown: Shown, corner: tuple[int, int]) -> None:
    x, y = corner
    for row, picture in enumerate((shown.image, shown.overlay)):
        page.paste(Image.fromarray(render.fitted(picture, (_TILE, _TILE))), (x, y + row * (_TILE + _GAP)))


def _paste_mean(page: Image.Image, pen: ImageDraw.ImageDraw, block: Block, x: int) -> None:
    place = block.place
    pen.text((x, 0), f"mean of {place.mapped}", font=render.font(14), fill=COLOURS[block.side])
    pictures = (place.mean, render.overlay(place.mean, place.heat))
    for row, picture in enumerate(pictures):
        square = render.fitted(picture, (_TILE, _TILE))
        page.paste(Image.fromarray(square), (x, _LINE + row * (_TILE + _GAP)))


def _plot(pen: ImageDraw.ImageDraw, block: Block, width: int, height: int) -> None:
    """A dot per picture, stacked, A above B: where the colours lie apart, the text tells the sets apart."""
    every = np.concatenate(block.scores)
    low, span = float(every.min()), float(np.ptp(every)) or 1.0
    room = (height - 4 * _LINE) // 2 - 14
    dot = next(dot for dot in _DOTS if dot == _DOTS[-1] or _tallest(block, low, span, width, dot) * 2 * dot <= room)
    scale = (width - 2 * dot) / span
    for side, own in enumerate(block.scores):
        top = side * (room + _LINE + 14)
        label = f"{block.names[side]}: {len(own)} pictures"
        pen.text((0, top), _short(label, width), font=render.font(14), fill=COLOURS[side])
        base = top + _LINE + room
        pen.line((0, base, width, base), fill=_RULE)
        bins = np.floor((own - low) * scale / (2 * dot)).astype(int)
        counts = np.bincount(bins)
        step = min(2.0 * dot, (room - 2 * dot) / max(int(counts.max()) - 1, 1))
        for column in np.flatnonzero(counts).tolist():
            for row in range(int(counts[column])):
                x, y = (2 * column + 1) * dot, base - dot - row * step
                pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=COLOURS[side])
        middle = dot + (float(np.median(own)) - low) * scale
        pen.polygon([(middle - 5, base + 9), (middle + 5, base + 9), (middle, base + 2)], fill=COLOURS[side])
    pen.text(
        (0, height - 2 * _LINE), "a dot is a picture; further right it fits better", font=render.font(14), fill=_GREY
    )
    y = height - _LINE // 2
    pen.line((0, y, width, y), fill=_GREY)
    pen.polygon([(width, y), (width - 8, y - 4), (width - 8, y + 4)], fill=_GREY)


def _tallest(block: Block, low: float, span: float, width: int, dot: int) -> int:
    """How many dots the highest stack has."""
    scale = (width - 2 * dot) / span / (2 * dot)
    return max(int(np.bincount(np.floor((own - low) * scale).astype(int)).max()) for own in block.scores)


def _short(text: str, width: int) -> str:
    font = render.font(14)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def page_picture(head: Sequence[str], blocks: Sequence[Block]) -> render.Picture:
    """The whole answer as one picture.

    Args:
        head: The headline, the sizes, the notes.
        blocks: A text each.
    """
    drawn = [block_picture(block) for block in blocks]
    width = max((picture.shape[1] for picture in drawn), default=900) + 2 * _MARGIN
    lines: list[tuple[str, int, tuple[int, int, int]]] = []
    for number, text in enumerate(head):
        ink = _INK if number == 0 else _GREY if number == 1 else (190, 30, 30)
        size = 20 if number == 0 else 14
        lines += [(line, size, ink) for line in render.wrapped(text, width - 2 * _MARGIN, size)]
    heights = [_block_height(block, picture, width) for block, picture in zip(blocks, drawn, strict=True)]
    page = Image.new("RGB", (width, 2 * _MARGIN + sum(s + 10 for _, s, _ in lines) + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(page)
    y = _MARGIN
    for line, size, ink in lines:
        pen.text((_MARGIN, y), line, font=render.font(size), fill=ink)
        y += size + 10
    for block, picture, height in zip(blocks, drawn, heights, strict=True):
        pen.line((_MARGIN, y + 6, width - _MARGIN, y + 6), fill=_RULE)
        title = f"{block.title}: more in {block.names[block.side]}"
        pen.text((_MARGIN, y + 14), title, font=render.font(18), fill=COLOURS[block.side])
        below = y + 42
        for line in render.wrapped(" ".join(block.sentences), width - 2 * _MARGIN, 14):
            pen.text((_MARGIN, below), line, font=render.font(14), fill=_INK)
            below += _LINE
        page.paste(Image.fromarray(picture), (_MARGIN, below + 8))
        y += height
    return np.asarray(page)


def _block_height(block: Block, picture: render.Picture, width: int) -> int:
    lines = render.wrapped(" ".join(block.sentences), width - 2 * _MARGIN, 14)
    return 42 + _LINE * len(lines) + 8 + int(picture.shape[0]) + 16


def page_html(head: Sequence[str], blocks: Sequence[Block], cells: Sequence[Sequence[str]]) -> str:
    """The page: static, and complete with the folder pictures/ beside it.

    Args:
        head: The headline, the sizes, the notes.
        blocks: A text each; its picture is pictures/NUMBER.png.
        cells: Of the table, a row per text.
    """
    sections = "".join(_section(number, block) for number, block in enumerate(blocks, 1))
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in head[2:])
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    colours = {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in zip("AB", COLOURS, strict=True)}
    parts = {"HEADLINE": html.escape(head[0]), "ABOUT": html.escape(head[1]), **colours}
    parts |= {"NOTES": notes, "SECTIONS": sections, "ROWS": rows}
    return re.sub("@([A-Z]+)@", lambda mark: parts[mark[1]], _TEMPLATE.read_text(encoding="utf-8"))


def _section(number: int, block: Block) -> str:
    title, more = html.escape(block.title), html.escape(block.names[block.side])
    names = " and ".join(block.names)
    alt = html.escape(f"Scores of {names}; the clearest pictures of each with their maps; the mean map")
    told = " ".join(html.escape(sentence) for sentence in block.sentences)
    kind = "ab"[block.side]
    return (
        f'<section><h2 class="{kind}">{title}: more in {more}</h2><p>{told}</p>'
        f'<img src="pictures/{number}.png" alt="{alt}" loading="lazy"></section>\n'
    )
