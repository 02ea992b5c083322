"""Answers to HTML for the page, and to the picture and the numbers that can be downloaded."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finercam_clip import render
from finercam_clip.errors import InputError
from finercam_clip.explanation import Explanation
from finercam_clip.opencv import cv2

_COLUMNS = 5  # of the downloaded picture of several traits
_JPEG_QUALITY = 92


def html(answers: tuple[Explanation, ...]) -> str:
    """The answers as HTML.

    One answer is shown as target, contrast and difference side by side, over one bar per text. Several answers are
    shown as a grid, each with its difference and one bar. A bar shows p if the target is compared with something.
    Otherwise it shows the cosine, which in a grid is relative to the highest one.
    """
    return _one(answers[0]) if len(answers) == 1 else _several(answers)


def message(error: InputError, image: str | None = None) -> str:
    """An error as HTML, in the words of the command line.

    Args:
        error: What was refused.
        image: The uploaded file, if there is one. The message names it as the visitor did.
    """
    line = " ".join(str(error).split())
    line = line.replace(image, Path(image).name) if image else line
    return f'<div class="fc-error" role="alert">{escape(line)}</div>'


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


def picture(answers: tuple[Explanation, ...]) -> NDArray[np.uint8]:
    """The answers as one picture, uint8 [h, w, 3]: one answer as a panel, several as a grid of differences."""
    if len(answers) == 1:
        return answers[0].panel()
    tiles = []
    for answer in answers:
        difference = answer.tiles()[-1]
        note = _scores(answer, answer.target)
        tiles.append(render.Tile(difference.image, answer.target, "", difference.marked, note=note))
    return render.sheet(tiles, _COLUMNS, title=f"{answers[0].model} · {answers[0].options.method}")


def numbers(answers: tuple[Explanation, ...]) -> str:
    """The answers as JSON: `Explanation.to_dict`, or a list of them for several answers."""
    return answers[0].to_json() if len(answers) == 1 else json.dumps([answer.to_dict() for answer in answers])


def download(answers: tuple[Explanation, ...], file: str) -> str:
    """The answers as a data URL, which a browser can save.

    Args:
        answers: What is downloaded.
        file: The file's name. A .png holds the picture, any other the numbers.
    """
    if file.endswith(".png"):
        return _data_url("image/png", _compressed(".png", picture(answers)))
    return _data_url("application/json", numbers(answers).encode())


def _one(answer: Explanation) -> str:
    options = answer.options
    captions = (answer.target, ", ".join(answer.contrasts), f"{options.objective}, gamma {options.gamma:g}")
    tiles = answer.tiles()[1:]  # the image itself is on the page already
    figures = "".join(_figure(tile, caption) for tile, caption in zip(tiles, captions, strict=False))
    bars = "".join(_bar(answer, text, _share(answer, text)) for text in answer.similarities)
    return f'<div class="fc-row">{figures}</div><div class="fc-bars">{_caution(answer)}{bars}</div>'


def _several(answers: tuple[Explanation, ...]) -> str:
    shares = [_share(answer, answer.target) for answer in answers]
    highest = 1.0 if answers[0].compared else max(shares)
    cells = []
    for answer, share in zip(answers, shares, strict=True):
        bar = _bar(answer, answer.target, share / highest if highest > 0 else 0.0)
        cells.append(f"<div>{_picture(answer.tiles()[-1], 'trait')}{bar}{_caution(answer)}</div>")
    contrasts = escape(", ".join(f"“{text}”" for text in answers[0].contrasts))
    if contrasts:
        comparison = f"each against {contrasts}, gamma {answers[0].options.gamma:g}"
    else:
        comparison = "each alone, without contrasts"
    return f'<p class="fc-said">{comparison}</p><div class="fc-grid">{"".join(cells)}</div>'


def _figure(tile: render.Tile, caption: str) -> str:
    title = escape(tile.title)
    picture = _picture(tile, tile.title)
    return f"<figure><h4>{title}</h4>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


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
