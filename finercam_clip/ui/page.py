"""The page: its layout, and what each click does. Gradio is passed in, so that it is imported only where it is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from finercam_clip.aviary import demo
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.methods import METHODS
from finercam_clip.models.catalogue import BUNDLED
from finercam_clip.options import Options
from finercam_clip.presets import PRESETS
from finercam_clip.ui import results
from finercam_clip.ui.ask import Session, ask, examples, keeping_models, model_names, name_of

KEPT = 3600  # seconds that an upload stays on the disk, and an encoding in memory

_HEAD = """<h1>finercam_clip</h1>
<p>Where does the image say one concept and not the others? What is bright in the difference speaks for the target and
not for the contrasts; the ring marks its hottest pixel.</p>"""
_MODELS = """The model <b>aviary</b> is bundled and knows drawn birds only; <b>photos</b> knows 1,000 classes of
photographs, by their names. Every other is a CLIP of open_clip, downloaded when first chosen."""
_BEFORE = '<div class="fc-wait">Drop an image, say what to look for, and ask.</div>'
_SAVE = "(link, name) => { const a = document.createElement('a'); a.href = link; a.download = name; a.click(); }"


@dataclass(frozen=True)
class _Question:
    """The components of the left column, which ask."""

    image: Any
    targets: Any
    contrasts: Any
    submit: Any
    gamma: Any
    model: Any
    method: Any


@dataclass(frozen=True)
class _Answer:
    """The components of the right column, which show the answer.

    Attributes:
        examples: The examples that can be clicked.
        results: The HTML of the answers.
        downloads: The row of buttons, hidden while there is no answer.
        buttons: File name -> the button that saves it.
    """

    examples: Any
    results: Any
    downloads: Any
    buttons: dict[str, Any]


def build(explainer: Explainer, gradio: Any) -> Any:
    """The page as a `gradio.Blocks`.

    Args:
        explainer: The model that the page begins with. If it is the bundled one, the page opens with an answer.
        gradio: The imported module.
    """
    model, bundled = name_of(explainer), name_of(explainer) == BUNDLED
    with gradio.Blocks(
        title="finercam_clip", analytics_enabled=False, delete_cache=(KEPT // 6, KEPT), fill_width=True
    ) as page:
        session = gradio.State(None, time_to_live=KEPT)
        gradio.HTML(_HEAD, elem_classes="fc-head")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                question = _question_column(gradio, model, with_example=bundled)
            with gradio.Column(scale=3, min_width=480):
                answer = _answer_column(gradio, question)
        answering = _connect_question(gradio, session, question, answer, keeping_models(explainer))
        if bundled:
            page.load(**answering)
        _connect_downloads(gradio, session, answer)
    return page


def _question_column(gradio: Any, model: str, *, with_example: bool) -> _Question:
    """The left column.

    Args:
        gradio: The imported module.
        model: The name of the model that is chosen at first.
        with_example: Whether the first example is filled in.
    """
    targets, contrasts = next(iter(examples().values())) if with_example else ("", "")
    image = gradio.Image(
        str(demo.IMAGE) if with_example else None,
        label="Image",
        sources=["upload", "clipboard"],
        type="filepath",
        height=220,
        buttons=[],
        elem_id="image",
    )
    target_box = gradio.Textbox(
        targets, lines=2, max_lines=12, label="Target", info="several: one a line", elem_id="targets"
    )
    contrast_box = gradio.Textbox(
        contrasts,
        lines=2,
        max_lines=12,
        label="Contrasts",
        info="what it is told apart from, one a line",
        elem_id="contrasts",
    )
    submit = gradio.Button("Ask", variant="primary", elem_id="ask")
    gamma = gradio.Slider(
        0, 1, Options.gamma, step=0.05, label="Gamma, comparison strength", buttons=[], elem_id="gamma"
    )
    with gradio.Row():
        model_list = gradio.Dropdown(
            list(dict.fromkeys([model, *model_names()])),
            value=model,
            allow_custom_value=True,
            label="Model",
            min_width=120,
            elem_id="model",
        )
        method_list = gradio.Dropdown(
            [*METHODS, *PRESETS], value=Options.method, label="Method", min_width=120, elem_id="method"
        )
    gradio.HTML(_MODELS, elem_classes="fc-note")
    return _Question(
        image=image,
        targets=target_box,
        contrasts=contrast_box,
        submit=submit,
        gamma=gamma,
        model=model_list,
        method=method_list,
    )


def _answer_column(gradio: Any, question: _Question) -> _Answer:
    """The right column. A click on an example fills in `question`."""
    questions = examples()
    clicked = gradio.Examples(
        [[str(demo.IMAGE), *texts, BUNDLED] for texts in questions.values()],
        [question.image, question.targets, question.contrasts, question.model],
        example_labels=list(questions),
        label="Examples on the bundled image",
        api_visibility="private",
    )
    shown = gradio.HTML(_BEFORE, elem_id="results")
    with gradio.Row(visible=False) as downloads:
        button = partial(gradio.Button, size="sm", scale=0, min_width=220)
        buttons = {
            "finercam.png": button("Download picture (PNG)", elem_id="png"),
            "finercam.json": button("Download numbers (JSON)", elem_id="json"),
        }
    return _Answer(examples=clicked, results=shown, downloads=downloads, buttons=buttons)


def _connect_question(
    gradio: Any, session: Any, question: _Question, answer: _Answer, named: Callable[[str], Explainer]
) -> dict[str, Any]:
    """Answers whenever something is asked or changed.

    Returns:
        What any further event needs to be answered, too.
    """
    answering: dict[str, Any] = {
        "fn": partial(_answered, gradio, named),
        "inputs": [
            session,
            question.image,
            question.targets,
            question.contrasts,
            question.model,
            question.method,
            question.gamma,
        ],
        "outputs": [session, answer.results, answer.downloads],
        # Gradio would decode the image itself, and fail where `read_image` has a line for the visitor. It checks all
        # the same that the file is an upload.
        "preprocess": False,
        "api_name": "answer",
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": answer.results,
    }
    events = [
        question.submit.click,
        question.targets.submit,
        question.contrasts.submit,
        question.image.upload,
        question.model.input,
        question.method.input,
        question.gamma.release,
    ]
    gradio.on(events, trigger_mode="always_last", **answering)
    answer.examples.load_input_event.then(**answering)
    return answering


def _connect_downloads(gradio: Any, session: Any, answer: _Answer) -> None:
    """Lets the browser save a file when its button is clicked."""
    link, name = gradio.Textbox(visible=False), gradio.Textbox(visible=False)
    for file, button in answer.buttons.items():
        made = button.click(
            partial(_file_of, file),
            session,
            [link, name],
            api_name="download",
            api_visibility="private",
            show_progress="hidden",
        )
        made.then(None, [link, name], js=_SAVE)


def _answered(
    gradio: Any,
    named: Callable[[str], Explainer],
    session: Session | None,
    upload: dict[str, Any] | None,
    targets: str,
    contrasts: str,
    model: str | None,
    method: str,
    gamma: float,
) -> tuple[Session | None, str, Any]:
    """Answers what stands in the left column: the session from now on, the HTML to show, and the row of buttons."""
    image, model = upload["path"] if upload else None, model or ""
    start = time.perf_counter()
    try:
        new = ask(session, image, targets, contrasts, model=model, method=method, gamma=gamma, named=named)
    except InputError as error:
        return session, results.message(error, image), gradio.update(visible=False)
    shown = results.html(new.answers)
    encoded = session is not None and session.encoding is new.encoding
    status = results.status(model, method, time.perf_counter() - start, encoded=encoded)
    return new, shown + status, gradio.update(visible=True)


def _file_of(file: str, session: Session) -> tuple[str, str]:
    """A file of the last answers: its content as a data URL, and its name."""
    return results.download(session.answers, file), file
