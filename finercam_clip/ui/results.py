"""Answers to HTML for the page, and to the picture and the numbers that can be downloaded."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finercam_clip import render
from finercam_clip.errors import InputError
from finercam_clip.explanation import Explanation
from finercam_clip.opencv import cv2
from finercam_clip.ui.ask import IncompleteError, Session

_PLACES = ("first image", "second image")  # of a comparison
_COLUMNS = 5  # of the downloaded picture of several traits
_JPEG_QUALITY = 92


def html(session: Session) -> str:
    """The answers as HTML.

    One answer is shown as target, contrast and difference side by side, over one bar per text. Several answers are
    shown as a grid, each with its difference and one bar. Two images are shown side by side, on one scale per target.
    A bar shows p if the target is compared with something. Otherwise it shows the cosine, which in a grid is relative
    to the highest one.
    """
    if session.second:
        return "".join(_pair(*answers) for answers in zip(session.answers, session.second, strict=True))
    return _one(session.answers[0]) if len(session.answers) == 1 else _several(session.answers)


def message(error: InputError, *images: str | None) -> str:
    """An error as HTML, in the words of the command line. What is only missing yet is no error to the eye.

    Args:
        error: What was refused.
        images: The uploaded files. The message names them as the visitor did.
    """
    line = " ".join(str(error).split())
    for image in images:
        line = line.replace(image, Path(image).name) if image else line
    kind = "fc-wait" if isinstance(error, IncompleteError) else "fc-error"
    return f'<div class="{kind}" role="alert">{escape(line)}</div>'


def status(model: str, method: str, seconds: float, *, encoded: bool) -> str:
    """What stands under the results, as HTML.

    Args:
        model: The model's name on the page.
        method: The name of the method.
        seconds: What the answer took.
        encoded: Whether the image had been encoded before.
    """
    cost = "the image was encoded before" if encoded else "encoding the image included"
    return f'<p class="fc-said">{escape(model)}, {method}: {1000 * seconds:,.0f} ms, {cost}</p>'


def picture(session: Session) -> NDArray[np.uint8]:
    """The answers as one picture, uint8 [h, w, 3]: one answer as a panel, several as a grid of differences."""
    answers = session.answers
    if session.second:
        tiles = [tile for pair in zip(answers, session.second, strict=True) for tile in _on_one_scale(*pair)]
        return render.sheet(tiles, 2, side=render.TILE, title=_comparison(answers[0], f"{_tool(answers[0])}: "))
    if len(answers) == 1:
        return answers[0].panel()
    tiles = []
    for answer in answers:
        difference = answer.tiles()[-1]
        note = _scores(answer, answer.target)
        tiles.append(render.Tile(difference.image, answer.target, "", difference.marked, note=note))
    return render.sheet(tiles, _COLUMNS, title=_tool(answers[0]))


def numbers(session: Session) -> str:
    """The answers as JSON: `Explanation.to_dict`, or a list of them. Of two images each says which one it is about."""
    answers = session.answers
    if session.second:
        both = zip(_PLACES, (answers, session.second), strict=True)
        return json.dumps([{"image": place} | answer.to_dict() for place, own in both for answer in own])
    return answers[0].to_json() if len(answers) == 1 else json.dumps([answer.to_dict() for answer in answers])


def download(session: Session, file: str) -> str:
    """The answers as a data URL, which a browser can save.

    Args:
        session: What is downloaded.
        file: The file's name. A .png holds the picture, any other the numbers.
    """
    if file.endswith(".png"):
        return _data_url("image/png", _compressed(".png", picture(session)))
    return _data_url("application/json", numbers(session).encode())


def _one(answer: Explanation) -> str:
    options = answer.options
    captions = (answer.target, ", ".join(answer.contrasts), f"{options.objective}, gamma {options.gamma:g}")
    tiles = answer.tiles()[1:]  # the image itself is on the page already
    figures = "".join(_figure(tile, caption) for tile, caption in zip(tiles, captions, strict=False))
    bars = "".join(_bar(answer, text, _share(answer, text)) for text in answer.similarities)
    return f'<div class="fc-row">{figures}</div><div class="fc-bars">{_chance(answer)}{_caution(answer)}{bars}</div>'


def _several(answers: tuple[Explanation, ...]) -> str:
    shares = [_share(answer, answer.target) for answer in answers]
    highest = 1.0 if answers[0].compared else max(shares)
    cells = []
    for answer, share in zip(answers, shares, strict=True):
        bar = _bar(answer, answer.target, share / highest if highest > 0 else 0.0)
        cells.append(f"<div>{_picture(answer.tiles()[-1], 'trait')}{bar}{_chance(answer)}{_caution(answer)}</div>")
    comparison = escape(f"each {_comparison(answers[0])}")
    return f'<p class="fc-said">{comparison}</p><div class="fc-grid">{"".join(cells)}</div>'


def _pair(first: Explanation, second: Explanation) -> str:
    """The same question about two images."""
    figures = []
    for tile, answer in zip(_on_one_scale(first, second), (first, second), strict=True):
        below = _bar(answer, answer.target, _share(answer, answer.target)) + _chance(answer) + _caution(answer)
        figures.append(_figure(replace(tile, title=tile.caption), tile.note.splitlines()[-1], below))
    said = escape(f"“{first.target}”: {_comparison(first)}, both maps on one scale")
    return f'<p class="fc-said">{said}</p><div class="fc-row fc-two">{"".join(figures)}</div>'


def _on_one_scale(*answers: Explanation) -> list[render.Tile]:
    """The differences of several images, scaled by the largest absolute value of all their maps."""
    scale = max(float(np.abs(answer.grid).max()) for answer in answers)
    tiles = []
    for place, answer in zip(_PLACES, answers, strict=True):
        image, geometry = answer.image, answer.geometry
        if max(image.shape[:2]) > render.TILE:
            image = render.shrunk(image)
            geometry = replace(geometry, image=(image.shape[0], image.shape[1]))
        heat = geometry.to_image(render.positive(answer.grid, scale))
        shown = replace(answer, image=image, geometry=geometry)
        share = max(float(answer.grid.max()), 0.0) / scale if scale > 0 else 0.0
        note = f"{_scores(answer, answer.target)}\nhottest: {100 * share:.0f} % of the scale"
        overlay = render.outlined(render.overlay(image, heat, seen=geometry.seen), shown.region)
        tiles.append(render.Tile(overlay, answer.target, place, shown.peak, note=note))
    return tiles


def _comparison(answer: Explanation, name: str = "") -> str:
    """What an answer's target is compared with, after a name."""
    if not answer.contrasts:
        return f"{name}alone, without contrasts"
    contrasts = ", ".join(f"“{text}”" for text in answer.contrasts)
    return f"{name}against {contrasts}, gamma {answer.options.gamma:g}"


def _tool(answer: Explanation) -> str:
    return f"{answer.model} · {answer.options.method}"


def _figure(tile: render.Tile, caption: str, below: str = "") -> str:
    title = escape(tile.title)
    picture = _picture(tile, tile.title)
    return f"<figure><h4>{title}</h4>{picture}<figcaption>{escape(caption)}</figcaption>{below}</figure>"


def _picture(tile: render.Tile, name: str) -> str:
    height, width = tile.image.shape[:2]
    mark = ""
    if tile.marked is not None:
        x, y = 100 * (tile.marked[0] + 0.5) / width, 100 * (tile.marked[1] + 0.5) / height
        mark = f'<i class="fc-peak" style="left:{x:.2f}%;top:{y:.2f}%" title="hottest pixel"></i>'
    url = _data_url("image/jpeg", _compressed(".jpg", tile.image))
    return f'<div class="fc-picture"><img alt="{name}" data-shows="{name}" src="{url}">{mark}</div>'


def _bar(answer: Explanation, text: str, length: float) -> str:
    return (
        f'<div class="fc-bar{"" if text == answer.target else " fc-contrast"}"><span>{escape(text)}</span>'
        f'<span class="fc-score">{_scores(answer, text)}</span>'
        f'<div class="fc-track"><div style="width:{100 * min(length, 1.0):.1f}%"></div></div></div>'
    )


def _chance(answer: Explanation) -> str:
    if answer.significance is None:
        return ""
    return f'<div class="fc-chance">{escape(answer.significance.summary)}</div>'


def _caution(answer: Explanation) -> str:
    return f'<div class="fc-caution">{escape(answer.caution)}</div>' if answer.caution else ""


def _share(answer: Explanation, text: str) -> float:
    """The length of a text's bar, 0..1."""
    return answer.probabilities[text] if answer.compared else max(answer.similarities[text], 0.0)


def _scores(answer: Explanation, text: str) -> str:
    score = f"{answer.score} {answer.similarities[text]:.3f}"
    return f"{score}, p {answer.probabilities[text]:.2f}" if answer.compared else score


def _compressed(ending: str, image: NDArray[np.uint8]) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if ending == ".jpg" else []
    data: bytes = cv2.imencode(ending, np.ascontiguousarray(image[..., ::-1]), quality)[1].tobytes()
    return data


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
