"""Traits of a whole data set, as a run: sharded, resumable, by any number of processes, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from typing_extensions import Unpack

from finercam_clip import checks
from finercam_clip.datasets import DataSet, Item, Labels
from finercam_clip.errors import InputError, shown
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.options import Changes, Options
from finercam_clip.resolve import resolve_options
from finercam_clip.runs.asking import check_apart
from finercam_clip.runs.generate import BATCH
from finercam_clip.runs.ledger import ledger_of, threads_in
from finercam_clip.runs.parts import IMAGE, Part, Row
from finercam_clip.runs.shards import ALL, SHARD, Share
from finercam_clip.runs.store import Folder, Store, store_of
from finercam_clip.runs.work import Job, Summary, work
from finercam_clip.traits import Trait, cell_of, questions_about

_POINT = pa.struct([("x", pa.int32()), ("y", pa.int32())])
_BOX = pa.struct([*((name, pa.int32()) for name in ("x0", "y0", "x1", "y1")), ("heat", pa.float64())])
TRAIT_COLUMNS = pa.schema(  # lists with an entry per trait
    [
        *IMAGE,
        ("scores", pa.list_(pa.float64())),
        ("probabilities", pa.list_(pa.float64())),
        ("peaks", pa.list_(_POINT)),
        ("boxes", pa.list_(_BOX)),
        ("doubtful", pa.list_(pa.bool_())),
    ]
)


def trait_run(
    explainer: Explainer,
    dataset: DataSet,
    traits: Sequence[Trait],
    run: str | Path,
    *,
    labels: Labels | None = None,
    batch: int = BATCH,
    shard_size: int = SHARD,
    threads: int | None = None,
    share: Share = ALL,
    **changes: Unpack[Changes],
) -> Summary:
    """Asks every image about every trait. See `generate` for how a run is stopped, shared and moved.

    Args:
        explainer: The model.
        dataset: The images.
        traits: What they are asked about.
        run: The folder, a new one or that of the same run; or an address in an object store.
        labels: What the texts of the traits, or the data set's classes, are called in the model (see `generate`).
        batch: Images per forward pass.
        shard_size: Images per shard.
        threads: How many threads torch computes with.
        share: What this process does of the run.
        changes: Any field of `Options`.

    Raises:
        InputError: A trait's text cannot be used by the model, or `run` cannot be used.
    """
    job, store = traits_job(
        explainer, dataset, traits, run, labels, batch, shard_size, threads, resolve_options(changes)
    )
    return work(job, store, share)


def traits_job(
    explainer: Explainer,
    dataset: DataSet,
    traits: Sequence[Trait],
    run: str | Path,
    labels: Labels | None,
    batch: int,
    shard_size: int,
    threads: int | None,
    options: Options,
) -> tuple[Job, Store]:
    """What `trait_run` does, and where, checked. See there for the arguments."""
    store = store_of(run)
    batch, shard_size = checks.count(batch, "batch"), checks.count(shard_size, "shard_size")
    if not isinstance(dataset, DataSet):
        raise InputError(f"a table of traits takes a data set, as open_dataset gives it, not {shown(dataset)}")
    questions = questions_about(explainer, dataset, traits, labels, options)
    if isinstance(store, Folder):
        check_apart(store.path, dataset)
    asked = [
        {"name": trait.name, "target": question.labels[0], "contrasts": question.labels[1:]}
        for trait, question in zip(traits, questions, strict=True)
    ]
    own: dict[str, Any] = {"kind": "traits", "traits": asked, "batch": batch, "shard_size": shard_size}
    ledger = ledger_of(explainer, dataset, options, None, **own, threads=threads_in(store, threads))

    def answer(item: Item, encoding: ImageEncoding) -> Row:
        cells = [cell_of(encoding.answer(question)) for question in questions]
        return {
            "scores": [cell.score for cell in cells],
            "probabilities": [cell.probability for cell in cells],
            "peaks": [None if cell.peak is None else dict(zip("xy", cell.peak, strict=True)) for cell in cells],
            "boxes": [None if cell.box is None else dict(zip(_NAMES, cell.box, strict=True)) for cell in cells],
            "doubtful": [cell.doubtful for cell in cells],
        }

    def check(part: Part, number: int) -> None:
        """Its columns say all."""

    return Job(explainer, dataset, options, answer, TRAIT_COLUMNS, check, ledger), store


_NAMES = [field.name for field in _BOX]
