"""Maps of a whole data set in the paper's three modes, resumable, by any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from typing_extensions import Unpack

from finercam_clip import checks
from finercam_clip.datasets import DataSet, Item, Labels, labelled
from finercam_clip.errors import InputError, shown
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.options import Changes, Options
from finercam_clip.question import Question
from finercam_clip.resolve import resolve_options
from finercam_clip.runs.asking import Asked, asked_of, check_apart, check_questions, distinct, given, questions_of
from finercam_clip.runs.ledger import ledger_of, threads_in
from finercam_clip.runs.parts import MAP_COLUMNS, Row, records_in, row_of
from finercam_clip.runs.records import Record, main_mode
from finercam_clip.runs.shards import ALL, SHARD, Share
from finercam_clip.runs.store import Folder, Store, store_of
from finercam_clip.runs.work import Job, Summary, work
from finercam_clip.trial import try_out

BATCH = 16  # images per forward pass
_PREDICTIONS = 5
_QUESTIONS = 4  # kept: images of a class follow each other, and each holds the directions of a whole vocabulary


def generate(
    explainer: Explainer,
    dataset: DataSet,
    run: str | Path,
    *,
    target: str | None = None,
    contrasts: Sequence[str] | None = None,
    labels: Labels | None = None,
    batch: int = BATCH,
    shard_size: int = SHARD,
    threads: int | None = None,
    share: Share = ALL,
    **changes: Unpack[Changes],
) -> Summary:
    """Writes the maps of every image in the paper's three modes: baseline, Finer-Default and Finer-Compare.

    Each image is asked about its own target (its class; a CSV's target), or about `target`; without either, about the
    class that a classifier predicts. Its contrasts are its own, or `contrasts`, or the most similar of `vocabulary`, by
    default a classifier's or the data set's classes. Finer-Default takes the first 3 of those chosen, and all of those
    given; Finer-Compare takes the first.

    The unit of work is a shard: so many images in the data set's order. It is written whole, as one file, and what is
    there is done. So a run can be stopped at any moment, and goes on where it was; several processes, on any machines
    that see the folder, each do their share of it. The bytes in the end are the same.

    Args:
        explainer: The model.
        dataset: The images.
        run: The folder, a new one or that of the same run; or an address in an object store (s3://bucket/run).
        target: One concept for all images.
        contrasts: What it is told apart from.
        labels: What the classes of the data set are called in the model: a CSV file of two columns, or a mapping. A
            class that it does not mention keeps its name.
        batch: Images per forward pass.
        shard_size: Images per shard.
        threads: How many threads torch computes with. Sums are rounded differently with another number, so a run has
            one: by default that of the run that goes on, or torch's own.
        share: What this process does of the run, where several share it.
        changes: Any field of `Options`.

    Raises:
        InputError: A class or a label is not the model's; `run` is another question's, or cannot be written to.
    """
    job, store = maps_job(
        explainer, dataset, run, target, contrasts, labels, batch, shard_size, threads, resolve_options(changes)
    )
    return work(job, store, share)


def maps_job(
    explainer: Explainer,
    dataset: DataSet,
    run: str | Path,
    target: str | None,
    contrasts: Sequence[str] | None,
    labels: Labels | None,
    batch: int,
    shard_size: int,
    threads: int | None,
    options: Options,
) -> tuple[Job, Store]:
    """What `generate` does, and where, checked. See there for the arguments."""
    space, store = explainer.loaded.space, store_of(run)
    batch, shard_size = checks.count(batch, "batch"), checks.count(shard_size, "shard_size")
    if not isinstance(dataset, DataSet):
        raise InputError(f"generate takes a data set, as open_dataset gives it, not {shown(dataset)}")
    target, contrasts = given(target, contrasts)
    if labels is not None and target is not None:
        raise InputError("labels are for the data set's own classes: leave them out, or the target of all images")
    dataset = labelled(dataset, labels, space)

    def asked(item: Item) -> Asked:
        return asked_of(item, target, contrasts)

    question = lru_cache(maxsize=_QUESTIONS)(questions_of(space, dataset, options))
    check_questions(space, dataset, distinct(dataset, asked), options)
    try_out(explainer, options)
    if isinstance(store, Folder):
        check_apart(store.path, dataset)
    own = {"kind": "maps", "target": target, "contrasts": contrasts, "batch": batch, "shard_size": shard_size}
    ledger = ledger_of(explainer, dataset, options, asked, **own, threads=threads_in(store, threads))

    def answer(item: Item, encoding: ImageEncoding) -> Row:
        own = asked(item)
        predicted = space.predictions(encoding.embedding, _PREDICTIONS)
        given = None if own["contrasts"] is None else tuple(own["contrasts"])
        return _row(encoding, question(own["target"] or next(iter(predicted)), given), predicted, own)

    return Job(explainer, dataset, options, answer, MAP_COLUMNS, records_in, ledger), store


def _row(encoding: ImageEncoding, question: Question, predicted: dict[str, float], asked: Asked) -> Row:
    """The row of an image: its record, and its signed maps by mode."""
    embedding = encoding.embedding
    question = question.about(embedding)
    labels = question.labels[: len(question.concepts) - question.background]
    modes = {"baseline": question.against(0)}
    if len(labels) > 1:  # without contrasts there is only the first mode
        modes |= {"finer-default": question, "finer-compare": question.against(1)}
    main = main_mode(modes)  # the one that is compared with its null
    answers = {mode: encoding.answer(one if mode == main else replace(one, null=None)) for mode, one in modes.items()}
    record: Record = {
        "size": {"width": encoding.image.shape[1], "height": encoding.image.shape[0]},
        "asked": asked,
        "target": labels[0],
        "contrasts": labels[1:],
        "score": question.space.score,
        "similarities": question.similarities(embedding),
        "probabilities": question.probabilities(embedding),
        "predicted": predicted,
        "geometry": asdict(encoding.geometry),
    }
    significance = answers[main].significance
    if significance is not None:
        record |= {name: getattr(significance, name) for name in ("p_value", "level", "specific")}
    p_values = None if significance is None else significance.p_values
    return row_of(record, {mode: answer.grid for mode, answer in answers.items()}, p_values)
