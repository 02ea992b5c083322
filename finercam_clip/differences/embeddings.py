"""The embeddings of a data set's images as a run: sharded and resumable. Any list of texts can be asked of it later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finercam_clip import checks
from finercam_clip.datasets import DataSet, Item
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.options import Options
from finercam_clip.runs.ledger import ledger_of, read_ledger, threads_in
from finercam_clip.runs.parts import IMAGE, Part, Row, numbers_in, part_in
from finercam_clip.runs.shards import Share, count_of
from finercam_clip.runs.store import store_of
from finercam_clip.runs.work import Job, Summary, work

KIND = "embeddings"
COLUMNS = pa.schema([*IMAGE, ("embedding", pa.list_(pa.float32()))])


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What a run holds.

    Attributes:
        names: Of the images that could be read, in the data set's order.
        rows: Their embeddings f, float32 [images, D].
        digests: SHA-256 of their files.
    """

    names: tuple[str, ...]
    rows: NDArray[np.float32]
    digests: tuple[str, ...]


def embed_images(
    explainer: Explainer,
    dataset: DataSet,
    run: Path,
    options: Options,
    *,
    batch: int,
    shard_size: int,
    threads: int | None,
    share: Share,
) -> Summary:
    """Embeds every image of a data set, or a share of them. See `runs.generate` for the arguments.

    Raises:
        InputError: `run` cannot be used, or is another data set's or model's.
    """
    store, own = store_of(run), Options(**options.encoding())
    batch, shard_size = checks.count(batch, "batch"), checks.count(shard_size, "shard_size")
    ledger = ledger_of(
        explainer,
        dataset,
        own,
        None,
        kind=KIND,
        batch=batch,
        shard_size=shard_size,
        threads=threads_in(store, threads),
    )

    def answer(item: Item, encoding: ImageEncoding) -> Row:
        return {"embedding": encoding.embedding.detach().float().cpu().numpy()}

    def check(part: Part, number: int) -> None:
        """Its columns say all."""

    return work(Job(explainer, dataset, own, answer, COLUMNS, check, ledger), store, share)


def is_finished(run: Path) -> bool:
    """Whether all shards of a run are there."""
    store = store_of(run)
    if not numbers_in(store):
        return False
    ledger = read_ledger(store)
    return len(numbers_in(store)) == count_of(ledger["images"], ledger["shard_size"])


def read_embeddings(run: Path) -> Embeddings:
    """The embeddings of a run. Raises InputError where it is damaged, or no image could be read."""
    store = store_of(run)
    names: list[str] = []
    digests: list[str] = []
    rows: list[NDArray[np.float32]] = []
    for number in numbers_in(store):
        for row in part_in(store, number, ["image", "sha256", "error", "embedding"]).rows.to_pylist():
            if row["error"] is None:
                names.append(row["image"])
                digests.append(row["sha256"])
                rows.append(np.array(row["embedding"], np.float32))
    if not rows:
        raise InputError(f"{store}: none of its images can be read")
    return Embeddings(tuple(names), np.stack(rows), tuple(digests))
