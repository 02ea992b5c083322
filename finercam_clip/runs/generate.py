"""Maps of a whole data set in the paper's three modes, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Unpack

from finercam_clip import __version__, progress
from finercam_clip.concepts import ConceptSpace
from finercam_clip.datasets import DataSet, Item
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.files import make_folder
from finercam_clip.images import read_image
from finercam_clip.options import Changes, Options
from finercam_clip.presets import MODES
from finercam_clip.question import Question, ask, candidates
from finercam_clip.resolve import resolve_options
from finercam_clip.runs.folder import (
    MANIFEST,
    Record,
    line_of,
    maps_file,
    open_run,
    records_there,
    write_manifest,
    write_maps,
    write_unreadable,
)

BATCH = 16  # images per forward pass
_PREDICTIONS = 5
_CHOSEN: int = MODES["finer-default"]["contrasts"]
_QUESTIONS = 4  # kept: images of a class follow each other, and each holds the directions of a whole vocabulary

Asked = dict[str, Any]  # "target" and "contrasts" of an image, as its record has them; None: predicted, or chosen


@dataclass(frozen=True)
class Summary:
    """What a run has come to.

    Attributes:
        images: How many are in the data set.
        computed: How many were computed in this call.
        unreadable: Image name -> why it was skipped.
    """

    images: int
    computed: int
    unreadable: dict[str, str]


def generate(
    explainer: Explainer,
    dataset: DataSet,
    run: str | Path,
    *,
    target: str | None = None,
    contrasts: Sequence[str] | None = None,
    batch: int = BATCH,
    **changes: Unpack[Changes],
) -> Summary:
    """Writes the maps of every image in the paper's three modes: baseline, Finer-Default and Finer-Compare.

    Each image is asked about its own target (its class; a CSV's target), or about `target`; without either, about the
    class that a classifier predicts. Its contrasts are its own, or `contrasts`, or the most similar of `vocabulary`, by
    default a classifier's or the data set's classes. Finer-Default takes the first 3 of those chosen, and all of those
    given; Finer-Compare takes the first.

    The unit of work is a batch of the data set. An interrupted one is computed anew, as the same batch, so that the
    numbers round alike, but only what is missing is written.

    Args:
        explainer: The model.
        dataset: The images.
        run: The folder, a new one or that of the same run.
        target: One concept for all images.
        contrasts: What it is told apart from.
        batch: Images per forward pass.
        changes: Any field of `Options`.

    Raises:
        InputError: A class is not the model's; `run` holds a run of another question; it cannot be written to.
    """
    options, space = resolve_options(changes), explainer.loaded.space
    folder = make_folder(Path(run))
    asked = {item.name: _asked(item, target, contrasts) for item in dataset.items}
    question = lru_cache(maxsize=_QUESTIONS)(_questions(space, dataset, options))
    _check(space, dataset, asked, options)
    settings = {
        "dataset": str(dataset.source.resolve()),
        "root": str(dataset.root.resolve()),
        "target": target,
        "contrasts": None if not contrasts else list(contrasts),
        "batch": batch,
        "settings": options.plain(),
        "model": explainer.loaded.described(),
        "versions": _versions(),
    }
    open_run(folder, settings)
    records = records_there(folder, asked)
    write_manifest(folder, (records[item.name] for item in dataset.items if item.name in records))
    computed = 0
    unreadable: dict[str, str] = {}
    with (
        progress.bar(len(dataset.items), initial=len(records), unit="image") as bar,
        (folder / MANIFEST).open("a", encoding="utf-8") as manifest,
    ):
        for start in range(0, len(dataset.items), batch):
            items = dataset.items[start : start + batch]
            if all(item.name in records for item in items):
                continue
            pictures = _read(items, unreadable)
            readable = [item for item in items if item.name in pictures]
            bar.update(len(items) - len(readable))
            if all(item.name in records for item in readable):
                continue
            encodings = explainer.encode([pictures[item.name] for item in readable], **options.encoding())
            for item, encoding in zip(readable, encodings, strict=True):
                if item.name in records:
                    continue
                record, maps = _answer(encoding, item, dataset.root, asked[item.name], question)
                record |= {key: settings[key] for key in ("settings", "model", "versions")}
                write_maps(folder, record, maps)
                manifest.write(line_of(record))
                manifest.flush()
                records[item.name] = record
                computed += 1
                bar.update()
    write_manifest(folder, (records[item.name] for item in dataset.items if item.name in records))
    write_unreadable(folder, unreadable)
    return Summary(len(dataset.items), computed, unreadable)


def _asked(item: Item, target: str | None, contrasts: Sequence[str] | None) -> Asked:
    own = contrasts or item.contrasts
    return {"target": target or item.target, "contrasts": None if own is None else list(own)}


def _questions(
    space: ConceptSpace, dataset: DataSet, options: Options
) -> Callable[[str, tuple[str, ...] | None], Question]:
    """Target and contrasts (None: chosen) -> the question."""
    choosing = replace(options, vocabulary=_vocabulary(space, dataset, options))

    def question(target: str, contrasts: tuple[str, ...] | None) -> Question:
        if contrasts is not None:
            return ask(space, space.spoken(target), contrasts, options)
        subject = space.concept(space.spoken(target), "target")
        count = min(_CHOSEN, len(candidates(space, subject, choosing.vocabulary)))
        return ask(space, subject.texts, count or (), choosing)

    return question


def _vocabulary(space: ConceptSpace, dataset: DataSet, options: Options) -> Any:
    """What contrasts are chosen from: what the user names, or a classifier's classes, or the data set's."""
    if options.vocabulary is not None or space.names:
        return options.vocabulary
    return [space.spoken(name) for name in dataset.classes]


def _check(space: ConceptSpace, dataset: DataSet, asked: dict[str, Asked], options: Options) -> None:
    """Every question, before any image costs anything."""
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


def _answer(
    encoding: ImageEncoding,
    item: Item,
    root: Path,
    asked: Asked,
    question_about: Callable[[str, tuple[str, ...] | None], Question],
) -> tuple[Record, dict[str, NDArray[np.float32]]]:
    """An image's record, and its signed maps by mode."""
    space, embedding = encoding.explainer.loaded.space, encoding.embedding
    predicted = space.predictions(embedding, _PREDICTIONS)
    contrasts = None if asked["contrasts"] is None else tuple(asked["contrasts"])
    question = question_about(asked["target"] or next(iter(predicted)), contrasts).about(embedding)
    labels = question.labels[: len(question.concepts) - question.background]
    modes = {"baseline": question.against(0)}
    if len(labels) > 1:  # without contrasts there is only the first mode
        modes |= {"finer-default": question, "finer-compare": question.against(1)}
    maps = {mode: encoding.answer(of_mode).grid for mode, of_mode in modes.items()}
    record = {
        "image": item.name,
        "path": Path(os.path.relpath(item.path, root)).as_posix(),
        "split": item.split,
        "size": {"width": encoding.image.shape[1], "height": encoding.image.shape[0]},
        "asked": asked,
        "target": labels[0],
        "contrasts": labels[1:],
        "score": space.score,
        "similarities": question.similarities(embedding),
        "probabilities": question.probabilities(embedding),
        "predicted": predicted,
        "maps": maps_file(item.name),
        "scales": {mode: float(np.abs(grid).max()) for mode, grid in maps.items()},
        "geometry": asdict(encoding.geometry),
    }
    return record, maps


def _read(items: Sequence[Item], unreadable: dict[str, str]) -> dict[str, Image.Image]:
    """Image name -> picture; the others are listed as unreadable."""
    pictures = {}
    for item in items:
        try:
            pictures[item.name] = read_image(item.path)
        except InputError as error:
            unreadable[item.name] = str(error)
    return pictures


def _versions() -> dict[str, str]:
    return {
        "finercam_clip": __version__,
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "timm": timm.__version__,
    }
