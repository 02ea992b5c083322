"""Data sets: folders and files to a list of images, each with what is to be asked about it. Nothing is decoded here,
but by `check`."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from finercam_clip.errors import InputError
from finercam_clip.images import read_image

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SPLITS = ("train", "test", "valid", "val")
SEPARATOR = "|"  # between contrasts in one field of a CSV file
_CUB = ("images.txt", "classes.txt", "image_class_labels.txt")

DOWNLOADS = {
    "Stanford Cars": "kaggle datasets download -d jutrera/stanford-car-dataset-by-classes-folder --unzip",
    "CUB-200-2011": "curl -L https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz | tar xz",
}


@dataclass(frozen=True)
class Item:
    """One image and its question. name: of the image within its data set, unique, with "/"; target: a class or a
    concept, or None; contrasts: None, to be chosen; split: "train", "test", ... or ""."""

    path: Path
    name: str
    target: str | None = None
    contrasts: tuple[str, ...] | None = None
    split: str = ""


@dataclass(frozen=True)
class DataSet:
    """kind: for people; classes: names in the order that heads have them, empty where there are none; parts: of
    CUB-200-2011, image name -> {part: (x, y)} of those visible; attributes: image name -> those present."""

    source: Path
    kind: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    parts: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder that its images are found from."""
        return self.source if self.source.is_dir() else self.source.parent

    def split(self, name: str | None) -> DataSet:
        """Only the images of one split; None is all of them. Raises InputError if it has no such split."""
        if name is None:
            return self
        items = tuple(item for item in self.items if item.split == name)
        if not items:
            found = ", ".join(sorted({item.split for item in self.items if item.split})) or "none"
            raise InputError(f"{self.source} has no split '{name}'; its splits: {found}")
        return replace(self, items=items)


def open_dataset(source: str | Path) -> DataSet:
    """The data set in a folder or a file:

    * CUB-200-2011 as it comes: images.txt, classes.txt, image_class_labels.txt, parts/, attributes/;
    * a folder of images by class, `<class>/<id>.jpg`, perhaps under `train`, `test`, `valid` or `val` (Stanford Cars);
    * a folder of images without classes;
    * a CSV file with the columns image, target, contrasts (several separated by "|"; the last may be left out);
    * a list file, one image a line, whose class is its folder's name.

    Raises:
        InputError: there is nothing of the kind; the message has the commands that download the known data sets.
    """
    path = Path(source)
    if path.is_dir():
        inner = path / "CUB_200_2011"
        root = inner if (inner / "images.txt").is_file() else path
        found = _cub(root) if all((root / name).is_file() for name in _CUB) else _folder(path)
    elif path.is_file():
        found = _table(path) if path.suffix.lower() == ".csv" else _list(path)
    else:
        raise InputError(f"{path}: no such folder or file. {_download_hint()}")
    if not found.items:
        raise InputError(f"{path} holds no images ({', '.join(IMAGE_ENDINGS)}). {_download_hint()}")
    return found


def _download_hint() -> str:
    return "To download: " + "; ".join(f"{name}: {command}" for name, command in DOWNLOADS.items())


def _images(folder: Path) -> list[Path]:
    """Every image file at any depth, sorted by its path; nothing hidden."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(root) / name
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_ENDINGS
        ]
    return sorted(found, key=lambda path: path.as_posix())


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
    """CUB-200-2011's own files (Wah et al., 2011): rows "<number> <value>", images under images/."""
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
        "CUB-200-2011",
        tuple(items),
        tuple(classes.values()),
        _cub_parts(root / "parts", names),
        _cub_attributes(root, names),
    )


def _cub_parts(folder: Path, names: dict[str, str]) -> dict[str, dict[str, tuple[float, float]]]:
    if not (folder / "part_locs.txt").is_file() or not (folder / "parts.txt").is_file():
        return {}
    parts = _numbered(folder / "parts.txt")
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in _rows(folder / "part_locs.txt", 5):
        image, part, x, y, visible = row[:5]
        if visible == "1" and image in names:
            found.setdefault(names[image], {})[parts[part]] = (float(x), float(y))
    return found


def _cub_attributes(root: Path, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    labels = root / "attributes" / "image_attribute_labels.txt"
    # The archive has the list of attributes beside its folder, not in it.
    listed = [path for path in (root / "attributes.txt", root.parent / "attributes.txt") if path.is_file()]
    listed += [path for path in [root / "attributes" / "attributes.txt"] if path.is_file()]
    if not labels.is_file() or not listed:
        return {}
    attributes = _numbered(listed[0])
    found: dict[str, list[str]] = {}
    for row in _rows(labels, 3):  # some rows of the original have columns too many
        if row[2] == "1" and row[0] in names:
            found.setdefault(names[row[0]], []).append(attributes[row[1]])
    return {name: tuple(present) for name, present in found.items()}


def _numbered(path: Path) -> dict[str, str]:
    return {row[0]: " ".join(row[1:]) for row in _rows(path, 2)}


def _rows(path: Path, columns: int) -> Iterable[list[str]]:
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
        given = [part.strip() for part in (row.get("contrasts") or "").split(SEPARATOR)]
        contrasts = tuple(part for part in given if part) if "contrasts" in columns else None
        image = _beside(path, name)
        items.append(Item(image, _inside(path, image), target, contrasts or None))
    return DataSet(path, "table of questions", _distinct(items), tuple(sorted({str(item.target) for item in items})))


def _beside(path: Path, name: str) -> Path:
    """A file named in a list: relative to the list, or, if it is not there, to the working folder."""
    near = path.parent / name
    return Path(name) if not near.exists() and Path(name).exists() else near


def _inside(path: Path, image: Path) -> str:
    """The image's name within its data set: its path from the list's folder, or its last two parts."""
    try:
        return image.resolve().relative_to(path.parent.resolve()).as_posix()
    except ValueError:
        return "/".join(image.parts[-2:]).replace("..", "_").lstrip("/")


def _distinct(items: list[Item]) -> tuple[Item, ...]:
    """The items, an image that is asked about again with "~2" and so on behind its name."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        seen[item.name] += 1
        again = f"~{seen[item.name]}" if seen[item.name] > 1 else ""
        found.append(replace(item, name=item.name + again))
    return tuple(found)


@dataclass(frozen=True)
class Report:
    """What is in a data set. missing: named but not there; unreadable: name -> why; empty: classes without images."""

    dataset: DataSet
    missing: tuple[str, ...]
    unreadable: dict[str, str]
    empty: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unreadable or self.empty)

    def lines(self, limit: int = 20) -> list[str]:
        """For people; at most `limit` names of each kind of trouble."""
        dataset, items = self.dataset, self.dataset.items
        sizes = Counter(item.target for item in items if item.target is not None)
        out = [f"{dataset.source}: {dataset.kind}", f"images       {len(items):,}"]
        splits = Counter(item.split for item in items if item.split)
        out += [f"  {name:10} {count:,}" for name, count in splits.items()]
        if dataset.classes:
            few, many = (min(sizes.values()), max(sizes.values())) if sizes else (0, 0)
            out.append(f"classes      {len(dataset.classes):,}, {few} to {many} images each")
        if dataset.kind == "CUB-200-2011":
            for name, held in (("parts", dataset.parts), ("attributes", dataset.attributes)):
                out.append(f"{name:12} " + (f"of {len(held):,} images" if held else "not there"))
        for title, names in (
            ("missing", self.missing),
            ("unreadable", [f"{name}: {why}" for name, why in self.unreadable.items()]),
            ("empty class", self.empty),
        ):
            out += [f"{title:12} {name}" for name in names[:limit]]
            out += [f"{title:12} and {len(names) - limit:,} more"] if len(names) > limit else []
        known = DOWNLOADS.get("CUB-200-2011" if dataset.kind == "CUB-200-2011" else "")
        if not self.complete:
            commands = {"CUB-200-2011": known} if known else DOWNLOADS
            out += [f"download     {name}: {command}" for name, command in commands.items()]
        out.append("complete" if self.complete else "not complete")
        return out


def check(dataset: DataSet, progress: Callable[[str], None] = lambda line: None) -> Report:
    """Decodes every image of a data set."""
    missing, unreadable = [], {}
    for i, item in enumerate(dataset.items):
        if i % 20 == 0:
            progress(f"image {i:,} of {len(dataset.items):,}")
        if not item.path.is_file():
            missing.append(item.name)
            continue
        try:
            read_image(item.path)
        except InputError as error:
            unreadable[item.name] = str(error).removeprefix(f"{item.path} ").removeprefix(f"{item.path}: ")
    used = {item.target for item in dataset.items}
    return Report(dataset, tuple(missing), unreadable, tuple(name for name in dataset.classes if name not in used))
