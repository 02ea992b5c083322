"""List files and CSV files of questions. Every row is read as it is meant, or refused with the number of its line."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from finercam_clip.datasets.items import DataSet, Item
from finercam_clip.errors import InputError, did_you_mean, shown
from finercam_clip.paths import from_text, look_or_none, read_text, resolved, text_of
from finercam_clip.tables import undefused

SEPARATOR = "|"  # between contrasts in one field of a CSV file
_HERE = Path()  # what the paths of a list's images are relative to
_COLUMNS = ("image", "target", "contrasts")


def open_list(path: Path) -> DataSet:
    """A file with one image per line. The name of an image's folder is its class.

    Raises:
        InputError: It is no text, or a line is no path.
    """
    items = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name = line.strip()
        if name and not name.startswith("#"):
            image = _beside(path, name, number)
            target = sys.intern(text_of(image.parent.name)) or None
            items.append(Item(_HERE, _inside(path, image), target, file=str(image)))
    classes = sorted({item.target for item in items if item.target})
    return DataSet(path, "list of images", _distinct(items), tuple(classes), above=_above(path, items))


def open_table(path: Path) -> DataSet:
    """A CSV file of questions. Columns of other names are for the user.

    Raises:
        InputError: A row is not what its columns say, has no image or target, or lacks the quote that closes a field.
    """
    rows = rows_of(path)
    _, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    if not {"image", "target"} <= set(columns):
        raise InputError(
            f"{path}: the first line of a CSV file names its columns, image,target,contrasts; not {shown(header)}"
        )
    for name in set(columns):
        meant = "" if name in _COLUMNS or not name else did_you_mean(name, _COLUMNS, cutoff=0.8)
        if meant or (name in _COLUMNS and columns.count(name) > 1):
            raise InputError(f"{path}: the column '{name}' {'is not known' if meant else 'is there twice'}{meant}")
    items = []
    for line, row in rows:
        if any(field.strip() for field in row[len(columns) :]):
            raise InputError(
                f"{path}, line {line}: {len(row)} fields for {len(columns)} columns; put a text with commas in quotes"
            )
        fields = {name: field.strip() for name, field in zip(columns, row, strict=False) if name in _COLUMNS}
        name, target = fields.get("image", ""), fields.get("target", "")
        if not name or not target:
            raise InputError(f"{path}, line {line}: every row needs an image and a target")
        contrasts = tuple(text.strip() for text in fields.get("contrasts", "").split(SEPARATOR) if text.strip())
        image = _beside(path, name, line)
        if look_or_none(image) is None and undefused(name) != name:
            image = _beside(path, undefused(name), line)
        items.append(Item(_HERE, _inside(path, image), sys.intern(target), contrasts or None, file=str(image)))
    classes = tuple(sorted({str(item.target) for item in items}))
    return DataSet(path, "table of questions", _distinct(items), classes, above=_above(path, items))


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row that is not empty, with the number of its line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quote is not closed" if "end of data" in str(error) else str(error)
            raise InputError(f"{path}, line {line}: {why}") from error
        if any("\n" in field or "\r" in field for field in row):
            raise InputError(
                f"{path}, line {line}: a field goes on to line {reader.line_num}; is the quote that closes it missing?"
            )
        if row:
            yield line, row


def _beside(path: Path, name: str, line: int) -> Path:
    """A file that a list names: relative to the list or, if it is not there, to the working folder."""
    if "\0" in name:
        raise InputError(f"{path}, line {line}: {shown(name)} holds a zero byte, which no path has")
    near, here = path.parent / from_text(name), Path(from_text(name))
    return here if look_or_none(near) is None and look_or_none(here) is not None else near


def _inside(path: Path, image: Path) -> str:
    """The image's name within its data set: its path from the list's folder, or its last two parts."""
    try:
        return text_of(resolved(image).relative_to(resolved(path.parent)).as_posix())
    except (ValueError, InputError):
        return text_of("/".join(part for part in image.parts[-2:] if part not in ("..", image.anchor))) or "image"


def _above(path: Path, items: list[Item]) -> Path | None:
    """The folder that holds the list and every image, where that is not the list's own."""
    folder = resolved(path.parent)
    folders = {folder}
    for place in {item.path.parent for item in items}:
        with suppress(InputError):  # reading the image will tell
            folders.add(resolved(place))
    try:
        above = Path(os.path.commonpath(folders))
    except ValueError:  # Windows has no folder above its drives
        return None
    return None if above == folder else above


def _distinct(items: list[Item]) -> tuple[Item, ...]:
    """The items with unique names: further questions about an image have "~2", "~3" and so on behind its name."""
    own = {item.name for item in items}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    renamed = []
    for item in items:
        name = item.name
        while name in taken or (name != item.name and name in own):
            counts[item.name] = counts.get(item.name, 1) + 1
            name = f"{item.name}~{counts[item.name]}"
        taken.add(name)
        renamed.append(item if name == item.name else replace(item, name=name))
    return tuple(renamed)
