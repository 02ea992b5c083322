"""Maps of a whole data set in the paper's three modes, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Unpack

from finercam_clip import checks, progress
from finercam_clip.datasets import DataSet, Item, Labels, labelled
from finercam_clip.errors import InputError, UnfinishedError, shown
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.files import MANIFEST, MAPS, check_folder, locked, make_folder
from finercam_clip.images import read_with_fingerprint
from finercam_clip.options import Changes, Options
from finercam_clip.paths import Fingerprint, look, place, reason, resolved, stays_inside, stored, text_of
from finercam_clip.question import Question
from finercam_clip.resolve import resolve_options
from finercam_clip.runs.asking import (
    Asked,
    asked_of,
    check_apart,
    check_questions,
    given,
    questions_of,
    settings_of,
)
from finercam_clip.runs.folder import (
    check_run,
    open_run,
    record_there,
    remove_orphans,
    write_manifest,
    write_maps,
    write_unreadable,
)
from finercam_clip.runs.records import Record, line_of
from finercam_clip.trial import try_out

BATCH = 16  # images per forward pass
_MOST_PIXELS = 512_000_000  # of pictures in memory at a time
_PREDICTIONS = 5
_QUESTIONS = 4  # kept: images of a class follow each other, and each holds the directions of a whole vocabulary


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
    labels: Labels | None = None,
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
        labels: What the classes of the data set are called in the model: a CSV file of two columns, or a mapping. A
            class that it does not mention keeps its name.
        batch: Images per forward pass.
        changes: Any field of `Options`.

    Raises:
        InputError: A class or a label is not the model's; `run` is another question's, or cannot be written to.
    """
    options, space = resolve_options(changes), explainer.loaded.space
    batch, folder = checks.count(batch, "batch"), place(run, "the run")
    if not isinstance(dataset, DataSet):
        raise InputError(f"generate takes a data set, as open_dataset gives it, not {shown(dataset)}")
    target, contrasts = given(target, contrasts)
    if labels is not None and target is not None:
        raise InputError("labels are for the data set's own classes: leave them out, or the target of all images")
    dataset = labelled(dataset, labels, space)
    asked = {item.name: asked_of(item, target, contrasts) for item in dataset.items}
    question = lru_cache(maxsize=_QUESTIONS)(questions_of(space, dataset, options))
    check_questions(space, dataset, asked, options)
    try_out(explainer, options)
    settings = settings_of(explainer, dataset, options, target=target, contrasts=contrasts, batch=batch)
    check_run(folder, settings)
    check_folder(folder)
    check_apart(folder, dataset)
    with _held(folder), locked(folder):
        check_run(folder, settings)
        open_run(folder, settings)
        try:
            work = _Work(explainer, dataset, folder, options, settings, asked, question, batch)
            return work.done()
        except (InputError, OSError) as error:
            why = error if isinstance(error, InputError) else f"{folder} cannot be written to: {reason(error)}"
            raise UnfinishedError(f"{why}; what is done stays: run the same command again to go on") from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Inside, the folder is there. If nothing could be written to it, it goes again."""
    new = [place for place in (folder, *folder.parents) if look(place) is None]
    make_folder(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # they are not empty, as a rule
            for place in new:
                place.rmdir()


@dataclass(frozen=True)
class _Work:
    """What `generate` does once everything is checked.

    Attributes:
        explainer: The model.
        dataset: The images.
        folder: The run, which nobody else works in.
        options: How questions are answered.
        settings: Of the run.
        asked: Image name -> what it is asked.
        question: Target and contrasts -> the question.
        batch: Images per forward pass.
    """

    explainer: Explainer
    dataset: DataSet
    folder: Path
    options: Options
    settings: dict[str, Any]
    asked: dict[str, Asked]
    question: Callable[[str, tuple[str, ...] | None], Question]
    batch: int

    def done(self) -> Summary:
        """Computes what is missing, and removes what is there of images that are not."""
        items, folder = self.dataset.items, self.folder
        files = stored((item.name for item in items), ".npz")
        files = {name: f"{MAPS}/{file}" for name, file in files.items()}
        records: dict[str, Record] = {}
        for item in items:
            record = record_there(folder, files[item.name], self.asked[item.name], item.path)
            if record is not None:
                records[item.name] = record
        self._write_manifest(records)
        unreadable = dict(self.dataset.left_out)
        computed = 0
        with (
            progress.bar(len(items), initial=len(records), unit="image") as bar,
            (folder / MANIFEST).open("a", encoding="utf-8", newline="\n") as manifest,
        ):
            for start in range(0, len(items), self.batch):
                batch = items[start : start + self.batch]
                if all(item.name in records for item in batch):
                    continue
                for portion in _portions(batch, unreadable):
                    if all(picture.item.name in records for picture in portion):
                        continue
                    for picture, encoding in self._encoded(portion, unreadable):
                        name = picture.item.name
                        if name in records:
                            continue
                        try:
                            record, maps = self._answer(picture, encoding, files[name])
                        except InputError as error:  # the options are right: it is this image that cannot be asked
                            unreadable[name] = f"{picture.item.path}: {error}"
                            continue
                        write_maps(folder, record, maps)
                        manifest.write(line_of(record))
                        manifest.flush()
                        records[name] = record
                        computed += 1
                        bar.update()
                bar.update(sum(item.name in unreadable for item in batch))
        self._write_manifest(records)
        write_unreadable(folder, unreadable)
        if records:  # or the disk with the images is just not there
            locked_away = tuple(self.dataset.left_out)
            kept = [record["maps"] for record in records.values()]
            remove_orphans(folder, kept, lambda name: name.startswith(locked_away))
        return Summary(len(items), computed, unreadable)

    def _write_manifest(self, records: dict[str, Record]) -> None:
        write_manifest(self.folder, (records[item.name] for item in self.dataset.items if item.name in records))

    def _encoded(self, portion: list[_Picture], unreadable: dict[str, str]) -> Iterator[tuple[_Picture, ImageEncoding]]:
        """Each picture with its encoding. One that the model cannot take is listed, and the others are encoded."""
        settled = self.options.encoding()
        try:
            encodings = self.explainer.encode([picture.image for picture in portion], **settled)
        except InputError:
            for picture in portion:
                try:
                    yield picture, self.explainer.encode(picture.image, **settled)
                except InputError as error:
                    unreadable[picture.item.name] = f"{picture.item.path}: {error}"
            return
        yield from zip(portion, encodings, strict=True)

    def _answer(
        self, picture: _Picture, encoding: ImageEncoding, file: str
    ) -> tuple[Record, dict[str, NDArray[np.float32]]]:
        """An image's record, and its signed maps by mode."""
        item, asked = picture.item, self.asked[picture.item.name]
        space, embedding = encoding.explainer.loaded.space, encoding.embedding
        predicted = space.predictions(embedding, _PREDICTIONS)
        contrasts = None if asked["contrasts"] is None else tuple(asked["contrasts"])
        question = self.question(asked["target"] or next(iter(predicted)), contrasts).about(embedding)
        labels = question.labels[: len(question.concepts) - question.background]
        modes = {"baseline": question.against(0)}
        if len(labels) > 1:  # without contrasts there is only the first mode
            modes |= {"finer-default": question, "finer-compare": question.against(1)}
        main = "finer-default" if "finer-default" in modes else "baseline"  # the one that is compared with its null
        answers = {
            mode: encoding.answer(of_mode if mode == main else replace(of_mode, null=None))
            for mode, of_mode in modes.items()
        }
        maps = {mode: answer.grid for mode, answer in answers.items()}
        record: Record = {
            "image": item.name,
            "path": _path_in(item.path, self.dataset.root),
            "split": item.split,
            "size": {"width": encoding.image.shape[1], "height": encoding.image.shape[0]},
            "source": asdict(picture.source),
            "asked": asked,
            "target": labels[0],
            "contrasts": labels[1:],
            "score": space.score,
            "similarities": question.similarities(embedding),
            "probabilities": question.probabilities(embedding),
            "predicted": predicted,
            "maps": file,
            "scales": {mode: float(np.abs(grid).max()) for mode, grid in maps.items()},
            "geometry": asdict(encoding.geometry),
        }
        significance = answers[main].significance
        if significance is not None:
            record |= {"p_value": significance.p_value, "specific": significance.specific}
        return record | {key: self.settings[key] for key in ("settings", "model", "versions")}, maps


@dataclass(frozen=True)
class _Picture:
    """An image of the data set that was read.

    Attributes:
        item: Which one.
        image: Its pixels.
        source: The fingerprint of the file that they were decoded from.
    """

    item: Item
    image: Image.Image
    source: Fingerprint


def _portions(items: Sequence[Item], unreadable: dict[str, str]) -> Iterator[list[_Picture]]:
    """The pictures of a batch, in one list, or in several where they are so large that memory could run out.

    Those that cannot be read are listed instead: image name -> why.
    """
    portion: list[_Picture] = []
    pixels = 0
    for item in items:
        try:
            image, source = read_with_fingerprint(item.path)
        except InputError as error:
            unreadable[item.name] = str(error)
            continue
        pixels += image.width * image.height
        if portion and pixels > _MOST_PIXELS:
            yield portion
            portion, pixels = [], image.width * image.height
        portion.append(_Picture(item, image, source))
    if portion:
        yield portion


def _path_in(path: Path, root: Path) -> str:
    """An image's path within the data set's folder, as text."""
    if path.is_relative_to(root) and stays_inside(path.relative_to(root).as_posix()):
        return text_of(path.relative_to(root).as_posix())
    return text_of((resolved(path.parent) / path.name).relative_to(resolved(root)).as_posix())
