"""What a process does with its share of a run: shard after shard, each the same bytes whoever computes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from finercam_clip import progress
from finercam_clip.datasets import DataSet, Item
from finercam_clip.errors import InputError, UnfinishedError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.files import MAPS
from finercam_clip.options import Options
from finercam_clip.paths import entries, is_folder, look, reason
from finercam_clip.runs.ledger import Ledger, begin, check_ledger, is_of, meaning_of, path_in
from finercam_clip.runs.parts import Part, Row, part_bytes, part_in
from finercam_clip.runs.pictures import Picture, read, read_ahead, threads_of, why_of, with_inputs
from finercam_clip.runs.shards import ALL, Share, count_of, part_name, shard_of
from finercam_clip.runs.store import Store

_MOST_PIXELS = 512_000_000  # of pictures that go through the model together
_SKEW = 2_000_000_000  # nanoseconds that the clock of a file server may be ahead of ours


@dataclass(frozen=True)
class Job:
    """What is done to each image of a data set.

    Attributes:
        explainer: The model.
        dataset: The images.
        options: How they are encoded.
        answer: An image and its encoding -> the columns of its row.
        columns: Of its parts.
        check: Raises InputError where what a part says of its images cannot be right, by the part and its number.
        ledger: What is asked.
    """

    explainer: Explainer
    dataset: DataSet
    options: Options
    answer: Callable[[Item, ImageEncoding], Row]
    columns: pa.Schema
    check: Callable[[Part, int], object]
    ledger: Ledger

    @property
    def size(self) -> int:
        """Images per shard."""
        return int(self.ledger["shard_size"])

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return count_of(len(self.dataset.items), self.size)


@dataclass(frozen=True)
class Shard:
    """What has become of a shard.

    Attributes:
        number: Which one.
        images: How many images it has.
        unreadable: Image name -> why it has no answer.
    """

    number: int
    images: int
    unreadable: dict[str, str]


@dataclass
class Summary:
    """What a run has come to.

    Attributes:
        images: How many this process had to see to: those of its shards.
        computed: How many of them were computed in this call.
        unreadable: The name of an image, or of a folder with "/" behind it -> why it was skipped.
        failed: The number of a shard -> why it could not be done.
    """

    images: int = 0
    computed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def add(self, shard: Shard, *, now: bool) -> None:
        """Counts a shard that is done, `now` or before."""
        self.images += shard.images
        self.computed += (shard.images - len(shard.unreadable)) * now
        self.unreadable |= shard.unreadable


def work(job: Job, store: Store, share: Share = ALL) -> Summary:
    """Does what is missing of a share.

    Raises:
        InputError: The place holds a run of something else, or another process works on the same share.
        UnfinishedError: The work stopped in the middle. What is done stays.
    """
    check_ledger(store, job.ledger)
    store.check()
    with store.work(share, MAPS), threads_of(job.ledger["threads"]):
        ledger = begin(store, job.ledger)
        try:
            return _worked(job, store, share, ledger)
        except (InputError, OSError) as error:
            raise unfinished(store, error) from error


def unfinished(store: Store, error: Exception) -> UnfinishedError:
    """What is said where work stops in the middle."""
    why = error if isinstance(error, InputError) else f"{store} cannot be written to: {reason(error)}"
    return UnfinishedError(f"{why}; what is done stays: run the same command again to go on")


def _worked(job: Job, store: Store, share: Share, ledger: Ledger) -> Summary:
    summary = Summary(unreadable=dict(job.dataset.left_out))
    missing = []
    numbers = share.of(job.shards)
    for number in progress.each(numbers, "what is there", unit="shard"):
        done = shard_there(job, store, number, ledger)
        if done is None:
            missing.append(number)
        else:
            summary.add(done, now=False)
    total = summary.images + sum(len(shard_of(job.dataset.items, number, job.size)) for number in missing)
    with progress.bar(total, initial=summary.images, unit="image") as bar:
        for number in missing:
            summary.add(computed_shard(job, store, number, ledger, bar.update), now=True)
    return summary


def computed_shard(
    job: Job, store: Store, number: int, ledger: Ledger, tell: Callable[[int], Any] = lambda images: None
) -> Shard:
    """Computes a shard and writes its part.

    Args:
        job: What is done.
        store: Where the run lies.
        number: Of the shard.
        ledger: The run's own, as it began.
        tell: Is told how many more images are done.

    Raises:
        InputError: The data set's folder is gone, or the part cannot be written.
    """
    begun = time.time_ns() - _SKEW
    items = shard_of(job.dataset.items, number, job.size)
    rows = list(_rows(job, items, tell))
    unreadable = {row["image"]: row["error"] for row in rows if "error" in row}
    if unreadable:
        _check_there(job.dataset)
    store.write(f"{MAPS}/{part_name(number)}", part_bytes(rows, job.columns, meaning_of(ledger)), begun)
    return Shard(number, len(items), unreadable)


def _check_there(dataset: DataSet) -> None:
    """Raises InputError where the disk with the images is gone: or they would all be listed as unreadable."""
    if dataset.address:  # a store says so itself (`UnfinishedError`)
        return
    for place in {dataset.source, dataset.root}:
        if look(place) is None or (is_folder(place) and not entries(place)):
            raise InputError(f"{place} is gone, or empty: is the disk of the data set still there?")


def _rows(job: Job, items: Sequence[Item], tell: Callable[[int], Any]) -> Iterator[Row]:
    """The row of each image of a shard, in its order."""
    batch = int(job.ledger["batch"])
    pictures = read_ahead(items, job.explainer, job.options, 2 * batch)
    for start in range(0, len(items), batch):
        several = [next(pictures) for _ in items[start : start + batch]]
        for portion in _portions(several):
            yield from _answered(job, portion)
            tell(len(portion))


def _portions(pictures: Sequence[Picture]) -> Iterator[list[Picture]]:
    """A batch in one list, or in several where its pictures are so large that memory could run out."""
    portion: list[Picture] = []
    pixels = 0
    for picture in pictures:
        size = 0 if picture.image is None else picture.image.width * picture.image.height
        if portion and pixels + size > _MOST_PIXELS:
            yield portion
            portion, pixels = [], 0
        portion.append(picture)
        pixels += size
    if portion:
        yield portion


def _answered(job: Job, portion: Sequence[Picture]) -> Iterator[Row]:
    """The rows of some pictures, which go through the model together."""
    readable = [picture for picture in portion if picture.image is not None]
    encodings = dict(_encoded(job, readable))
    for picture in portion:
        item = picture.item
        name, path = _place_of(item, job.dataset)
        row: Row = {"image": name, "path": path, "split": item.split}
        row |= {"bytes": picture.bytes, "sha256": picture.sha256}
        encoding = encodings.get(item.name)
        try:
            if isinstance(encoding, ImageEncoding):
                row |= job.answer(item, encoding)
            else:
                row["error"] = picture.why if encoding is None else why_of(item, encoding)
        except InputError as error:  # the options are right: it is this image that cannot be asked
            row["error"] = why_of(item, error)
        yield row


def _place_of(item: Item, dataset: DataSet) -> tuple[str, str]:
    """An image's name, and its path within its data set."""
    return item.name, item.name if item.data is not None else path_in(item.path, dataset.root)


def _encoded(job: Job, pictures: Sequence[Picture]) -> Iterator[tuple[str, ImageEncoding | InputError]]:
    """Each picture's encoding. Where the model cannot take one, it is told, and the others are encoded alone."""
    settled = job.options.encoding()
    explainer = with_inputs(job.explainer, pictures)
    images = [picture.image for picture in pictures if picture.image is not None]
    names = [picture.item.name for picture in pictures]
    if not images:
        return
    try:
        encodings = explainer.encode(images, **settled)
    except InputError:
        for name, image in zip(names, images, strict=True):
            try:
                yield name, explainer.encode(image, **settled)
            except InputError as error:
                yield name, error
        return
    yield from zip(names, encodings, strict=True)


# -------------------------------------------------------------------------------------------------------- what is there


def shard_there(job: Job, store: Store, number: int, ledger: Ledger) -> Shard | None:
    """A shard that need not be computed again.

    Returns:
        None if its part is not there, is damaged, is of another run, or if one of its images was replaced since.
    """
    name = f"{MAPS}/{part_name(number)}"
    try:
        when = store.changed(name)
        part = part_in(store, number)
        if not is_of(part.ledger, ledger) or not part.rows.schema.equals(job.columns):
            return None
        job.check(part, number)
    except InputError:
        return None
    items = shard_of(job.dataset.items, number, job.size)
    rows = part.rows.select(["image", "path", "bytes", "sha256", "error"]).to_pylist()
    if [(row["image"], row["path"]) for row in rows] != [_place_of(item, job.dataset) for item in items]:
        return None
    if when is not None and any(_was_replaced(item, row, when) for item, row in zip(items, rows, strict=True)):
        return None
    return Shard(number, len(items), {row["image"]: row["error"] for row in rows if row["error"] is not None})


def _was_replaced(item: Item, row: Row, when: int) -> bool:
    """Whether an image is another than the one that a row is about. Only files that were touched since are read.

    Args:
        item: The image.
        row: Its row.
        when: When the computing of its shard began, nanoseconds.
    """
    if item.data is not None:  # a store of images, which tells no times
        return False
    try:
        status = look(item.path)
    except InputError:
        return False
    if status is None:  # what is done stays
        return False
    if max(status.st_mtime_ns, status.st_ctime_ns) < when and (row["bytes"] or status.st_size) == status.st_size:
        return False
    picture = read(item)
    return (picture.image is not None) if row["sha256"] is None else picture.sha256 != row["sha256"]
