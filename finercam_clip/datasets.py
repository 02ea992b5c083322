"""Data sets: folders and files become a list of images, each with the question about it.

Only `check` decodes images.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from finercam_clip import progress
from finercam_clip.concepts.vocabulary import SPLITS
from finercam_clip.errors import InputError
from finercam_clip.images import read_image

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SEPARATOR = "|"  # between contrasts in one field of a CSV file
CUB = "CUB-200-2011"  # Wah et al., 2011
_CUB_FILES = ("images.txt", "classes.txt", "image_class_labels.txt")

DOWNLOADS = {
    "Stanford Cars": "kaggle datasets download -d jutrera/stanford-car-dataset-by-classes-folder --unzip",
    CUB: "curl -L https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz | tar xz",
}


@dataclass(frozen=True)
class Item:
    """One image and its question.

    Attributes:
        path: The image file.
        name: The image's name within its data set: unique, its folders separated by "/".
        target: A class or a concept; None if the data set does not say.
        contrasts: What to compare with; None if they are to be chosen.
        split: "train", "test" and the like; "" if there are no splits.
    """

    path: Path
    name: str
    target: str | None = None
    contrasts: tuple[str, ...] | None = None
    split: str = ""


@dataclass(frozen=True)
class DataSet:
    """Images, their questions, and what else is known about them.

    Attributes:
        source: The folder or the file that was opened.
        kind: What kind of data set it is, in words.
        items: The images.
        classes: The names of the classes in the order in which classifiers' heads have them; empty if there are none.
        parts: Of CUB-200-2011: image name -> part -> (x, y) in pixels, visible parts only.
        attributes: Of CUB-200-2011: image name -> the attributes that it has.
    """

    source: Path
    kind: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    parts: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder that image names are relative to."""
        return self.source if self.source.is_dir() else self.source.parent

    def split(self, name: str | None) -> DataSet:
        """The same data set with the images of one split only.

        Args:
            name: The split; None keeps all images.

        Raises:
            InputError: There is no such split.
        """
        if name is None:
            return self
        items = tuple(item for item in self.items if item.split == name)
        if not items:
            splits = ", ".join(sorted({item.split for item in self.items if item.split})) or "none"
            raise InputError(f"{self.source} has no split '{name}'; its splits: {splits}")
        return replace(self, items=items)


def open_dataset(source: str | Path) -> DataSet:
    """Opens the data set in a folder or a file.

    * CUB-200-2011 in its original layout: images.txt, classes.txt, image_class_labels.txt, parts/, attributes/.
    * A folder of images by class, `<class>/<id>.jpg`, optionally split into `train`, `test`, `valid` or `val` (Stanford
      Cars).
    * A folder of images without classes.
    * A CSV file with the columns image, target and, optionally, contrasts (several are separated by "|").
    * A list file with one image per line. The name of an image's folder is its class.

    Args:
        source: The folder or the file.

    Raises:
        InputError: There is no such data set. The message has the commands that download the known ones.
    """
    path = Path(source)
    if path.is_dir():
        inner = path / "CUB_200_2011"
        root = inner if (inner / "images.txt").is_file() else path
        dataset = _cub(root) if all((root / name).is_file() for name in _CUB_FILES) else _folder(path)
    elif path.is_file():
        dataset = _table(path) if path.suffix.lower() == ".csv" else _list(path)
    else:
        raise InputError(f"{path}: no such folder or file. {_download_hint()}")
    if not dataset.items:
        raise InputError(f"{path} holds no images ({', '.join(IMAGE_ENDINGS)}). {_download_hint()}")
    return dataset


def _download_hint() -> str:
    return "To download: " + "; ".join(f"{name}: {command}" for name, command in DOWNLOADS.items())


def _images(folder: Path) -> list[Path]:
    """Every image file at any depth, sorted by its path. Hidden files and folders are left out."""
    paths = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(root) / name
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_ENDINGS
        ]
    return sorted(paths, key=lambda path: path.as_posix())


def _folder(root: Path) -> DataSet:
    splits = [name for name in SPLITS if (root / name).is_dir()]
    places = [(name, root / name) for name in splits] or [("", root)]
    items: list[Item] = []
    classes: set[str] = set()
    for split, place in places:
        classes |= {path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")}
        for path in _images(place):
            inside = path.relative_to(place)
            target = inside.parts[0] if len(inside.parts) > 1 else None
            items.append(Item(path, path.relative_to(root).as_posix(), target, split=split))
    kind = "images by class" if classes else "images without classes"
    if splits:
        kind += f", splits {', '.join(splits)}"
    return DataSet(root, kind, tuple(items), tuple(sorted(classes)))


def _cub(root: Path) -> DataSet:
    """CUB-200-2011 (Wah et al., 2011). The rows of its files are "<number> <value>"; images lie under images/."""
    names = _numbered(root / "images.txt")
    classes = _numbered(root / "classes.txt")
    labels = _numbered(root / "image_class_labels.txt")
    train = _numbered(root / "train_test_split.txt") if (root / "train_test_split.txt").is_file() else {}
    items = []
    for number, name in names.items():
        label = classes.get(labels.get(number, ""))
        if label is None:
            raise InputError(f"{root / 'image_class_labels.txt'} has no class for image {number} ({name})")
        split = {"1": "train", "0": "test"}.get(train.get(number, ""), "")
        items.append(Item(root / "images" / name, name, label, split=split))
    return DataSet(
        root,
        CUB,
        tuple(items),
        tuple(classes.values()),
        _cub_parts(root / "parts", names),
        _cub_attributes(root, names),
    )


def _cub_parts(folder: Path, names: dict[str, str]) -> dict[str, dict[str, tuple[float, float]]]:
    if not (folder / "part_locs.txt").is_file() or not (folder / "parts.txt").is_file():
        return {}
    parts = _numbered(folder / "parts.txt")
    visible_parts: dict[str, dict[str, tuple[float, float]]] = {}
    for row in _rows(folder / "part_locs.txt", 5):
        image, part, x, y, visible = row[:5]
        if visible == "1" and image in names:
            visible_parts.setdefault(names[image], {})[parts[part]] = (float(x), float(y))
    return visible_parts


def _cub_attributes(root: Path, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    labels = root / "attributes" / "image_attribute_labels.txt"
    # The archive has the list of attributes beside its folder, not in it.
    places = [folder / "attributes.txt" for folder in (root, root.parent, root / "attributes")]
    lists = [path for path in places if path.is_file()]
    if not labels.is_file() or not lists:
        return {}
    attributes = _numbered(lists[0])
    present: dict[str, list[str]] = {}
    for row in _rows(labels, 3):  # some rows of the original have columns too many
        if row[2] == "1" and row[0] in names:
            present.setdefault(names[row[0]], []).append(attributes[row[1]])
    return {name: tuple(values) for name, values in present.items()}


def _numbered(path: Path) -> dict[str, str]:
    """The rows "<number> <value>" of a file: number -> value."""
    return {row[0]: " ".join(row[1:]) for row in _rows(path, 2)}


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    """The words of each line that is not empty, at least `columns` of them."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        row = line.split()
        if row and len(row) < columns:
            raise InputError(f"{path}, line {number}: '{line[:60]}' has fewer than {columns} columns")
        if row:
            yield row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _list(path: Path) -> DataSet:
    lines = [line.strip() for line in _text(path).splitlines()]
    items = []
    for line in lines:
        if line and not line.startswith("#"):
            image = _beside(path, line)
            items.append(Item(image, _inside(path, image), image.parent.name or None))
    classes = sorted({item.target for item in items if item.target})
    return DataSet(path, "list of images", _distinct(items), tuple(classes))


def _table(path: Path) -> DataSet:
    reader = csv.DictReader(io.StringIO(_text(path)))
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    if not {"image", "target"} <= set(columns):
        raise InputError(
            f"{path}: the first line of a CSV file names its columns, image,target,contrasts; not {columns}"
        )
    reader.fieldnames = columns
    items = []
    for row in reader:
        name, target = (row["image"] or "").strip(), (row["target"] or "").strip()
        if not name or not target:
            raise InputError(f"{path}, line {reader.line_num}: every row needs an image and a target")
        texts = [text.strip() for text in (row.get("contrasts") or "").split(SEPARATOR)]
        contrasts = tuple(text for text in texts if text)
        image = _beside(path, name)
        items.append(Item(image, _inside(path, image), target, contrasts or None))
    return DataSet(path, "table of questions", _distinct(items), tuple(sorted({str(item.target) for item in items})))


def _beside(path: Path, name: str) -> Path:
    """A file that a list names: relative to the list or, if it is not there, to the working folder."""
    near = path.parent / name
    return Path(name) if not near.exists() and Path(name).exists() else near


def _inside(path: Path, image: Path) -> str:
    """The image's name within its data set: its path from the list's folder, or its last two parts."""
    try:
        return image.resolve().relative_to(path.parent.resolve()).as_posix()
    except ValueError:
        return "/".join(image.parts[-2:]).replace("..", "_").lstrip("/")


def _distinct(items: list[Item]) -> tuple[Item, ...]:
    """The items with unique names: further questions about an image have "~2", "~3" and so on behind its name."""
    counts: Counter[str] = Counter()
    renamed = []
    for item in items:
        counts[item.name] += 1
        number = counts[item.name]
        renamed.append(replace(item, name=f"{item.name}~{number}") if number > 1 else item)
    return tuple(renamed)


@dataclass(frozen=True)
class Report:
    """What is in a data set, and what is wrong with it.

    Attributes:
        dataset: The data set.
        missing: The names of images whose files do not exist.
        unreadable: Image name -> why it cannot be read.
        empty: The classes without images.
    """

    dataset: DataSet
    missing: tuple[str, ...]
    unreadable: dict[str, str]
    empty: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missing or self.unreadable or self.empty)

    def lines(self, limit: int = 20) -> list[str]:
        """The report, for people.

        Args:
            limit: How many names of each kind of trouble to show at most.
        """
        dataset, items = self.dataset, self.dataset.items
        sizes = Counter(item.target for item in items if item.target is not None)
        lines = [f"{dataset.source}: {dataset.kind}", f"images       {len(items):,}"]
        splits = Counter(item.split for item in items if item.split)
        lines += [f"  {name:10} {count:,}" for name, count in splits.items()]
        if dataset.classes:
            smallest, largest = (min(sizes.values()), max(sizes.values())) if sizes else (0, 0)
            lines.append(f"classes      {len(dataset.classes):,}, {smallest} to {largest} images each")
        if dataset.kind == CUB:
            for name, images in (("parts", dataset.parts), ("attributes", dataset.attributes)):
                lines.append(f"{name:12} " + (f"of {len(images):,} images" if images else "not there"))
        for title, names in (
            ("missing", self.missing),
            ("unreadable", [f"{name}: {why}" for name, why in self.unreadable.items()]),
            ("empty class", self.empty),
        ):
            lines += [f"{title:12} {name}" for name in names[:limit]]
            lines += [f"{title:12} and {len(names) - limit:,} more"] if len(names) > limit else []
        if not self.complete:
            commands = {CUB: DOWNLOADS[CUB]} if dataset.kind == CUB else DOWNLOADS
            lines += [f"download     {name}: {command}" for name, command in commands.items()]
        lines.append("complete" if self.complete else "not complete")
        return lines


def check(dataset: DataSet) -> Report:
    """Decodes every image of a data set and reports what is missing or cannot be read."""
    missing, unreadable = [], {}
    for item in progress.each(dataset.items, "checking"):
        if not item.path.is_file():
            missing.append(item.name)
            continue
        try:
            read_image(item.path)
        except InputError as error:
            unreadable[item.name] = str(error).removeprefix(f"{item.path} ").removeprefix(f"{item.path}: ")
    used = {item.target for item in dataset.items}
    return Report(dataset, tuple(missing), unreadable, tuple(name for name in dataset.classes if name not in used))
