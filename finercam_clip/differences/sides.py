"""The two sets of pictures, as a user names them: folders, lists, classes, and what a classifier's run got right."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from finercam_clip import checks
from finercam_clip.concepts.names import ClassNames
from finercam_clip.concepts.vocabulary import spoken
from finercam_clip.datasets import DataSet, Item, open_dataset
from finercam_clip.differences.ranking import FEWEST
from finercam_clip.errors import InputError
from finercam_clip.files import holds_run
from finercam_clip.images import MAX_BYTES, ImageInput, read_image
from finercam_clip.paths import is_folder, look_or_none, read_bytes, text_of
from finercam_clip.runs.folder import read_manifest
from finercam_clip.runs.originals import originals_of
from finercam_clip.runs.records import Record

Images = str | Path | DataSet | Sequence[ImageInput]
CORRECT, WRONG, CONFUSED = "correct", "wrong", "confused"
TAKEN = ">"  # in RUN:CLASS>CLASS, between what images are and what they are taken for


@dataclass(frozen=True)
class Side:
    """One of the two sets.

    Attributes:
        name: What people call it.
        dataset: Its images.
    """

    name: str
    dataset: DataSet


def side_of(images: Images, name: str, split: str | None = None) -> Side:
    """A set of pictures.

    Args:
        images: A folder or file that `open_dataset` opens; "DATA SET:CLASS", one class of it; "RUN:correct" or
            "RUN:wrong", what the classifier of a run got right or wrong; "RUN:CLASS>CLASS", images of one class that it
            took for another; an open data set; or a list of images.
        name: What it is called if it has no name of its own.
        split: Only this part of a data set.

    Raises:
        InputError: There is no such set, or it is empty.
    """
    if isinstance(images, DataSet):
        return Side(name, images.split(split))
    if not isinstance(images, (str, Path)):
        return Side(name, _listed(images, name))
    text = str(images)
    if look_or_none(text) is None and ":" in text.partition("://")[2 if "://" in text else 0]:
        head, _, tail = text.rpartition(":")
        if is_folder(head) and holds_run(Path(head)):
            return _of_run(head, tail)
        return _of_class(open_dataset(head).split(split), tail)
    if is_folder(text) and holds_run(Path(text)):
        raise InputError(f"{text} is a run: say which of its images, as {text}:{CORRECT} or {text}:{WRONG}")
    return Side(Path(text).stem or name, open_dataset(images).split(split))


def _listed(images: Sequence[ImageInput], name: str) -> DataSet:
    listed = checks.items(images, "a set of pictures is a folder, a data set, or a list of images")
    if not listed:
        raise InputError(f"the set {name} is empty: give at least two images")
    data = [partial(read_bytes, Path(one), MAX_BYTES) if isinstance(one, (str, Path)) else _png(one) for one in listed]
    items = tuple(Item(Path(name), _name_of(*pair), data=pair[1], file="") for pair in zip(listed, data, strict=True))
    if len({item.name for item in items}) < len(items):
        raise InputError(f"the set {name} has an image twice: leave one out")
    return DataSet(Path(), "list of images", items, address=f"memory://{name}")


def _name_of(image: ImageInput, data: Callable[[], bytes]) -> str:
    """Names have a digest of the content, so that a run in the same folder never takes one image for another."""
    name = text_of(Path(image).name) if isinstance(image, (str, Path)) else "image.png"
    try:
        return f"{hashlib.sha256(data()).hexdigest()[:12]}-{name}"
    except InputError:  # the run lists it as unreadable
        return f"{hashlib.sha256(text_of(str(image)).encode()).hexdigest()[:12]}-{name}"


def _png(image: ImageInput) -> Callable[[], bytes]:
    picture = read_image(image)

    def data() -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    return data


def _of_class(dataset: DataSet, name: str) -> Side:
    classes = ClassNames(dataset.classes, owner="the data set", numbered=False)
    chosen = classes.names[classes.index(name)]
    items = tuple(item for item in dataset.items if item.target == chosen)
    if not items:
        raise InputError(f"{dataset.source} has no images of '{chosen}' in this part of it")
    return Side(spoken(chosen), replace(dataset, items=items))


# ---------------------------------------------------------------------------------------------------------------- runs


def confusions(run: str) -> list[tuple[str, str, int]]:
    """The classes that a run's classifier confuses, most confused first: what images are, what they are taken for.

    Only pairs of which two images at least are taken wrong, and two of the same class right: others cannot be compared.

    Returns:
        Class, the class that it is taken for, and how many images are.

    Raises:
        InputError: It is no run of a classifier about each image's own class, or there are no such pairs.
    """
    counts = Counter((true, taken) for _, true, taken in _answers(run))
    pairs = [(true, taken, count) for (true, taken), count in counts.most_common() if true != taken]
    enough = [(true, taken, n) for true, taken, n in pairs if min(n, counts[true, true]) >= FEWEST]
    if not enough:
        raise InputError(
            f"{run}: there is no class of which the classifier takes at least two images for one other class, and two "
            f"right; compare {run}:{CORRECT} with {run}:{WRONG}"
        )
    return enough


def _of_run(run: str, which: str) -> Side:
    answers = _answers(run)
    if TAKEN in which:
        names = ClassNames(tuple(dict.fromkeys(name for _, *pair in answers for name in pair)), owner="this run")
        true, taken = (names.names[names.index(name)] for name in which.split(TAKEN, 1))
        chosen = [record for record, *pair in answers if pair == [true, taken]]
        name = f"{true}, taken for {taken}" if true != taken else f"{true}, taken right"
    elif which in (CORRECT, WRONG):
        chosen = [record for record, true, taken in answers if (true == taken) == (which == CORRECT)]
        name = f"{which} answers"
    else:
        raise InputError(f"{run} has the sets '{CORRECT}', '{WRONG}' and 'CLASS{TAKEN}CLASS', not '{which}'")
    if not chosen:
        raise InputError(f"{run} has no images '{which}': there is nothing to compare")
    return Side(name, _dataset_of(run, chosen))


def _answers(run: str) -> list[tuple[Record, str, str]]:
    """Each record of a run, the class of its image, and the class that is most probable."""
    records = read_manifest(run)
    answers = [
        (record, record["target"], next(iter(record["predicted"])))
        for record in records
        if record["predicted"] and record["asked"].get("target") is not None
    ]
    if not answers or len({true for _, true, _ in answers}) < 2:
        raise InputError(
            f"{run} does not tell right from wrong: that needs a classifier's run about each image's own class, "
            "finercam-clip generate DATASET --classifier ... --output RUN without --target"
        )
    return answers


def _dataset_of(run: str, records: Sequence[Record]) -> DataSet:
    originals = originals_of(run)
    items = []
    for record in records:
        streamed = originals.streamed.get(record["image"])
        path = originals.path(record)
        item = streamed or Item(path.parent, record["image"], file=path.name)
        items.append(replace(item, target=record["target"], contrasts=None))
    return DataSet(originals.root, "images of a run", tuple(items))
