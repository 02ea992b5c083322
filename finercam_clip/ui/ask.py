"""A question to its answers. Nothing here knows of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finercam_clip import checks
from finercam_clip.aviary import demo, world
from finercam_clip.errors import InputError, shown
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.explanation import Explanation
from finercam_clip.models.catalogue import BUNDLED
from finercam_clip.options import Changes, Options
from finercam_clip.resolve import resolve_options
from finercam_clip.ui.models import model_named

MOST_TARGETS = 100  # of one question: nobody would look at more
NULLS = (
    "none",
    "aviary",
    "everyday",
    "traits",
    "classes",
    "nearest",
)  # names only: a visitor names no file of this machine
_ENCODINGS_KEPT = 4  # per visitor: two that are compared, and the two before

Source = tuple[str, str, str]  # what an encoding is made from: model, image file, pooling


class IncompleteError(InputError):
    """A question that has no image or no target yet."""


@dataclass(frozen=True, eq=False)
class Session:
    """What is kept for one visitor.

    Attributes:
        encodings: The last images, encoded, the latest last.
        answers: The answers to the last question, one per target.
        second: The answers about the second image, if two are compared. Else it is empty.
        known: Whether all images of the question were encoded before it was asked.
    """

    encodings: dict[Source, ImageEncoding]
    answers: tuple[Explanation, ...]
    second: tuple[Explanation, ...] = ()
    known: bool = False


def ask(
    session: Session | None,
    image: str | None,
    targets: str,
    contrasts: str,
    *,
    second: str | None = None,
    model: str = BUNDLED,
    method: str = Options.method,
    gamma: float = Options.gamma,
    null: str = NULLS[0],
    named: Callable[[str], Explainer] | None = None,
) -> Session:
    """Answers a question. Only another image, model or pooling costs a forward pass.

    Args:
        session: The result of the last question, or None.
        image: An image file.
        targets: One text per line. Each is asked against all contrasts. A classifier that is given none explains the
            class that it predicts for the first image, against the most similar class if there are no contrasts either.
        contrasts: One text per line.
        second: Another image file, which is asked the same.
        model: The model's name on the page.
        method: As in `Options`.
        gamma: As in `Options`.
        null: What the maps are compared with, one of `NULLS`.
        named: Gives the `Explainer` for a model's name, by default `model_named`.

    Raises:
        IncompleteError: There is no image or no target.
        InputError: One of these cannot be used. The message says what can.
    """
    target_texts, contrast_texts = _lines(targets), _lines(contrasts)
    if not image:
        raise IncompleteError("there is no image yet: drop one, or click an example")
    if len(target_texts) > MOST_TARGETS:
        raise InputError(f"{len(target_texts)} targets are more than a page can show: give {MOST_TARGETS} at most")
    name = checks.choice(null, NULLS, "null")
    changes: Changes = {"method": method, "gamma": gamma, "null": None if name == NULLS[0] else name}
    options = resolve_options(changes)
    explainer = (named or model_named)(model)
    if not target_texts and explainer.loaded.space.score != "logit":
        raise IncompleteError("there is no target: describe what to look for, as in 'a bird with a red crown'")
    kept = {} if session is None else session.encodings
    sources: list[Source] = [(model, file, options.pooling) for file in (image, second) if file]
    encodings = [
        kept[source] if source in kept else explainer.encode(source[1], pooling=options.pooling) for source in sources
    ]
    if not target_texts:
        target_texts = list(encodings[0].predictions(1))
        contrast_texts = contrast_texts or list(encodings[0].explain(target_texts[0], 1).contrasts)
    answers = [
        tuple(encoding.explain(text, contrast_texts, **changes) for text in target_texts) for encoding in encodings
    ]
    latest = {source: kept[source] for source in kept if source not in sources}
    latest |= dict(zip(sources, encodings, strict=True))
    return Session(
        encodings=dict(list(latest.items())[-_ENCODINGS_KEPT:]),
        answers=answers[0],
        second=answers[1] if second else (),
        known=all(source in kept for source in sources),
    )


def _lines(text: str | None) -> list[str]:
    if not isinstance(text, str | None):
        raise InputError(f"targets and contrasts are texts, one per line, not {shown(text)}")
    text = text or ""
    return [line.strip() for line in text.splitlines() if line.strip()]


def examples() -> dict[str, tuple[str, str]]:
    """Questions about the bundled image: label -> (targets, contrasts). They follow the bird that it shows."""
    bird = demo.BIRD

    def text(slot: str, value: str) -> str:
        return world.describe(((slot, value),))

    def other_value(slot: str) -> str:
        return next(value for value in ("blue", "red") if value != bird[slot])

    questions = {}
    for slot in ("crown", "tail", "wing"):
        own, other = bird[slot], other_value(slot)
        questions[f"{own} {slot}, not {other}"] = (text(slot, own), text(slot, other))
    traits = "\n".join(text(part, bird[part]) for part in world.PARTS)
    questions[f"{len(world.PARTS)} traits at once"] = (traits, "")
    own, other = bird["crown"], other_value("crown")
    questions[f"absent: {other} crown"] = (text("crown", other), text("crown", own))
    return questions
