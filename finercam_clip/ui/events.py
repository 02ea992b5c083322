"""What each click on the page does."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.ui import results, strip
from finercam_clip.ui.ask import Session, ask
from finercam_clip.ui.layout import AnswerColumn, QuestionColumn
from finercam_clip.ui.strip import Strip

_SAVE = "(link, name) => { const a = document.createElement('a'); a.href = link; a.download = name; a.click(); }"
# On a phone the answer is below the question.
_TO_ANSWER = "() => { if (innerWidth < 900) document.getElementById('results').scrollIntoView({behavior: 'smooth'}); }"


def connect_question(
    gradio: Any, session: Any, question: QuestionColumn, answer: AnswerColumn, named: Callable[[str], Explainer]
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
            question.second,
            question.targets,
            question.contrasts,
            question.model,
            question.method,
            question.gamma,
            question.null,
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
    submitted = [question.submit.click, question.targets.submit, question.contrasts.submit]
    changed = [
        question.image.upload,
        question.second.upload,
        question.model.input,
        question.method.input,
        question.gamma.release,
        question.null.input,
    ]
    gradio.on([*submitted, *changed], trigger_mode="always_last", **answering)
    gradio.on(submitted, fn=None, js=_TO_ANSWER)
    answer.examples.load_input_event.then(**answering)
    question.second.clear(None, js="() => {}").then(**answering)  # at the event itself the image is still there
    return answering


def connect_strip(gradio: Any, question: QuestionColumn, answer: AnswerColumn, answering: dict[str, Any]) -> None:
    """Keeps a strip of all uploads, and asks about the one that is clicked.

    Args:
        gradio: The imported module.
        question: The left column.
        answer: The right column, which has the strip.
        answering: What `connect_question` returned.
    """
    images = gradio.State(Strip())
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def chosen(images: Strip, event: Any) -> tuple[Any, Any, Any]:
        index = event.index if isinstance(event.index, int) else -1
        if not 0 <= index < len(images.files):
            return gradio.skip(), gradio.skip(), gradio.skip()
        file = images.files[index]
        if event.value == "compare":
            return gradio.skip(), file, gradio.update(open=True)
        return file, gradio.skip(), gradio.skip()

    chosen.__annotations__ = {"event": gradio.SelectData}  # Gradio knows by it what to pass
    for button in (question.several, question.folder):
        added = button.upload(
            partial(_added, gradio),
            [images, button],
            [images, answer.strip, question.image],
            preprocess=False,
            api_name="added",
            api_visibility="private",
            show_progress_on=answer.strip,
        )
        added.then(**answering)
    for picture in (question.image, question.second):
        picture.upload(
            lambda images, upload: _added(gradio, images, [upload])[:2],
            [images, picture],
            [images, answer.strip],
            preprocess=False,
            api_name="uploaded",
            **quiet,
        )
    clicked = answer.strip.select(
        chosen, [images], [question.image, question.second, question.comparison], api_name="chosen", **quiet
    )
    clicked.then(**answering)


def connect_downloads(gradio: Any, session: Any, answer: AnswerColumn) -> None:
    """Lets the browser save a file when its button is clicked."""
    link, name = gradio.Textbox(visible=False), gradio.Textbox(visible=False)
    for file, button in answer.buttons.items():
        made = button.click(
            partial(_file_of, gradio, file),
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
    second: dict[str, Any] | None,
    targets: str,
    contrasts: str,
    model: str | None,
    method: str,
    gamma: float,
    null: str,
) -> tuple[Session | None, str, Any]:
    """Answers what stands in the left column: the session from now on, the HTML to show, and the row of buttons."""
    image, other = (file["path"] if file else None for file in (upload, second))
    start = time.perf_counter()
    try:
        new = ask(
            session,
            image,
            targets,
            contrasts,
            second=other,
            model=model or "",
            method=method,
            gamma=gamma,
            null=null,
            named=named,
        )
    except InputError as error:
        return session, results.message(error, image, other), gradio.update(visible=False)
    shown = results.html(new)
    status = results.status(model or "", method, time.perf_counter() - start, encoded=new.known)
    return new, shown + status, gradio.update(visible=True)


def _added(gradio: Any, images: Strip, uploads: list[dict[str, Any]] | None) -> tuple[Strip, Any, Any]:
    """Uploads put into the strip: the strip from now on, its HTML, and the image to ask about: the first new one."""
    more, first = strip.with_files(images, [upload["path"] for upload in uploads or [] if upload])
    shown = gradio.update(value=strip.html(more), visible=len(more.files) > 1 or more.left_out > 0)
    return more, shown, gradio.skip() if first is None else first


def _file_of(gradio: Any, file: str, session: Session | None) -> tuple[Any, Any]:
    """A file of the last answers: its content as a data URL, and its name. Without answers there is none."""
    if session is None:
        return gradio.skip(), gradio.skip()
    return results.download(session, file), file
