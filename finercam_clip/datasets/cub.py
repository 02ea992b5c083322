"""CUB-200-2011 (Wah et al., 2011) in its original layout. The rows of its files are "<number> <value>"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finercam_clip.checks import number_in
from finercam_clip.datasets.items import DataSet, Item
from finercam_clip.errors import InputError, shown
from finercam_clip.paths import from_text, is_file, read_text, stays_inside, text_of

CUB = "CUB-200-2011"
CUB_FILES = ("images.txt", "classes.txt", "image_class_labels.txt")

_Row = tuple[int, list[str]]  # the number of a line, and its words


def open_cub(root: Path) -> DataSet:
    """The data set in a folder that has `CUB_FILES`; images lie under images/.

    Raises:
        InputError: A line cannot be used; the message has its number.
    """
    names = _image_names(root / "images.txt")
    classes = numbered(root / "classes.txt")
    labels = numbered(root / "image_class_labels.txt")
    train = numbered(root / "train_test_split.txt") if is_file(root / "train_test_split.txt") else {}
    items, images = [], root / "images"
    for number, name in names.items():
        label = classes.get(labels.get(number, ""))
        if label is None:
            raise InputError(f"{root / 'image_class_labels.txt'} has no class for image {number} ({name})")
        split = {"1": "train", "0": "test"}.get(train.get(number, ""), "")
        items.append(Item(images, text_of(from_text(name)), label, split=split))
    return DataSet(
        root,
        CUB,
        tuple(items),
        tuple(classes.values()),
        _parts(root / "parts", names),
        _attributes(root, names),
    )


def _image_names(path: Path) -> dict[str, str]:
    """Number -> name, all of them different, and none that leads out of the folder."""
    names: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in _rows(path, 2):
        number, name = row[0], " ".join(row[1:])
        if not stays_inside(name):
            raise InputError(f"{path}, line {line}: {shown(name)} leads out of the data set's folder")
        if number in names or name in lines:
            raise InputError(f"{path}, line {line}: image {number} ({name}) is there twice")
        names[number], lines[name] = name, line
    return names


def _parts(folder: Path, names: dict[str, str]) -> dict[str, dict[str, tuple[float, float]]]:
    if not is_file(folder / "part_locs.txt") or not is_file(folder / "parts.txt"):
        return {}
    parts, path = numbered(folder / "parts.txt"), folder / "part_locs.txt"
    visible_parts: dict[str, dict[str, tuple[float, float]]] = {}
    for line, (image, part, x, y, visible, *_) in _rows(path, 5):
        if part not in parts:
            raise InputError(f"{path}, line {line}: there is no part {shown(part)} in parts.txt")
        if visible == "1" and image in names:
            place = (_coordinate(x, path, line), _coordinate(y, path, line))
            visible_parts.setdefault(text_of(from_text(names[image])), {})[parts[part]] = place
    return visible_parts


def _coordinate(word: str, path: Path, line: int) -> float:
    value = number_in(word)
    if value is None:
        raise InputError(f"{path}, line {line}: a coordinate is a number of pixels, not {shown(word)}")
    return value


def _attributes(root: Path, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    path = root / "attributes" / "image_attribute_labels.txt"
    listed = attribute_list(root)
    if not is_file(path) or listed is None:
        return {}
    attributes = numbered(listed)
    present: dict[str, list[str]] = {}
    for line, row in _rows(path, 3):  # some rows of the original have columns too many
        if row[1] not in attributes:
            raise InputError(f"{path}, line {line}: there is no attribute {shown(row[1])} in {listed.name}")
        if row[2] == "1" and row[0] in names:
            present.setdefault(text_of(from_text(names[row[0]])), []).append(attributes[row[1]])
    return {name: tuple(values) for name, values in present.items()}


def attribute_list(root: Path) -> Path | None:
    """The file with the names of the attributes. The archive has it beside its folder, not in it."""
    places = [folder / "attributes.txt" for folder in (root, root.parent, root / "attributes")]
    return next((place for place in places if is_file(place)), None)


def numbered(path: Path) -> dict[str, str]:
    """The rows "<number> <value>" of a file: number -> value."""
    values: dict[str, str] = {}
    for line, row in _rows(path, 2):
        if row[0] in values:
            raise InputError(f"{path}, line {line}: number {shown(row[0])} is there twice")
        values[row[0]] = " ".join(row[1:])
    return values


def _rows(path: Path, columns: int) -> Iterator[_Row]:
    """The words of each line that is not empty, at least `columns` of them."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        row = line.split()
        if row and len(row) < columns:
            raise InputError(f"{path}, line {number}: {shown(line)} has fewer than {columns} columns")
        if row:
            yield number, row
