"""What stands on the page: a column that asks, and one that answers. Gradio is passed in, as in the whole room."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finercam_clip.aviary import demo
from finercam_clip.methods import METHODS
from finercam_clip.models.catalogue import BUNDLED
from finercam_clip.options import Options
from finercam_clip.presets import PRESETS
from finercam_clip.ui.ask import NULLS, examples
from finercam_clip.ui.models import model_names

HEAD = """<h1>finercam_clip</h1>
<p>Which pixels speak for the target and not for its contrasts? They are bright in the difference. The ring marks the
hottest one.</p>"""
_MODELS = """The models <b>birds</b> and <b>aviary</b> are bundled: they know parts of birds, the one in photographs,
the other in drawings. <b>photos</b> knows 1,000 classes of photographs by their names: leave the target empty to see
what it predicts. All others are CLIP models of open_clip, which take any text. They are downloaded when they are first
chosen."""
_BEFORE = """<div class="fc-wait">Drop an image, say what to look for, and ask.<br>
With <b>photos</b> the target may stay empty.</div>"""
_STRIP_SCRIPT = Path(__file__).parent / "strip.js"


@dataclass(frozen=True)
class QuestionColumn:
    """The components of the left column, which ask.

    Attributes:
        image: The image.
        several: The button that brings several images.
        folder: The button that brings a folder of images.
        targets: What to look for.
        contrasts: What it is told apart from.
        submit: The button that asks.
        comparison: The fold-out part that holds `second`.
        second: The second image.
        gamma: The comparison strength.
        model: The list of models.
        method: The list of methods.
        null: The list of texts that maps are compared with.
    """

    image: Any
    several: Any
    folder: Any
    targets: Any
    contrasts: Any
    submit: Any
    comparison: Any
    second: Any
    gamma: Any
    model: Any
    method: Any
    null: Any


@dataclass(frozen=True)
class AnswerColumn:
    """The components of the right column, which show the answer.

    Attributes:
        examples: The examples that can be clicked.
        strip: The HTML of the visitor's images, hidden while there is one at most.
        results: The HTML of the answers.
        downloads: The row of buttons, hidden while there is no answer.
        buttons: File name -> the button that saves it.
    """

    examples: Any
    strip: Any
    results: Any
    downloads: Any
    buttons: dict[str, Any]


def question_column(gradio: Any, model: str, *, with_example: bool) -> QuestionColumn:
    """The left column.

    Args:
        gradio: The imported module.
        model: The name of the model that is chosen at first.
        with_example: Whether the first example is filled in.
    """
    targets, contrasts = next(iter(examples().values())) if with_example else ("", "")
    picture = partial(gradio.Image, sources=["upload", "clipboard"], type="filepath", buttons=[])
    image = picture(str(demo.IMAGE) if with_example else None, label="Image", height=220, elem_id="image")
    with gradio.Row():
        button = partial(gradio.UploadButton, size="sm", min_width=120)
        several = button("Several images", file_count="multiple", file_types=["image"], elem_id="several")
        folder = button("A folder", file_count="directory", elem_id="folder")
    box = partial(gradio.Textbox, lines=1, max_lines=12)  # of one line, so that Enter asks
    target_box = box(targets, label="Target", info="Enter asks. Shift+Enter begins another target.", elem_id="targets")
    contrast_box = box(
        contrasts, label="Contrasts", info="What to tell it apart from, one per line.", elem_id="contrasts"
    )
    submit = gradio.Button("Ask", variant="primary", elem_id="ask")
    with gradio.Accordion("Compare with a second image", open=False, elem_id="comparison") as comparison:
        second = picture(label="Second image", height=180, elem_id="second")
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
    null_list = gradio.Dropdown(
        list(NULLS),
        value=NULLS[0],
        label="More than chance?",
        info="Compare the map with those of other texts. A line surrounds what stands out.",
        elem_id="null",
    )
    gradio.HTML(_MODELS, elem_classes="fc-note")
    return QuestionColumn(
        image=image,
        several=several,
        folder=folder,
        targets=target_box,
        contrasts=contrast_box,
        submit=submit,
        comparison=comparison,
        second=second,
        gamma=gamma,
        model=model_list,
        method=method_list,
        null=null_list,
    )


def answer_column(gradio: Any, question: QuestionColumn) -> AnswerColumn:
    """The right column. A click on an example fills in `question`."""
    questions = examples()
    clicked = gradio.Examples(
        [[str(demo.IMAGE), *texts, BUNDLED] for texts in questions.values()],
        [question.image, question.targets, question.contrasts, question.model],
        example_labels=list(questions),
        label="Examples on the bundled image, a drawn bird",
        api_visibility="private",
    )
    strip = gradio.HTML(visible=False, elem_id="strip", js_on_load=_STRIP_SCRIPT.read_text(encoding="utf-8"))
    shown = gradio.HTML(_BEFORE, elem_id="results")
    with gradio.Row(visible=False) as downloads:
        button = partial(gradio.Button, size="sm", scale=0, min_width=220)
        buttons = {
            "finercam.png": button("Download picture (PNG)", elem_id="png"),
            "finercam.json": button("Download numbers (JSON)", elem_id="json"),
        }
    return AnswerColumn(examples=clicked, strip=strip, results=shown, downloads=downloads, buttons=buttons)
