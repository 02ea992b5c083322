"""A question to its answers. Nothing here knows of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import finercam_clip
from finercam_clip.aviary import demo, world
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.explanation import Explanation
from finercam_clip.models.catalogue import BUNDLED, list_models
from finercam_clip.models.classifier import PHOTOS
from finercam_clip.options import Options, Precision
from finercam_clip.resolve import resolve_options

MOST_TARGETS = 100  # of one question: nobody would look at more
_MODELS_KEPT = 2  # besides the first: the one in use, and the last one


@dataclass(frozen=True, eq=False)
class Session:
    """What is kept for one visitor.

    Attributes:
        source: What the encoding was made from: model, image file, pooling.
        encoding: The visitor's image, encoded.
        answers: The answers to the last question, one per target.
    """

    source: tuple[str, str, str]
    encoding: ImageEncoding
    answers: tuple[Explanation, ...]


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
    """Answers a question. Only another image, model or pooling costs a forward pass.

    Args:
        session: The result of the last question, or None.
        image: An image file.
        targets: One text per line. Each is asked against all contrasts.
        contrasts: One text per line.
        model: The model's name on the page.
        method: As in `Options`.
        gamma: As in `Options`.
        named: Gives the `Explainer` for a model's name, by default `model_named`.

    Raises:
        InputError: One of these cannot be used. The message says what can.
    """
    target_texts, contrast_texts = _lines(targets), _lines(contrasts)
    if not image:
        raise InputError("there is no image yet: drop one, or click an example")
    if not target_texts:
        raise InputError("there is no target: describe what to look for, as in 'a bird with a red crown'")
    if len(target_texts) > MOST_TARGETS:
        raise InputError(f"{len(target_texts)} targets are more than a page can show: give {MOST_TARGETS} at most")
    options = resolve_options({"method": method, "gamma": gamma})
    source = (model, image, options.pooling)
    if session is None or session.source != source:
        encoding = (named or model_named)(model).encode(image, pooling=options.pooling)
    else:
        encoding = session.encoding
    answers = tuple(encoding.explain(text, contrast_texts, method=method, gamma=gamma) for text in target_texts)
    return Session(source, encoding, answers)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def model_named(name: str, *, device: str | None = None, precision: Precision = "fp32") -> Explainer:
    """Loads the model with a name on the page.

    Args:
        name: "aviary" (the bundled model), "photos", or an architecture of open_clip and its weights, with a space
            between them.
        device: As in `load`.
        precision: As in `load`.

    Raises:
        InputError: There is no model with that name, or it cannot be loaded.
    """
    words = name.split(maxsplit=1)
    if not words:
        raise InputError("there is no model named: choose one, or type an architecture and its weights")
    if words[0] == PHOTOS:
        return finercam_clip.load_classifier(PHOTOS, device=device, precision=precision)
    return finercam_clip.load(words[0], words[1] if len(words) > 1 else None, device=device, precision=precision)


def model_names() -> list[str]:
    """The names that `model_named` takes: first the models without a download, then those of open_clip."""
    published = [f"{row.name} {tag}" for row in list_models() if row.name != BUNDLED for tag in row.weights]
    return [BUNDLED, PHOTOS, *published]


def name_of(explainer: Explainer) -> str:
    """The name of a loaded model on the page."""
    loaded = explainer.loaded
    return loaded.name if loaded.name in (BUNDLED, PHOTOS) else f"{loaded.name} {loaded.pretrained}"


def keeping_models(first: Explainer) -> Callable[[str], Explainer]:
    """`model_named` for a page: keeps models in memory, the first one always and the last two others.

    Args:
        first: The model that the page begins with. The others are loaded to its device.
    """
    first_name, device = name_of(first), str(first.loaded.device)

    @lru_cache(maxsize=_MODELS_KEPT)
    def other(name: str) -> Explainer:
        return model_named(name, device=device)

    return lambda name: first if name == first_name else other(name)


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
