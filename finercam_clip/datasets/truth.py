"""Where the target is in an image, as people have it: boxes, masks, points of parts, and what classes differ in.

`find_truth` says what lies beside a data set, or reads what it is told to. `check_truth` makes sure that it fits the
images. Nothing is computed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finercam_clip.errors import InputError
from finercam_clip.images import upright_size
from finercam_clip.paths import opened

Box = tuple[float, float, float, float]  # (x0, y0, x1, y1), pixels; x1 and y1 are where it ends
Point = tuple[float, float]  # (x, y), pixels
Distributions = tuple[NDArray[np.float64], ...]  # one per group of attributes of a part, each sums to 1

_SLACK = 2.0  # pixels by which boxes and points may lie outside: annotators clicked on the edge
_VOID = 255  # of a palette: a border that belongs to nothing (Pascal VOC)


@dataclass(frozen=True)
class Region:
    """The pixels of an image that show its target.

    Attributes:
        boxes: Each is wholly inside the region.
        shapes: As COCO has them: lists of polygons, or run lengths.
        file: A picture whose pixels are not 0 where the region is.
        size: (H, W) of the image that it was drawn for; None if that is not told.
    """

    boxes: tuple[Box, ...] = ()
    shapes: tuple[Any, ...] = ()
    file: Path | None = None
    size: tuple[int, int] | None = None

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The region's pixels in an image of (H, W) pixels, bool [H, W]."""
        mask = np.zeros(shape, np.bool_) if self.file is None else read_mask(self.file)
        for x0, y0, x1, y1 in self.boxes:
            mask[max(round(y0), 0) : max(round(y1), 0), max(round(x0), 0) : max(round(x1), 0)] = True
        for drawn in self.shapes:
            mask |= _drawn(drawn, shape)
        return mask


@dataclass(frozen=True)
class Truth:
    """What is known about where the targets of a data set are.

    Attributes:
        kinds: What was found, in words, one line each.
        regions: Image name -> where its target is.
        points: Image name -> part -> its points that are visible.
        classes: Class -> part -> what it looks like: distributions over the values of each group of attributes.
    """

    kinds: tuple[str, ...] = ()
    regions: dict[str, Region] = field(default_factory=dict)
    points: dict[str, dict[str, tuple[Point, ...]]] = field(default_factory=dict)
    classes: dict[str, dict[str, Distributions]] = field(default_factory=dict)

    def __or__(self, other: Truth) -> Truth:
        return Truth(
            (*self.kinds, *other.kinds),
            self.regions | other.regions,
            self.points | other.points,
            self.classes | other.classes,
        )

    def __bool__(self) -> bool:
        return bool(self.regions or self.points or self.classes)


def differences(one: dict[str, Distributions], other: dict[str, Distributions]) -> dict[str, float]:
    """How much two classes differ in each part, 0..1.

    It is the total variation distance of their attributes: half the sum of the absolute differences, of the part's
    group of attributes in which they differ most.
    """
    return {
        part: max(float(np.abs(p - q).sum()) / 2 for p, q in zip(own, other[part], strict=True))
        for part, own in one.items()
        if part in other
    }


def check_truth(truth: Truth, images: Iterable[tuple[str, Path]]) -> None:
    """Makes sure that what is known of some images fits them.

    Args:
        truth: What is known.
        images: Their names and files.

    Raises:
        InputError: A size is another, or a box or a point lies outside. An image that cannot be read is no matter.
    """
    for name, path in images:
        region, points = truth.regions.get(name), truth.points.get(name, {})
        if region is None and not points:
            continue
        try:
            height, width = upright_size(path)
        except InputError:
            continue
        if region is not None:
            size = _size_of(region)
            if size is not None and size != (height, width):
                raise InputError(
                    f"the truth of {name} is for {size[1]} x {size[0]} pixels; the image has {width} x {height}"
                )
        for what, x, y in _corners(region, points):
            if not (-_SLACK <= x <= width + _SLACK and -_SLACK <= y <= height + _SLACK):
                raise InputError(f"{what} of {name} lies at ({x:g}, {y:g}), outside its {width} x {height} pixels")


def _size_of(region: Region) -> tuple[int, int] | None:
    if region.file is None:
        return region.size
    try:
        with opened(region.file) as file, Image.open(file) as image:
            return image.height, image.width
    except (OSError, ValueError) as error:
        raise InputError(f"the mask {region.file} cannot be read: {error}") from error


def _corners(region: Region | None, points: dict[str, tuple[Point, ...]]) -> Iterator[tuple[str, float, float]]:
    for x0, y0, x1, y1 in () if region is None else region.boxes:
        yield "the box", x0, y0
        yield "the box", x1, y1
    for part, places in points.items():
        for x, y in places:
            yield f"the {part}", x, y


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Where a picture is not 0, bool [H, W]. In a palette the last colour is no part of it (Pascal VOC's border)."""
    try:
        with opened(path) as file, Image.open(file) as image:
            values = np.asarray(image)
            palette, alpha = image.mode == "P", image.mode in ("RGBA", "LA")
    except (OSError, ValueError) as error:
        raise InputError(f"the mask {path} cannot be read: {error}") from error
    if values.ndim == 3:
        values = (values[..., :-1] if alpha else values).max(-1)
    mask: NDArray[np.bool_] = (values != 0) & ~(palette & (values == _VOID))
    return mask


def _drawn(drawn: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A segmentation of COCO: a list of polygons, or run lengths, compressed or not."""
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise InputError("polygons and run lengths of COCO need an extra: pip install 'finercam_clip[coco]'") from error
    try:
        if isinstance(drawn, list):
            encoded = coco.merge(coco.frPyObjects(drawn, *shape))
        elif isinstance(drawn["counts"], list):
            encoded = coco.frPyObjects(drawn, *drawn["size"])
        else:
            encoded = {"size": drawn["size"], "counts": drawn["counts"].encode()}
        mask = np.asarray(coco.decode(encoded), np.bool_)
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"a segmentation of COCO is neither polygons nor run lengths: {error}") from error
    if mask.shape != shape:
        raise InputError(f"a segmentation of COCO has {mask.shape[1]} x {mask.shape[0]} pixels, its image others")
    return mask
