"""The page: a question on the left, its answer on the right. Gradio is passed in: it is imported only where used."""

from __future__ import annotations

from typing import Any

from finercam_clip.explainer import Explainer
from finercam_clip.models.catalogue import BUNDLED
from finercam_clip.ui.events import connect_downloads, connect_question, connect_strip
from finercam_clip.ui.layout import HEAD, answer_column, question_column
from finercam_clip.ui.models import keeping_models, name_of

KEPT = 3600  # seconds that an upload stays on the disk, and an encoding in memory


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
        gradio.HTML(HEAD, elem_classes="fc-head")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                question = question_column(gradio, model, with_example=bundled)
            with gradio.Column(scale=3, min_width=480):
                answer = answer_column(gradio, question)
        answering = connect_question(gradio, session, question, answer, keeping_models(explainer))
        connect_strip(gradio, question, answer, answering)
        connect_downloads(gradio, session, answer)
        if bundled:
            page.load(**answering)
    return page
