"""A page to play with, in the browser: `finercam-clip ui` (needs the extra `ui`, Gradio).

A question goes in, pictures, scores or one line of error come out: `ask` and `results` know nothing of the page, and
`build` is its layout. The image is encoded once and kept with the session of its page; each further question is a
matrix product. Pictures travel inside the page, so that only what is uploaded ever lies on disk.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip import render
from finercam_clip.aviary import demo, world
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.explanation import Explanation
from finercam_clip.methods import METHODS
from finercam_clip.models import load, load_classifier
from finercam_clip.models.catalogue import BUNDLED, list_models
from finercam_clip.models.classifier import PHOTOS
from finercam_clip.opencv import cv2
from finercam_clip.options import PRESETS, Options, Precision
from finercam_clip.question import resolve_options

MOST_TRAITS = 100  # of one question: more would not be looked at
MAX_UPLOAD = "50mb"
_KEPT = 3600  # seconds that an upload stays on disk, and a session's encoding in memory
_COLUMNS = 5  # of the downloaded picture of several traits


@dataclass(frozen=True, eq=False)
class Session:
    """What is kept for a page: its image's encoding, what that was made from, and the last answers.

    source: (model, image file, pooling); answers: one a target.
    """

    source: tuple[str, str, str]
    encoding: ImageEncoding
    answers: tuple[Explanation, ...]


# ------------------------------------------------------------------------------------------------- question to answer


def ask(
    session: Session | None,
    image: str | None,
    targets: str,
    contrasts: str,
    *,
    model: str = BUNDLED,
    method: str = Options.method,
    gamma: float = Options.gamma,
    named: Callable[[str], Explainer] | None = None,
) -> Session:
    """Answers a question; only another image, model or pooling costs a forward pass.

    session: of the last question, or None; image: a file; targets, contrasts: a text a line, every target is asked
    against all contrasts; model, method, gamma: as chosen on the page; named: gives the `Explainer` of a model's name,
    `model_named` by default.

    Raises:
        InputError: something of these cannot be used; the message says what can.
    """
    wanted, others = _lines(targets), _lines(contrasts)
    if not image:
        raise InputError("there is no image yet: drop one, or click an example")
    if not wanted:
        raise InputError("there is no target: describe what to look for, as in 'a bird with a red crown'")
    if len(wanted) > MOST_TRAITS:
        raise InputError(f"{len(wanted)} targets are more than a page can show: give {MOST_TRAITS} at most")
    options = resolve_options({"method": method, "gamma": gamma})
    source = (model, image, options.pooling)
    if session is None or session.source != source:
        encoding = (named or model_named)(model).encode(image, pooling=options.pooling)
    else:
        encoding = session.encoding
    answers = tuple(encoding.explain(target, others, method=method, gamma=gamma) for target in wanted)
    return Session(source, encoding, answers)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def model_named(name: str, *, device: str | None = None, precision: Precision = "fp32") -> Explainer:
    """The model of a name on the page: the bundled one, 'photos', or an open_clip architecture and its weights.

    Raises:
        InputError: there is none of that name, or it cannot be loaded.
    """
    words = name.split(maxsplit=1)
    if not words:
        raise InputError("there is no model named: choose one, or type an architecture and its weights")
    if words[0] == PHOTOS:
        return load_classifier(PHOTOS, device=device, precision=precision)
    return load(words[0], words[1] if len(words) > 1 else None, device=device, precision=precision)


def model_names() -> list[str]:
    """What `model_named` takes: the models without a download, then open_clip's, each with its weights."""
    published = [f"{row.name} {tag}" for row in list_models() if row.name != BUNDLED for tag in row.weights]
    return [BUNDLED, PHOTOS, *published]


# ------------------------------------------------------------------------------------------------- answer to pictures


def results(answers: tuple[Explanation, ...]) -> str:
    """The answers as HTML: one as target, contrast and difference side by side with bars of scores, several as a grid.

    Bars are of p where something is compared, else of the cosine, beside the highest that is shown.
    """
    if len(answers) == 1:
        (answer,) = answers
        compared = f"{answer.options.objective}, gamma {answer.options.gamma:g}"
        captions = (answer.target, ", ".join(answer.contrasts), compared)
        tiles = answer.tiles()[1:]  # the image itself is on the page already
        figures = "".join(_figure(tile, caption) for tile, caption in zip(tiles, captions, strict=False))
        bars = "".join(_bar(answer, text, _share(answer, text)) for text in answer.similarities)
        return f'<div class="fc-row">{figures}</div><div class="fc-bars">{_caution(answer)}{bars}</div>'
    shares = [_share(answer, answer.target) for answer in answers]
    most = 1.0 if _compared(answers[0]) else max(shares)
    cells = []
    for answer, share in zip(answers, shares, strict=True):
        bar = _bar(answer, answer.target, share / most if most > 0 else 0.0)
        cells.append(f"<div>{_picture(answer.tiles()[-1], 'trait')}{bar}{_caution(answer)}</div>")
    against = escape(", ".join(f"“{text}”" for text in answers[0].contrasts))
    said = f"each against {against}, gamma {answers[0].options.gamma:g}" if against else "each alone, without contrasts"
    return f'<p class="fc-said">{said}</p><div class="fc-grid">{"".join(cells)}</div>'


def message(error: InputError, image: str | None = None) -> str:
    """An error as HTML, in the words of the command line; the image goes by the name that it was uploaded with."""
    line = " ".join(str(error).split())
    line = line.replace(image, Path(image).name) if image else line
    return f'<div class="fc-error" role="alert">{escape(line)}</div>'


def picture(answers: tuple[Explanation, ...]) -> NDArray[np.uint8]:
    """The answers as one picture, uint8 [h, w, 3]: a panel, or of several answers a grid of differences."""
    if len(answers) == 1:
        return answers[0].panel()
    tiles = []
    for answer in answers:
        last = answer.tiles()[-1]
        tiles.append(render.Tile(last.image, answer.target, _score(answer, answer.target), last.marked))
    return render.sheet(tiles, _COLUMNS, title=f"{answers[0].model} · {answers[0].options.method}")


def numbers(answers: tuple[Explanation, ...]) -> str:
    """The answers as JSON: `Explanation.to_dict`, or of several a list of them."""
    return answers[0].to_json() if len(answers) == 1 else json.dumps([answer.to_dict() for answer in answers])


def _figure(tile: render.Tile, caption: str) -> str:
    shown = _picture(tile, tile.title)
    return f"<figure><h4>{escape(tile.title)}</h4>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def _caution(answer: Explanation) -> str:
    return f'<div class="fc-caution">{escape(answer.caution)}</div>' if answer.caution else ""


def _picture(tile: render.Tile, name: str) -> str:
    height, width = tile.image.shape[:2]
    mark = ""
    if tile.marked is not None:
        x, y = 100 * (tile.marked[0] + 0.5) / width, 100 * (tile.marked[1] + 0.5) / height
        mark = f'<i class="fc-peak" style="left:{x:.2f}%;top:{y:.2f}%" title="hottest pixel"></i>'
    data = _data("image/jpeg", _encoded(".jpg", tile.image))
    return f'<div class="fc-picture"><img alt="{name}" data-shows="{name}" src="{data}">{mark}</div>'


def _compared(answer: Explanation) -> bool:
    """Whether p says anything: of a target alone it is 1."""
    return bool(answer.contrasts) or answer.score == "logit"


def _share(answer: Explanation, text: str) -> float:
    """What a bar shows, 0..1."""
    return answer.probabilities[text] if _compared(answer) else max(answer.similarities[text], 0.0)


def _score(answer: Explanation, text: str) -> str:
    score = f"{answer.score} {answer.similarities[text]:.3f}"
    return f"{score}, p {answer.probabilities[text]:.2f}" if _compared(answer) else score


def _bar(answer: Explanation, text: str, length: float) -> str:
    return (
        f'<div class="fc-bar{"" if text == answer.target else " fc-contrast"}"><span>{escape(text)}</span>'
        f'<span class="fc-score">{_score(answer, text)}</span>'
        f'<div class="fc-track"><div style="width:{100 * min(length, 1.0):.1f}%"></div></div></div>'
    )


def _encoded(kind: str, image: NDArray[np.uint8]) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if kind == ".jpg" else []
    data: bytes = cv2.imencode(kind, np.ascontiguousarray(image[..., ::-1]), quality)[1].tobytes()
    return data


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def examples() -> dict[str, tuple[str, str]]:
    """Questions about the bundled image, label -> (targets, contrasts), true of whatever bird it shows."""
    bird = demo.BIRD

    def trait(slot: str, value: str | None = None) -> str:
        return world.describe(((slot, value or bird[slot]),))

    def other(slot: str) -> str:
        return next(value for value in ("blue", "red") if value != bird[slot])

    parts = ("crown", "tail", "wing")
    asked = {f"{bird[part]} {part}, not {other(part)}": (trait(part), trait(part, other(part))) for part in parts}
    asked[f"{len(world.PARTS)} traits at once"] = ("\n".join(trait(part) for part in world.PARTS), "")
    absent = "crown"
    asked[f"absent: {other(absent)} {absent}"] = (trait(absent, other(absent)), trait(absent))
    return asked


# ------------------------------------------------------------------------------------------------------------ the page

_HEAD = """<h1>finercam_clip</h1>
<p>Where does the image say one concept and not the others? What is bright in the difference speaks for the target and
not for the contrasts; the ring marks its hottest pixel.</p>"""
_KNOWS = """The model <b>aviary</b> is bundled and knows drawn birds only; <b>photos</b> knows 1,000 classes of
photographs, by their names. Every other is a CLIP of open_clip, downloaded when first chosen."""
_CSS = """
.fc-head h1 { font-size: 1.5rem; font-weight: 650; margin: 0 }
.fc-head p, .fc-said { color: var(--body-text-color); opacity: .7; margin: .2rem 0 0 }
.fc-note { color: var(--body-text-color); opacity: .7; font-size: .8rem }
.fc-row { display: grid; grid-template-columns: repeat(3, minmax(0, 26rem)); gap: 1rem; margin-top: .6rem }
@media (max-width: 56rem) { .fc-row { grid-template-columns: 1fr } }
.fc-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 1.1rem 1rem;
  margin-top: .6rem }
.fc-row figure { margin: 0; min-width: 0 }
.fc-row h4 { margin: 0 0 .35rem; font-size: .95rem; font-weight: 600 }
.fc-picture { position: relative; line-height: 0 }
.fc-picture img { width: 100%; border-radius: 6px; display: block; margin: 0 }
.fc-peak { position: absolute; width: 18px; height: 18px; margin: -9px 0 0 -9px; border-radius: 50%;
  border: 2px solid #fff; box-shadow: 0 0 0 1.5px #18181b, inset 0 0 0 1.5px #18181b }
.fc-row figcaption { margin-top: .4rem; font-size: .85rem; line-height: 1.35 }
.fc-bars { max-width: 44rem; margin: 1.2rem 0 }
.fc-bar { display: grid; grid-template-columns: 1fr auto; gap: .15rem .8rem; font-size: .85rem; margin-top: .5rem }
.fc-grid .fc-bar { grid-template-columns: 1fr; gap: 0 }
.fc-score { color: var(--body-text-color); opacity: .7; font-variant-numeric: tabular-nums }
.fc-track { grid-column: 1 / -1; height: 8px; border-radius: 4px; margin: .15rem 0;
  background: var(--border-color-primary) }
.fc-track div { height: 100%; border-radius: 4px; background: #e4572e }
.fc-contrast .fc-track div { background: #8b93a5 }
.fc-caution { color: #c62828; font-size: .8rem } .dark .fc-caution { color: #ff8a80 }
.fc-error { border-left: 4px solid #c62828; padding: .6rem .9rem; border-radius: 4px; overflow-wrap: anywhere;
  background: var(--background-fill-secondary) }
.fc-wait { color: var(--body-text-color); opacity: .7; padding: 3rem 0; text-align: center }
footer { display: none !important }
"""
_SAVE = "(link, name) => { const a = document.createElement('a'); a.href = link; a.download = name; a.click(); }"


def build(explainer: Explainer, gradio: Any) -> Any:
    """The page as a `gradio.Blocks`. explainer: the model that is chosen at first; gradio: the imported module."""
    gr = gradio
    loaded = explainer.loaded
    own = loaded.name if loaded.name in (BUNDLED, PHOTOS) else f"{loaded.name} {loaded.pretrained}"

    @lru_cache(maxsize=2)  # the one in use and the last one
    def another(name: str) -> Explainer:
        return model_named(name, device=str(loaded.device))

    def named(name: str) -> Explainer:
        return explainer if name == own else another(name)

    def answer(
        session: Session | None,
        uploaded: dict[str, Any] | None,
        targets: str,
        contrasts: str,
        model: str | None,
        method: str,
        gamma: float,
    ) -> tuple[Session | None, str, Any]:
        image, model = uploaded["path"] if uploaded else None, model or ""
        start = time.perf_counter()
        try:
            found = ask(session, image, targets, contrasts, model=model, method=method, gamma=gamma, named=named)
        except InputError as error:
            return session, message(error, image), gr.update(visible=False)
        shown = results(found.answers)
        spent = f"{1000 * (time.perf_counter() - start):,.0f} ms"
        again = session is not None and session.encoding is found.encoding
        once = "the image was encoded before" if again else "encoding the image included"
        said = f'<p class="fc-said">{escape(model)}, {method}: {spent}, {once}</p>'
        return found, shown + said, gr.update(visible=True)

    with gr.Blocks(
        title="finercam_clip", analytics_enabled=False, delete_cache=(_KEPT // 6, _KEPT), fill_width=True
    ) as page:
        session = gr.State(None, time_to_live=_KEPT)
        gr.HTML(_HEAD, elem_classes="fc-head")
        asked, bundled = examples(), own == BUNDLED
        first = next(iter(asked.values())) if bundled else ("", "")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                image = gr.Image(
                    str(demo.IMAGE) if bundled else None,
                    label="Image",
                    sources=["upload", "clipboard"],
                    type="filepath",
                    height=220,
                    buttons=[],
                    elem_id="image",
                )
                targets = gr.Textbox(
                    first[0],
                    lines=2,
                    max_lines=12,
                    label="Target",
                    info="several: one a line",
                    elem_id="targets",
                )
                contrasts = gr.Textbox(
                    first[1],
                    lines=2,
                    max_lines=12,
                    label="Contrasts",
                    info="what it is told apart from, one a line",
                    elem_id="contrasts",
                )
                submit = gr.Button("Ask", variant="primary", elem_id="ask")
                gamma = gr.Slider(
                    0,
                    1,
                    Options.gamma,
                    step=0.05,
                    label="Gamma, comparison strength",
                    buttons=[],
                    elem_id="gamma",
                )
                with gr.Row():
                    model = gr.Dropdown(
                        list(dict.fromkeys([own, *model_names()])),
                        value=own,
                        allow_custom_value=True,
                        label="Model",
                        min_width=120,
                        elem_id="model",
                    )
                    method = gr.Dropdown(
                        [*METHODS, *PRESETS], value=Options.method, label="Method", min_width=120, elem_id="method"
                    )
                gr.HTML(_KNOWS, elem_classes="fc-note")
            with gr.Column(scale=3, min_width=480):
                clicked = gr.Examples(
                    [[str(demo.IMAGE), *question, BUNDLED] for question in asked.values()],
                    [image, targets, contrasts, model],
                    example_labels=list(asked),
                    label="Examples on the bundled image",
                    api_visibility="private",
                )
                waiting = '<div class="fc-wait">Drop an image, say what to look for, and ask.</div>'
                answered = gr.HTML(waiting, elem_id="results")
                with gr.Row(visible=False) as downloads:
                    saves = {
                        "finercam.png": gr.Button(
                            "Download picture (PNG)", size="sm", scale=0, min_width=220, elem_id="png"
                        ),
                        "finercam.json": gr.Button(
                            "Download numbers (JSON)", size="sm", scale=0, min_width=220, elem_id="json"
                        ),
                    }
        inputs = [session, image, targets, contrasts, model, method, gamma]
        settings: dict[str, Any] = {
            "inputs": inputs,
            "outputs": [session, answered, downloads],
            # Gradio would decode the image itself, and stumble over what `read_image` has a line for. That the file is
            # an upload it checks all the same.
            "preprocess": False,
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": answered,
        }
        gr.on(
            [submit.click, targets.submit, contrasts.submit, image.upload, model.input, method.input, gamma.release],
            answer,
            trigger_mode="always_last",
            **settings,
        )
        clicked.load_input_event.then(answer, **settings)
        if bundled:
            page.load(answer, **settings)
        link, name = gr.Textbox(visible=False), gr.Textbox(visible=False)
        for file, button in saves.items():
            made = button.click(
                lambda found, file=file: (_download(found, file), file),
                session,
                [link, name],
                api_visibility="private",
                show_progress="hidden",
            )
            made.then(None, [link, name], js=_SAVE)
    return page


def _download(session: Session, file: str) -> str:
    if file.endswith(".png"):
        return _data("image/png", _encoded(".png", picture(session.answers)))
    return _data("application/json", numbers(session.answers).encode())


def check_installed() -> None:
    """Raises InputError where the extra is missing."""
    if find_spec("gradio") is None:
        raise InputError("the page is an extra: pip install 'finercam_clip[ui]'")


def launch(
    explainer: Explainer, host: str = "127.0.0.1", port: int | None = None, uploads: str | None = None
) -> tuple[Any, str]:
    """Starts the page in the background: its `gradio.Blocks`, to be closed, and its address.

    port: the first free one from 7860 if None; uploads: the folder for them, Gradio's own if None.

    Nothing is shared, nothing is reported to anyone, and nothing is fetched from elsewhere.

    Raises:
        InputError: Gradio is missing, there is no such host, or the port is taken.
    """
    check_installed()
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"--port is a number from 1 to 65535, not {port}")
    try:
        socket.getaddrinfo(host, port)  # Gradio would ask for an unknown one again and again
    except OSError as error:
        raise InputError(f"there is no host '{host}': leave --host out, or give an address of this machine") from error
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if uploads is not None:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # Gradio has no argument for it
    import gradio

    page = build(explainer, gradio)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            state_session_capacity=32,
            theme=gradio.themes.Default(
                primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=_CSS,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
        )
    except OSError as error:
        where = "none of the ports from 7860 to 7959" if port is None else f"port {port}"
        raise InputError(f"the page cannot have {where} on {host}: name another with --port or --host") from error
    return page, str(address)


def serve(explainer: Explainer, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serves the page until it is interrupted. What was uploaded is gone after an hour, and at the end.

    Raises:
        InputError: as `launch`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a plain `kill` should clean up as Ctrl+C does
    with tempfile.TemporaryDirectory(prefix="finercam-ui-") as uploads:
        page, address = launch(explainer, host, port, uploads)
        print(f"page      {address} (Ctrl+C stops it)", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
