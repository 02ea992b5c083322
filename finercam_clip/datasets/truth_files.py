"""The files that truth comes in: CUB-200-2011's own, COCO's JSON, a folder of masks, a CSV file of points."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from finercam_clip.checks import number_in
from finercam_clip.datasets.cub import CUB, attribute_list, numbered
from finercam_clip.datasets.items import DataSet
from finercam_clip.datasets.truth import Box, Distributions, Point, Region, Truth
from finercam_clip.errors import InputError, shown
from finercam_clip.paths import entries, is_file, is_folder, look, place, read_text

_COCO = ("annotations.json", "_annotations.coco.json")
_POINTS, _MASKS = "points.csv", "masks"
_TABLE = "class_attribute_labels_continuous.txt"
PART_OF = {  # CUB's groups of attributes -> the part that they are about; the others are about the whole bird
    "bill_shape": "beak",
    "bill_length": "beak",
    "bill_color": "beak",
    "wing_color": "wing",
    "wing_shape": "wing",
    "wing_pattern": "wing",
    "breast_pattern": "breast",
    "breast_color": "breast",
    "back_color": "back",
    "back_pattern": "back",
    "tail_shape": "tail",
    "tail_pattern": "tail",
    "upper_tail_color": "tail",
    "under_tail_color": "tail",
    "throat_color": "throat",
    "eye_color": "eye",
    "forehead_color": "forehead",
    "nape_color": "nape",
    "belly_color": "belly",
    "belly_pattern": "belly",
    "leg_color": "leg",
    "crown_color": "crown",
}


def find_truth(dataset: DataSet, source: str | Path | None = None) -> Truth:
    """What is known about where the targets are.

    Args:
        dataset: All images, before a split is taken.
        source: A JSON file of COCO, a folder of masks, or a CSV file of points. By default what lies beside the images:
            CUB-200-2011's own files, annotations.json, points.csv, or the folder masks beside the images' own.

    Raises:
        InputError: A file cannot be used, or is about none of the images.
    """
    if source is not None:
        return _read(dataset, place(source, "the truth"))
    truth = _cub(dataset) if dataset.kind == CUB else Truth()
    root = dataset.root
    beside = [*(root / name for name in _COCO), root.parent / _COCO[0], root / _POINTS]
    masks = root.parent / _MASKS
    for path in [*(path for path in beside if is_file(path)), *([masks] if is_folder(masks) and masks != root else [])]:
        truth |= _read(dataset, path)
    return truth


def _read(dataset: DataSet, path: Path) -> Truth:
    if look(path) is None:
        raise InputError(f"{path}: there is no such file or folder of truth")
    if is_folder(path):
        return _masks(dataset, path)
    if path.suffix.lower() == ".json":
        return _coco(dataset, path)
    if path.suffix.lower() == ".csv":
        return _points(dataset, path)
    raise InputError(f"{path}: truth is a JSON file of COCO, a folder of masks, or a CSV file of points")


class _Names:
    """The images of a data set by what files of truth call them: by name, or by the last part where that is unique."""

    def __init__(self, dataset: DataSet) -> None:
        self.names = {item.name: item for item in dataset.items}
        self.last = _unique(self.names, lambda name: PurePosixPath(name).name)
        self.stem = _unique(self.names, lambda name: PurePosixPath(name).stem)

    def named(self, text: str) -> str | None:
        """The image's name in the data set."""
        if text in self.names:
            return text
        tail = "/" + text.lstrip("./")
        longer = [name for name in (self.last.get(PurePosixPath(text).name),) if name is not None]
        return next((name for name in longer if f"/{name}".endswith(tail) or tail.endswith(f"/{name}")), None)


def _unique(names: Any, key: Any) -> dict[str, str]:
    counts = Counter(key(name) for name in names)
    return {key(name): name for name in names if counts[key(name)] == 1}


# ------------------------------------------------------------------------------------------------------ CUB-200-2011


def _cub(dataset: DataSet) -> Truth:
    truth = Truth()
    boxes = _cub_boxes(dataset)
    if boxes:
        truth |= Truth((f"boxes of {len(boxes):,} images",), regions=boxes)
    if dataset.parts:
        points = {name: _merged(parts) for name, parts in dataset.parts.items()}
        names = sorted({part for parts in points.values() for part in parts})
        truth |= Truth((f"points of {len(names)} parts of {len(points):,} images: {', '.join(names)}",), points=points)
    classes = _cub_classes(dataset)
    if classes:
        groups = len(next(iter(classes.values())))
        truth |= Truth((f"attributes of {len(classes):,} classes, by {groups} parts",), classes=classes)
    return truth


def _merged(parts: dict[str, tuple[float, float]]) -> dict[str, tuple[Point, ...]]:
    """Left and right are points of one part."""
    merged: dict[str, tuple[Point, ...]] = {}
    for name, point in parts.items():
        part = name.removeprefix("left ").removeprefix("right ")
        merged[part] = (*merged.get(part, ()), point)
    return merged


def _cub_boxes(dataset: DataSet) -> dict[str, Region]:
    path = dataset.root / "bounding_boxes.txt"
    if not is_file(path):
        return {}
    numbers = numbered(dataset.root / "images.txt")
    names = _Names(dataset)
    regions = {}
    for image, text in numbered(path).items():
        box = [_number(word, f"{path}, image {image}") for word in text.split()]
        if len(box) != 4:
            raise InputError(f"{path}: image {image} has {len(box)} numbers; a box has x, y, width and height")
        if image not in numbers:
            raise InputError(f"{path}: there is no image {image} in images.txt")
        name = names.named(numbers[image])
        if name is not None:
            regions[name] = Region(boxes=((box[0], box[1], box[0] + box[2], box[1] + box[3]),))
    return regions


def _cub_classes(dataset: DataSet) -> dict[str, dict[str, Distributions]]:
    classes: dict[str, dict[str, Distributions]] = {}
    for name, groups in class_values(dataset).items():
        parts: dict[str, Distributions] = {}
        for group, shares in groups.items():
            if group in PART_OF:
                part = PART_OF[group]
                parts[part] = (*parts.get(part, ()), np.array(list(shares.values())))
        classes[name] = parts
    return classes


def class_values(dataset: DataSet) -> dict[str, dict[str, dict[str, float]]]:
    """What the classes of CUB-200-2011 look like: class -> group of attributes -> value -> its share of the group.

    Shares sum to 1, or are all 0 where nobody has said anything. Empty where the data set has no such table.

    Raises:
        InputError: The table does not fit the classes, or the list of attributes.
    """
    path = dataset.root / "attributes" / _TABLE
    listed = attribute_list(dataset.root)
    if not is_file(path) or listed is None:
        return {}
    columns = [name.removeprefix("has_").partition("::") for name in numbered(listed).values()]
    rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if len(rows) != len(dataset.classes):
        raise InputError(f"{path} has {len(rows)} rows for {len(dataset.classes)} classes")
    classes = {}
    for number, (name, words) in enumerate(zip(dataset.classes, rows, strict=True), 1):
        if len(words) != len(columns):
            raise InputError(f"{path}, line {number}: {len(words)} columns for another number of attributes")
        groups: dict[str, dict[str, float]] = {}
        for (group, _, value), word in zip(columns, words, strict=True):
            groups.setdefault(group, {})[value] = _number(word, f"{path}, line {number}")
        totals = {group: sum(values.values()) or 1.0 for group, values in groups.items()}
        classes[name] = {g: {v: n / totals[g] for v, n in values.items()} for g, values in groups.items()}
    return classes


def _number(word: str, where: str) -> float:
    value = number_in(word)
    if value is None:
        raise InputError(f"{where}: {shown(word)} is no number")
    return value


# --------------------------------------------------------------------------------------------------------------- COCO


def _coco(dataset: DataSet, path: Path) -> Truth:
    """Boxes, polygons and run lengths. Where categories are the data set's classes, an image's own only."""
    try:
        content = json.loads(read_text(path))
        images = {image["id"]: image for image in content["images"]}
        annotations = list(content["annotations"])
        categories = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file of COCO, with images and annotations: {error}") from error
    names, known = _Names(dataset), {_plain(name) for name in categories.values()}
    regions: dict[str, Region] = {}
    for number, annotation in enumerate(annotations, 1):
        where = f"{path}, annotation {number}"
        if not isinstance(annotation, dict) or annotation.get("image_id") not in images:
            raise InputError(f"{where}: there is no image {shown(annotation)}")
        image = images[annotation["image_id"]]
        name = names.named(str(image.get("file_name", "")))
        if name is None:
            continue
        target = _plain(names.names[name].target or "")
        if target in known and _plain(categories.get(annotation.get("category_id"), "")) != target:
            continue
        region = regions.get(name, Region(size=_size(image)))
        regions[name] = _with(region, annotation, where)
    if not regions:
        raise InputError(f"{path} is about none of the {len(dataset.items):,} images of {dataset.source}")
    kinds = {"boxes": "boxes", "shapes": "shapes"}
    found = " and ".join(word for key, word in kinds.items() if any(getattr(r, key) for r in regions.values()))
    return Truth((f"{found} of {len(regions):,} images (COCO, {path.name})",), regions=regions)


def _with(region: Region, annotation: dict[str, Any], where: str) -> Region:
    """The region with one more annotation: its shape, or its box where it has none."""
    shape, box = annotation.get("segmentation"), annotation.get("bbox")
    if shape:
        return replace(region, shapes=(*region.shapes, shape))
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(f"{where} has neither a segmentation nor a box of four numbers")
    x, y, width, height = (_number(str(value), where) for value in box)
    added: Box = (x, y, x + width, y + height)
    return replace(region, boxes=(*region.boxes, added))


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


# ---------------------------------------------------------------------------------------------------- masks and points


def _masks(dataset: DataSet, folder: Path) -> Truth:
    """PNG files called as the images are, in the same folders or in one."""
    names = _Names(dataset)
    regions = {}
    for path in _pictures(folder):
        inner = path.relative_to(folder).with_suffix("").as_posix()
        same = [name for name in names.names if PurePosixPath(name).with_suffix("").as_posix() == inner]
        name = same[0] if same else names.stem.get(path.stem)
        if name is not None:
            regions[name] = Region(file=path)
    if not regions:
        raise InputError(f"{folder} has no mask (a PNG file of the same name) for any image of {dataset.source}")
    return Truth((f"masks of {len(regions):,} images ({folder.name})",), regions=regions)


def _pictures(folder: Path) -> list[Path]:
    found: list[Path] = []
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False):
            found += _pictures(Path(entry.path))
        elif entry.name.lower().endswith(".png"):
            found.append(Path(entry.path))
    return found


def _points(dataset: DataSet, path: Path) -> Truth:
    """Columns image, part, x, y and, optionally, visible (0 or 1)."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    if not {"image", "part", "x", "y"} <= set(columns):
        raise InputError(f"{path}: the first line of a CSV file of points names its columns, image,part,x,y")
    reader.fieldnames = columns
    names = _Names(dataset)
    points: dict[str, dict[str, tuple[Point, ...]]] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        name = names.named((row["image"] or "").strip())
        if name is None:
            raise InputError(f"{where}: there is no image {shown(row['image'])} in {dataset.source}")
        if (row.get("visible") or "1").strip() == "0":
            continue
        part = (row["part"] or "").strip()
        point = (_number(row["x"] or "", where), _number(row["y"] or "", where))
        places = points.setdefault(name, {})
        places[part] = (*places.get(part, ()), point)
    if not points:
        raise InputError(f"{path} has no visible point")
    parts = {part for places in points.values() for part in places}
    return Truth((f"points of {len(parts)} parts of {len(points):,} images ({path.name})",), points=points)
