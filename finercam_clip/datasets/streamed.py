"""Images that are no files of their own: in tars (WebDataset), in tables of Hugging Face, in object stores.

None is extracted. Each item knows where its bytes lie and gives them when they are asked for (`Item.data`), so that any
process can read any shard of the data set.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from finercam_clip.datasets.folders import IMAGE_ENDINGS
from finercam_clip.datasets.items import DataSet, Item
from finercam_clip.errors import InputError, UnfinishedError
from finercam_clip.paths import entries, is_file, is_folder, opened, read_bytes, reason, stays_inside, text_of

TAR = ".tar"
_HUGGING_FACE = ("dataset_info.json", "state.json")  # what `save_to_disk` writes
_TARGETS = (".cls", ".txt", ".json")  # beside the image, under the same key
_MOST_TARGET = 1 << 20  # bytes of a target

Bytes = Callable[[], bytes]


# ----------------------------------------------------------------------------------------------------------- WebDataset


def is_tars(path: Path) -> bool:
    """Whether a path is a tar, or a folder of tars and no images."""
    if path.suffix.lower() == TAR:
        return is_file(path)
    if not is_folder(path):
        return False
    endings = {Path(entry.name).suffix.lower() for entry in entries(path) if not entry.name.startswith(".")}
    return TAR in endings and "" not in endings and not endings.intersection(IMAGE_ENDINGS)


def open_tars(source: Path) -> DataSet:
    """A WebDataset: tars whose members with one key (the name up to its first dot) are one sample.

    The target is what stands beside the image: a text (.txt), a class (.cls: a name or an index), or "target", "class",
    "label" or "caption" of a .json.

    Raises:
        InputError: A tar is damaged, or is compressed, so that no image in it could be read by itself.
    """
    tars = [source] if is_file(source) else [Path(e.path) for e in entries(source) if e.name.lower().endswith(TAR)]
    items = [item for tar in tars for item in _samples(tar)]
    classes = tuple(sorted({item.target for item in items if item.target is not None}))
    return DataSet(source, f"{len(tars)} tars", tuple(items), classes)


def _samples(tar: Path) -> Iterator[Item]:
    image: tuple[str, int, int] | None = None  # name, first byte, how many
    target: str | None = None
    key = None
    for name, begin, size in [*_members(tar), ("", 0, 0)]:
        folder, _, last = name.rpartition("/")
        stem, dot, ending = last.partition(".")
        own = f"{folder}/{stem}"
        if own != key:
            if image is not None:
                yield Item(
                    tar,
                    f"{text_of(tar.name)}/{text_of(image[0])}",
                    target,
                    data=partial(_slice, tar, *image[1:]),
                    file="",
                )
            key, image, target = own, None, None
        if f".{ending.lower()}" in IMAGE_ENDINGS or PurePosixPath(ending.lower()).suffix in IMAGE_ENDINGS:
            image = image or (name, begin, size)
        elif dot and f".{ending.lower()}" in _TARGETS and size <= _MOST_TARGET:
            target = _target(f".{ending.lower()}", _slice(tar, begin, size)) or target


def _members(tar: Path) -> list[tuple[str, int, int]]:
    """(name, first byte, bytes) of each file in a tar, in its order."""
    try:
        with opened(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            return [(m.name, m.offset_data, m.size) for m in archive if m.isreg() and stays_inside(m.name)]
    except (tarfile.TarError, OSError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{tar} cannot be read as a tar ({reason(error)}); a compressed one has to be unpacked"
        ) from error


def _slice(path: Path, begin: int, size: int) -> bytes:
    """Some bytes of a file. Raises InputError where they are not there."""
    with opened(path) as file:
        try:
            file.seek(begin)
            data = file.read(size)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {reason(error)}") from error
    if len(data) < size:
        raise InputError(f"{path} is cut short")
    return data


def _target(ending: str, data: bytes) -> str | None:
    """What the file beside an image says of it."""
    text = data.decode("utf-8", "replace").strip()
    if ending != ".json":
        return text or None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    values = [fields.get(name) for name in ("target", "class", "label", "caption")] if isinstance(fields, dict) else []
    return next((str(value) for value in values if isinstance(value, (str, int)) and str(value)), None)


# --------------------------------------------------------------------------------------------------------- Hugging Face


def is_hugging_face(path: Path) -> bool:
    """Whether a folder is what `datasets.Dataset.save_to_disk` writes, or holds such folders, one per split."""
    if not is_folder(path):
        return False
    return is_file(path / "dataset_dict.json") or all(is_file(path / name) for name in _HUGGING_FACE)


def open_hugging_face(source: Path) -> DataSet:
    """A data set on disk of Hugging Face's `datasets`, with a column of images and perhaps one of labels.

    Raises:
        InputError: The package is not there, or the data set has no images.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{source} needs Hugging Face's datasets: pip install 'finercam_clip[datasets]'") from error
    try:
        loaded = datasets.load_from_disk(str(source))
    except Exception as error:  # it has a dozen
        raise InputError(f"{source} cannot be read as a data set of Hugging Face: {reason(error)}") from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    items: list[Item] = []
    classes: dict[str, None] = {}
    for split, rows in splits.items():
        items += _rows(datasets, source, split, rows, classes)
    return DataSet(source, "data set of Hugging Face", tuple(items), tuple(classes))


def _rows(datasets: Any, source: Path, split: str, rows: Any, classes: dict[str, None]) -> Iterator[Item]:
    features = rows.features
    column = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise InputError(f"{source} has no column of images; its columns are {', '.join(features)}")
    raw = rows.cast_column(column, datasets.Image(decode=False))
    label = next((name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)
    if label is not None:
        classes.update(dict.fromkeys(features[label].names))
    labels = rows[label] if label is not None else None
    prefix = f"{split}/" if split else ""
    for i in range(len(rows)):
        known = labels is not None and labels[i] is not None and labels[i] >= 0
        target = features[label].int2str(labels[i]) if known and labels is not None else None
        yield Item(source, f"{prefix}{i:08}", target, split=split, data=partial(_row, raw, column, i), file="")


def _row(rows: Any, column: str, number: int) -> bytes:
    """The bytes of an image in a table, or of the file that it names."""
    value = rows[number][column] or {}
    if value.get("bytes"):
        return bytes(value["bytes"])
    if not value.get("path"):
        raise InputError(f"row {number} has no image")
    return read_bytes(value["path"])


# -------------------------------------------------------------------------------------------------------- object stores


def open_address(address: str) -> DataSet:
    """The images below an address of an object store (s3://bucket/photos), by class where they lie in folders.

    Raises:
        InputError: It cannot be reached, or holds no images.
    """
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(address)
        names = sorted(str(path) for path in system.find(root))
    except Exception as error:  # each store has its own, and ImportError
        raise InputError(f"{address} cannot be reached: {reason(error)}") from error
    root, place = str(root).rstrip("/"), Path(address)
    items = []
    for path in names:
        name = path.removeprefix(root).lstrip("/")
        if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS and stays_inside(name):
            target = name.split("/")[0] if "/" in name else None
            items.append(Item(place, name, target, data=partial(_object, system, path, name), file=name))
    if not items:
        raise InputError(f"{address} holds no images")
    classes = tuple(sorted({item.target for item in items if item.target is not None}))
    return DataSet(place, "images in an object store", tuple(items), classes, above=place, address=address)


def _object(system: Any, path: str, name: str) -> bytes:
    """An image in a store. One that is gone is the image's own trouble, any other error the store's."""
    try:
        return bytes(system.cat_file(path))
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such object") from error
    except Exception as error:  # each store has its own
        raise UnfinishedError(f"{name} cannot be read: {reason(error)}; is the store there?") from error
