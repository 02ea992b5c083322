"""What a run asks of each image, and every check that can be made before it begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch

from finercam_clip import checks
from finercam_clip.concepts import ConceptSpace
from finercam_clip.concepts.nearness import candidates
from finercam_clip.concepts.null import CLASSES, NEAREST
from finercam_clip.concepts.vocabulary import vocabulary_of
from finercam_clip.datasets import DataSet, Item
from finercam_clip.datasets.labels import check_known
from finercam_clip.errors import InputError, shown
from finercam_clip.explainer import Explainer
from finercam_clip.options import TEXTS, Options
from finercam_clip.paths import resolved, same_file, text_of
from finercam_clip.presets import MODES
from finercam_clip.question import Question, ask
from finercam_clip.tensors import fingerprint_of
from finercam_clip.version import __version__

Asked = dict[str, Any]  # "target" and "contrasts" of an image, as its record has them; None: predicted, or chosen
_CHOSEN: int = MODES["finer-default"]["contrasts"]


def asked_of(item: Item, target: str | None, contrasts: Sequence[str] | None) -> Asked:
    """What an image is asked: its own question, unless there is one for all."""
    own = contrasts or item.contrasts
    return {"target": target or item.target, "contrasts": None if own is None else list(own)}


def distinct(dataset: DataSet, asked: Callable[[Item], Asked]) -> dict[str, Asked]:
    """Every question of a data set once, by the name of the first image that it is asked of."""
    first: dict[tuple[str | None, tuple[str, ...] | None], str] = {}
    for item in dataset.items:
        question = asked(item)
        contrasts = question["contrasts"]
        first.setdefault((question["target"], None if contrasts is None else tuple(contrasts)), item.name)
    return {
        name: {"target": target, "contrasts": None if contrasts is None else list(contrasts)}
        for (target, contrasts), name in first.items()
    }


def given(target: object, contrasts: object) -> tuple[str | None, list[str] | None]:
    """The question for all images, checked. Raises InputError for what are no texts."""
    texts = None
    if contrasts is not None:
        several = [contrasts] if isinstance(contrasts, str) else contrasts
        texts = checks.items(several, "the contrasts of all images are texts")
    for text in [target, *(texts or ())]:
        if text is not None and not isinstance(text, str):
            raise InputError(f"target and contrasts of all images are texts, not {shown(text)}")
    return (target if isinstance(target, str) else None), texts or None


def questions_of(
    space: ConceptSpace, dataset: DataSet, options: Options
) -> Callable[[str, tuple[str, ...] | None], Question]:
    """Target and contrasts (None: chosen) -> the question."""
    choosing = replace(options, vocabulary=_vocabulary(space, dataset, options))

    def question(target: str, contrasts: tuple[str, ...] | None) -> Question:
        if contrasts is not None:
            return ask(space, space.spoken(target), contrasts, options)
        subject = space.concept(space.spoken(target), "target")
        count = min(_CHOSEN, len(candidates(subject, space.vocabulary(choosing.vocabulary))))
        return ask(space, subject.texts, count or (), choosing)

    return question


def _vocabulary(space: ConceptSpace, dataset: DataSet, options: Options) -> Any:
    """What contrasts are chosen from: what the user names, or a classifier's classes, or the data set's."""
    if options.vocabulary is not None or space.names:
        return options.vocabulary
    return [space.spoken(name) for name in dataset.classes]


def check_questions(space: ConceptSpace, dataset: DataSet, asked: dict[str, Asked], options: Options) -> None:
    """Every question, before any image costs anything. Names that are no classes are told all at once."""
    texts = (text for question in asked.values() for text in (question["target"], *(question["contrasts"] or ())))
    check_known(space, [text for text in texts if text is not None], options.templates)
    vocabulary = []
    if any(question["contrasts"] is None for question in asked.values()):
        vocabulary = space.vocabulary(_vocabulary(space, dataset, options))
    if vocabulary:
        space.directions(vocabulary, options.templates)
    space.background(options.background)
    for name, question in asked.items():
        if question["target"] is None:
            if not space.names:
                raise InputError(f"{name} has no class: say what to look for (--target TEXT)")
        elif question["contrasts"] is not None:
            ask(space, space.spoken(question["target"]), question["contrasts"], options)
        else:
            space.directions([space.concept(space.spoken(question["target"]), "target")], options.templates)


def check_apart(folder: Path, dataset: DataSet) -> None:
    """Raises InputError where the run would lie at the place of its own data set, or of a file in it."""
    if any(same_file(folder, place) for place in {dataset.root, dataset.source}):
        raise InputError(f"{folder} is the data set itself: name another folder for --output")


def settings_of(
    explainer: Explainer,
    dataset: DataSet,
    options: Options,
    *,
    target: str | None,
    contrasts: list[str] | None,
    batch: int,
) -> dict[str, Any]:
    """What a run is about. One with other settings needs another folder."""
    texts = {name: getattr(options, name) for name in TEXTS}
    return {
        "dataset": text_of(str(resolved(dataset.source))),
        "root": text_of(str(resolved(dataset.root))),
        "split": dataset.part,
        "target": target,
        "contrasts": contrasts,
        "batch": batch,
        "settings": options.plain(),
        "texts": {
            n: _digest(vocabulary_of(source)) for n, source in texts.items() if source not in (None, CLASSES, NEAREST)
        },
        "model": explainer.loaded.described() | {"weights": fingerprint_of(explainer.loaded.tower.visual)},
        "versions": _versions(),
    }


def _digest(texts: Sequence[str]) -> str:
    """What tells the content of a list of texts, which may be a file's, from another."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    return {
        "finercam_clip": __version__,
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "timm": timm.__version__,
    }
