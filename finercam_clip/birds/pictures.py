"""Photographs of birds from CUB-200-2011, with where their parts are and what their species look like.

Training sees *views* of them: flipped, cropped, or small before something else. A view is a function of its seed, its
photograph and its number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finercam_clip.birds.words import GROUPS, PARTS, TRAITS
from finercam_clip.datasets import DataSet, Item, class_values, find_truth
from finercam_clip.errors import InputError
from finercam_clip.opencv import cv2

Pixels = NDArray[np.uint8]  # [H, W, 3], RGB
POINTS = 2  # of a part at most: left and right
_CROP = 227  # pixels along each side of a bird that is cut out
_SMALLEST = 0.28  # side of a small bird, of the picture's
_STREAM = 0  # apart from other draws
_FULL = 0.5  # share of views in which the bird fills the picture


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs with parts and attributes.

    Attributes:
        items: The photographs.
        boxes: Where the bird is, (x0, y0, x1, y1) in pixels, [n, 4].
        points: Where its parts are in the box, as shares of its sides, [n, parts, `POINTS`, 2]; NaN: not visible.
        species: Which of `classes` each bird is, [n].
        classes: Names of the species.
        values: How sure annotators are of each trait, [classes, traits]: 0..1, and the values of a group sum to 1.
    """

    items: tuple[Item, ...]
    boxes: NDArray[np.float64]
    points: NDArray[np.float32]
    species: NDArray[np.int64]
    classes: tuple[str, ...]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.items)

    def of(self, classes: set[str]) -> Photographs:
        """The photographs of some species."""
        keep = np.array([self.classes[own] in classes for own in self.species])
        items = tuple(item for item, kept in zip(self.items, keep, strict=True) if kept)
        return Photographs(items, self.boxes[keep], self.points[keep], self.species[keep], self.classes, self.values)

    def crop(self, index: int) -> Pixels:
        """The box of a photograph, squashed to a square."""
        x0, y0, x1, y1 = self.boxes[index]
        pixels = np.asarray(self.items[index].read())
        cut = pixels[max(round(y0), 0) : max(round(y1), 1), max(round(x0), 0) : max(round(x1), 1)]
        crop: Pixels = cv2.resize(cut, (_CROP, _CROP), interpolation=cv2.INTER_AREA)
        return crop


def read_photographs(dataset: DataSet) -> Photographs:
    """Photographs of a data set in CUB-200-2011's layout, those with at least one point.

    Raises:
        InputError: The data set has no boxes, no points of parts, or no attributes of classes.
    """
    truth, table = find_truth(dataset), class_values(dataset)
    for what, there in (("boxes", truth.regions), ("points of parts", truth.points), ("attributes of classes", table)):
        if not there:
            raise InputError(f"{dataset.source} has no {what}: birds needs CUB-200-2011 whole, in its own layout")
    items = tuple(i for i in dataset.items if i.name in truth.regions and truth.points.get(i.name))
    boxes = np.array([truth.regions[item.name].boxes[0] for item in items], np.float64)
    points = np.full((len(items), len(PARTS), POINTS, 2), np.nan, np.float32)
    for row, (item, box) in enumerate(zip(items, boxes, strict=True)):
        for part, places in truth.points[item.name].items():
            if part in PARTS:
                points[row, PARTS.index(part), : len(places)] = (np.array(places) - box[:2]) / (box[2:] - box[:2])
    values = np.array([[table[name][group][value] for group, value in TRAITS] for name in dataset.classes], np.float32)
    species = np.array([dataset.classes.index(item.target or "") for item in items])
    return Photographs(items, boxes, points, species, dataset.classes, values)


def view(photographs: Photographs, index: int, number: int, size: int) -> tuple[Pixels, NDArray[np.float32]]:
    """A picture to train with, [size, size, 3], and the points of its parts in pixels, [parts, `POINTS`, 2].

    Half of the views are cut from the bird's box. In the others the box is small before a blurred part of another
    photograph, or before one colour.

    Args:
        photographs: All that training may see.
        index: Which of them.
        number: Of the view; views of one photograph differ.
        size: Pixels along each side.
    """
    rng = np.random.default_rng((_STREAM, index, number))
    crop, points = photographs.crop(index), photographs.points[index].copy()
    if rng.random() < 0.5:
        crop, points[..., 0] = crop[:, ::-1], 1 - points[..., 0]
    if rng.random() < _FULL:
        side = rng.uniform(0.75, 1.0, 2)
        corner = rng.uniform(0, 1 - side)
        x0, y0 = (corner * _CROP).round().astype(int)
        x1, y1 = ((corner + side) * _CROP).round().astype(int)
        picture = cv2.resize(crop[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_CUBIC)
        points = (points * _CROP - (x0, y0)) / (x1 - x0, y1 - y0) * size
    else:
        side = np.exp(rng.uniform(np.log(_SMALLEST), np.log(0.95))) * rng.uniform(0.9, 1.1, 2)
        picture, points = _pasted(crop, points, photographs, (float(side[0]), float(side[1])), size, rng)
    outside = ((points < 0) | (points > size)).any(-1)
    points[outside] = np.nan
    return picture.astype(np.uint8), points.astype(np.float32)


def pasted(
    photographs: Photographs, index: int, side: tuple[float, float], size: int, rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.float32]]:
    """A bird that is small before something else, and the points of its parts in pixels.

    Args:
        photographs: The bird's and others, whose corners are the background.
        index: Which of them is the bird.
        side: Width and height of its box, of the picture's.
        size: Pixels along each side of the picture.
        rng: Draws where it is, and before what.
    """
    return _pasted(photographs.crop(index), photographs.points[index], photographs, side, size, rng)


def _pasted(
    crop: Pixels,
    points: NDArray[np.float32],
    photographs: Photographs,
    side: tuple[float, float],
    size: int,
    rng: np.random.Generator,
) -> tuple[Pixels, NDArray[np.float32]]:
    width, height = (min(round(own * size), size) for own in side)
    x0, y0 = (int(rng.integers(0, size - own + 1)) for own in (width, height))
    picture = _background(photographs, size, rng)
    picture[y0 : y0 + height, x0 : x0 + width] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    return picture, (points * (width, height) + (x0, y0)).astype(np.float32)


def _background(photographs: Photographs, size: int, rng: np.random.Generator) -> Pixels:
    """What is behind a small bird."""
    kind = rng.integers(4)
    if kind == 0:
        picture = np.broadcast_to(rng.integers(0, 256, 3), (size, size, 3)) + rng.normal(0, 12, (size, size, 3))
        return picture.clip(0, 255).astype(np.uint8)
    other = photographs.crop(int(rng.integers(len(photographs))))
    if kind < 3:  # a corner, where the bird is seldom
        third = _CROP // 3
        y, x = (int(rng.integers(2)) * (_CROP - third) for _ in range(2))
        other = other[y : y + third, x : x + third]
        blur = 1.0
    else:
        blur = size / 12
    picture = cv2.resize(other, (size, size), interpolation=cv2.INTER_CUBIC)
    blurred: Pixels = cv2.GaussianBlur(picture, (0, 0), blur)
    return blurred


def groups_of_traits() -> tuple[slice, ...]:
    """Where the values of each group stand among `TRAITS`."""
    stops = np.cumsum([len(group.phrases) for group in GROUPS])
    return tuple(slice(int(stop - len(g.phrases)), int(stop)) for g, stop in zip(GROUPS, stops, strict=True))
