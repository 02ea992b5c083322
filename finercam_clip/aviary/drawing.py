"""Pictures of the aviary's birds, with the mask of every part.

`draw` renders one bird or two under random pose, size, light and background, at times with twigs in front. A picture is
a function of its birds and its seed.

The canvas holds one label per pixel; colours, light and texture come after. A bird is drawn in its own coordinates: it
faces right, x points right, y points down, it is about 2 units long, and its middle is the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from finercam_clip.aviary.world import COLOURS, PARTS, Bird
from finercam_clip.opencv import cv2

Outline = NDArray[np.float64]  # polygon [N, 2]
Pose = NDArray[np.float64]  # affine map [2, 3] from a bird's coordinates to pixels of the canvas
Canvas = NDArray[np.uint8]  # one label per pixel, [side, side]; 0 is the background

_SUPERSAMPLING = 2  # pixels of the canvas per pixel of the picture, along each side
_SCENERY = {"branch": 1, "twig": 2, "leaf": 3}  # their labels
_SCENERY_COLOURS = ((92, 74, 58), (84, 68, 50), (92, 116, 62))  # RGB, in the same order
_BIRD_LABELS = 64  # bird k has the labels 64 (k + 1) ... 64 (k + 2) - 1
_LABELS = {"body": 0, "eye": 1, "glint": 2, **{part: 8 + i for i, part in enumerate(PARTS)}}  # within a bird's 64
_PATTERN = 32  # label + _PATTERN: the marks of a spotted or striped part
_DARK = ("black", "brown", "purple", "blue")  # colours that take light marks
_BODIES = np.array([(152, 146, 136), (172, 152, 122), (112, 110, 108), (194, 184, 168), (98, 92, 82)], np.float32)
_BACKGROUNDS = np.array(
    [(176, 196, 212), (128, 146, 108), (188, 178, 152), (142, 164, 160), (104, 118, 96), (206, 206, 198)], float
)


@dataclass(frozen=True)
class Scene:
    """Drawn birds.

    Attributes:
        birds: The one bird, or the two.
        image: uint8 [H, W, 3], RGB.
        masks: One dict per bird, from part to bool [H, W]: what of the part is visible.
    """

    birds: tuple[Bird, ...]
    image: NDArray[np.uint8]
    masks: tuple[dict[str, NDArray[np.bool_]], ...]


def draw(birds: Bird | tuple[Bird, ...], seed: int | tuple[int, ...], *, size: int = 96, masks: bool = True) -> Scene:
    """Renders a bird, or two side by side, in a square picture.

    Pose, scale, flip, light, twigs and background come from `seed`, not from the birds. So another bird under the same
    seed differs in its own parts only. A pixel belongs to a part if the part covers most of its area.

    Args:
        birds: One bird, or a tuple of one or two.
        seed: One non-negative integer, or several.
        size: Pixels along each side of the picture.
        masks: Whether to make the masks too; without them `Scene.masks` is empty (training never asks for them).
    """
    birds = (birds,) if isinstance(birds, Bird) else birds
    key = (seed,) if isinstance(seed, int) else seed
    scenery, *own = (np.random.default_rng((*key, stream)) for stream in range(1 + len(birds)))
    side = size * _SUPERSAMPLING
    labels = np.zeros((side, side), np.uint8)
    poses = _poses(scenery, side, len(birds))
    _paint_branch(labels, poses[0], scenery)
    colours = np.zeros((256, 3), np.float32)
    for label, tint in zip(_SCENERY.values(), _SCENERY_COLOURS, strict=True):
        colours[label] = np.array(tint) * scenery.uniform(0.7, 1.3)
    for k, (bird, pose, rng) in enumerate(zip(birds, poses, own, strict=True)):
        _paint_bird(labels, bird, pose, rng, first_label=_BIRD_LABELS * (k + 1))
        colours[_BIRD_LABELS * (k + 1) :][:_BIRD_LABELS] = _colours(bird, rng)
    _paint_twigs(labels, scenery, side)
    empty = labels == 0
    image = np.where(empty[..., None], _background(scenery, side), colours[labels])
    image *= _shading(labels, empty, scenery, side)[..., None]
    image *= (scenery.uniform(0.82, 1.12) * (1 + scenery.uniform(-0.04, 0.04, 3))).astype(np.float32)
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    small += scenery.normal(0, 2.0, (size, size, 1)).astype(np.float32)
    picture = np.clip(small, 0, 255).astype(np.uint8)
    parts = tuple(_part_masks(labels, size, _BIRD_LABELS * (k + 1)) for k in range(len(birds))) if masks else ()
    return Scene(birds, picture, parts)


def _poses(rng: np.random.Generator, side: int, birds: int) -> list[Pose]:
    """One random pose per bird; two birds sit side by side on one branch."""
    scale = side * rng.uniform(0.38, 0.49) * (1.0 if birds == 1 else 0.56)
    angle = np.deg2rad(rng.uniform(-13, 13))
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = rng.uniform(0.94, 1.06)
    half = np.array([0.97 if birds == 1 else 1.85, 0.86])  # half the group's width and height, in birds' coordinates
    middle = side * 0.5 + rng.uniform(-1, 1, 2) * np.maximum(side * 0.5 - scale * half, side * 0.02)
    places = np.array([0.0] if birds == 1 else [-0.86, 0.86])
    return [
        np.column_stack([rotation @ np.diag([rng.choice([-1.0, 1.0]), stretch]), middle + rotation @ (x, 0)])
        for x in rng.permutation(places)
    ]


def _paint(labels: Canvas, outline: Outline, pose: Pose, label: int) -> None:
    """Fills an outline, given in a bird's coordinates, to a sixteenth of a pixel."""
    points = np.rint((outline @ pose[:, :2].T + pose[:, 2]) * 16).astype(np.int32)
    cv2.fillPoly(labels, [points], label, shift=4)


def _ellipse(x: float, y: float, a: float, b: float, degrees: float = 0) -> Outline:
    """An ellipse about (x, y) with the half axes a and b."""
    circle = _unit_circle()
    angle = np.deg2rad(degrees)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline: Outline = (circle * (a, b)) @ axes + (x, y)
    return outline


@lru_cache(maxsize=1)
def _unit_circle() -> Outline:
    """A circle as a polygon of 28 corners."""
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack([np.cos(turn), np.sin(turn)])


def _smooth(*corners: tuple[float, float]) -> Outline:
    """The polygon with its corners rounded off (Chaikin's corner cutting, twice)."""
    points = np.array(corners, float)
    for _ in range(2):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def _paint_branch(labels: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """The branch that the birds sit on, from edge to edge."""
    y, tilt, width = 0.82, rng.uniform(-0.08, 0.08), rng.uniform(0.05, 0.09)
    branch = np.array([(-6, y - tilt), (6, y + tilt), (6, y + tilt + width), (-6, y - tilt + width * 1.4)])
    _paint(labels, branch, pose, _SCENERY["branch"])


def _paint_twigs(labels: Canvas, rng: np.random.Generator, side: int) -> None:
    """In a third of the pictures one or two thin twigs in front of everything, each with three leaves."""
    for _ in range(max(0, int(rng.integers(-3, 3)))):
        start, end = rng.uniform(0, side, 2), rng.uniform(0, side, 2)
        start[rng.integers(2)] = 0 if rng.random() < 0.5 else side  # it grows in from an edge
        width = side * rng.uniform(0.008, 0.016)
        normal = np.array([start[1] - end[1], end[0] - start[0]]) / (np.linalg.norm(end - start) + 1e-6) * width
        identity = np.eye(2, 3)
        _paint(labels, np.array([start - normal, start + normal, end + 0.3 * normal, end - 0.3 * normal]), identity,
               _SCENERY["twig"])  # fmt: skip
        for along in rng.uniform(0.4, 1.0, 3):
            x, y = start + along * (end - start) + rng.normal(0, 0.015, 2) * side
            leaf = _ellipse(float(x), float(y), side * 0.026, side * 0.010, float(rng.uniform(0, 180)))
            _paint(labels, leaf, identity, _SCENERY["leaf"])


def _paint_bird(labels: Canvas, bird: Bird, pose: Pose, rng: np.random.Generator, *, first_label: int) -> None:
    """Paints a bird's parts from the farthest to the nearest, each outline a little different every time."""

    def jitter() -> float:
        return float(rng.uniform(-0.025, 0.025))

    def paint(name: str, outline: Outline) -> None:
        _paint(labels, outline, pose, first_label + _LABELS[name])

    def paint_inside(name: str, outline: Outline, area: NDArray[np.bool_]) -> None:
        layer = np.zeros_like(labels)
        _paint(layer, outline, pose, 1)
        labels[area & (layer > 0)] = first_label + _LABELS[name]

    tip, droop, spread = jitter(), 0.14 + 4 * jitter(), 0.20 + jitter()
    if bird["tail shape"] == "forked":
        x = tip - 1.0
        tail = np.array([(-0.36, -0.10), (-0.36, 0.26), (x, droop + spread + 0.08), (x + 0.05, droop + spread - 0.06),
                         (x + 0.30, droop), (x + 0.05, droop - spread + 0.06), (x, droop - spread - 0.08)])  # fmt: skip
    else:
        x, narrow = (tip - 0.76, 1.15) if bird["tail shape"] == "short" else (tip - 1.10, 0.75)
        spread *= narrow
        tail = _smooth((-0.30, -0.12), (-0.30, 0.28), (x + 0.14, droop + spread), (x, droop + 0.6 * spread),
                       (x, droop - 0.6 * spread), (x + 0.14, droop - spread))  # fmt: skip
    paint("tail", tail)

    stride = 0.15 + jitter()
    for x in (-0.06 - stride, -0.02 + stride):
        leg = np.array([(x - 0.11, 0.44), (x + 0.11, 0.44), (x + 0.085, 0.76), (x + 0.20, 0.80), (x + 0.20, 0.86),
                        (x - 0.13, 0.86), (x - 0.085, 0.76)])  # fmt: skip
        paint("legs", leg)

    body = _ellipse(-0.04, 0.14, 0.55 + jitter(), 0.42 + jitter(), 10)
    head_x, head_y = 0.36 + 2 * jitter(), -0.42 + 2 * jitter()
    neck = _smooth((head_x - 0.36, head_y + 0.04), (head_x + 0.30, head_y + 0.04), (0.56, 0.28), (-0.1, 0.10))
    paint("body", body)
    paint("body", neck)
    inside = labels == first_label + _LABELS["body"]
    back = _smooth((head_x - 0.42, head_y + 0.06), (head_x - 0.06, head_y + 0.20), (0.04, 0.06), (-0.60, 0.20),
                   (-0.80, -0.10), (-0.2, -0.55))  # fmt: skip
    paint_inside("back", back, inside)
    paint_inside("breast", _ellipse(0.38 + jitter(), 0.28 + jitter(), 0.29, 0.28), inside)
    paint_inside("throat", _ellipse(head_x + 0.09 + jitter(), head_y + 0.34, 0.27, 0.165, 15), inside)

    wing_tip = -0.60 + jitter()
    wing = _smooth((0.18 + jitter(), -0.04), (0.24, 0.20), (-0.02, 0.46), (wing_tip, 0.46), (wing_tip - 0.04, 0.28),
                   (-0.30, -0.02))  # fmt: skip
    paint("wing", wing)
    bar = -0.11 + jitter()
    paint_inside("wing bar", np.array([(bar, -0.1), (bar + 0.17, -0.1), (bar + 0.03, 0.6), (bar - 0.14, 0.6)]),
                 labels == first_label + _LABELS["wing"])  # fmt: skip

    shape = bird["beak shape"]
    if shape == "hooked":
        bill = [(0.33, -0.16), (0.50, -0.08), (0.57, 0.08), (0.54, 0.29), (0.46, 0.16), (0.38, 0.15), (0.30, 0.19)]
    else:
        length = 0.70 if shape == "long" else 0.46
        bill = [(0.32, -0.16), (length, 0.08), (0.32, 0.19)]
    paint("beak", np.add([(0.16, -0.15), *bill, (0.16, 0.17)], (head_x, head_y)))
    head = _ellipse(head_x, head_y, 0.28, 0.26)
    paint("body", head[head[:, 1] < head_y + 0.18])
    crown = _smooth((head_x - 0.37, head_y), (head_x - 0.32, head_y - 0.31), (head_x, head_y - 0.43 + jitter()),
                    (head_x + 0.29, head_y - 0.30), (head_x + 0.32, head_y - 0.11),
                    (head_x, head_y - 0.10))  # fmt: skip
    paint("crown", crown)
    eye_x, eye_y = head_x + 0.01, head_y + 0.045
    paint("eye ring", _ellipse(eye_x, eye_y, 0.145, 0.145))
    eye_x, eye_y = eye_x + 0.045, eye_y - 0.03  # towards the beak: the ring is a patch of bare skin around it
    paint("eye", _ellipse(eye_x, eye_y, 0.028, 0.028))
    paint("glint", _ellipse(eye_x + 0.009, eye_y - 0.009, 0.010, 0.010))

    for part, box in {"breast": (0.06, -0.06, 0.72, 0.60), "wing": (-0.72, -0.06, 0.30, 0.50)}.items():
        marks = _marks(labels, bird[f"{part} pattern"], box, pose, rng)
        labels[marks & (labels == first_label + _LABELS[part])] = first_label + _LABELS[part] + _PATTERN


def _marks(
    labels: Canvas,
    pattern: str,
    box: tuple[float, float, float, float],
    pose: Pose,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Where the marks of a pattern lie, bool [side, side].

    Args:
        labels: The canvas, for its shape.
        pattern: One of `PATTERNS`; a plain part has no marks.
        box: Left, top, right and bottom of the area that the pattern fills, in the bird's coordinates.
        pose: The bird's.
        rng: Draws the size of the dots.
    """
    x0, y0, x1, y1 = box
    radius = rng.uniform(0.040, 0.048)
    layer = np.zeros_like(labels)
    if pattern == "spotted":
        step = 0.14
        rows = [(row, y) for row, y in enumerate(np.arange(y0, y1, step * 0.9))]
        dots = np.array([(x, y) for row, y in rows for x in np.arange(x0 + (row % 2) * step / 2, x1, step)])
        pixels = radius * float(np.sqrt(abs(np.linalg.det(pose[:, :2]))))
        for x, y in np.rint((dots @ pose[:, :2].T + pose[:, 2]) * 16).astype(int).tolist():
            cv2.circle(layer, (x, y), round(pixels * 16), 1, -1, shift=4)
    elif pattern == "striped":
        width, step, lean = 0.056, 0.135, 0.10
        for x in np.arange(x0 - lean, x1 + lean, step):
            _paint(layer, np.array([(x, y0), (x + width, y0), (x + width + lean, y1), (x + lean, y1)]), pose, 1)
    return layer > 0


def _colours(bird: Bird, rng: np.random.Generator) -> NDArray[np.float32]:
    """The RGB colour of each of a bird's labels, float32 [64, 3] in 0..255, each a little off its nominal value."""
    table = np.zeros((_BIRD_LABELS, 3), np.float32)
    table[_LABELS["body"]] = _BODIES[rng.integers(len(_BODIES))] * rng.uniform(0.9, 1.1)
    table[_LABELS["eye"]] = (18, 16, 16)
    table[_LABELS["glint"]] = (250, 250, 250)
    for part in PARTS:
        colour = np.array(COLOURS[bird[part]], np.float32)
        colour = np.clip(colour * rng.uniform(0.92, 1.06) + rng.normal(0, 5, 3), 0, 255)
        table[_LABELS[part]] = colour
        table[_LABELS[part] + _PATTERN] = 0.15 * colour + 0.85 * (235 if bird[part] in _DARK else 30)
    return table


@lru_cache(maxsize=1)
def _feathers() -> NDArray[np.float32]:
    """Fine streaks of noise, float32 [2048, 2048]; every picture shows a window of them."""
    noise = np.random.default_rng(7).normal(0, 1, (2048, 2048)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=1.6, sigmaY=0.8) * 1.5, np.float32)


def _shading(labels: Canvas, empty: NDArray[np.bool_], rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """What each pixel of the canvas is multiplied with, float32 [side, side].

    Light falls from above and from one side. Seams between parts are dark, rims are soft, and feathers have a texture.
    """
    light = np.linspace(1.08, rng.uniform(0.82, 0.95), side, dtype=np.float32)[:, None]
    lean = rng.uniform(-0.08, 0.08)
    light = light * np.linspace(1 - lean, 1 + lean, side, dtype=np.float32)
    x, y = rng.integers(0, 2048 - min(side, 2047), 2)
    texture = _feathers()[y : y + side, x : x + side]
    if texture.shape != (side, side):
        texture = cv2.resize(_feathers(), (side, side))
    rim = cv2.blur((~empty).astype(np.float32), (max(side // 24, 3),) * 2)
    factor = light * (1 + 0.05 * texture) * (0.86 + 0.14 * rim)
    seam = np.zeros(labels.shape, bool)
    seam[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    seam[1:] |= labels[1:] != labels[:-1]
    factor = np.where(seam & ~empty, factor * 0.78, factor)
    return np.asarray(np.where(empty, 1, factor), np.float32)


def _background(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """An out-of-focus place, RGB float32 [side, side, 3].

    It is muted sky, foliage, sand or water with a few soft blobs, and at times with trunks and a ground.
    """
    coarse = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))] + rng.normal(0, 14, (5, 5, 1)) + rng.normal(0, 6, (5, 5, 3))
    coarse += np.linspace(rng.uniform(0, 22), rng.uniform(-22, 0), 5)[:, None, None]
    small = cv2.resize(coarse.astype(np.float32), (48, 48), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.35:
        small[rng.integers(26, 44) :] *= rng.uniform(0.70, 0.95)
    for _ in range(max(0, int(rng.integers(-2, 4)))):
        x, width, lean = (int(v) for v in rng.integers((0, 1, -6), (48, 6, 7)))
        trunk = np.array([(x, 0), (x + width, 0), (x + width + lean, 48), (x + lean, 48)])
        bark = np.array((112, 98, 82)) * rng.uniform(0.7, 1.3)
        cv2.fillPoly(small, [trunk], bark.tolist())
    for _ in range(rng.integers(0, 7)):
        x, y, a, b = (int(v) for v in rng.integers((0, 0, 2, 2), (48, 48, 9, 9)))
        shade = tuple(float(v) for v in _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))] * rng.uniform(0.6, 1.1))
        cv2.ellipse(small, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, shade, -1)
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(0.8, 2.5)))
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC))


def _part_masks(labels: Canvas, size: int, first_label: int) -> dict[str, NDArray[np.bool_]]:
    """Each part of one bird, bool [size, size]: the pixels of the picture that it covers by more than half."""
    masks = {}
    for part in PARTS:
        label = first_label + _LABELS[part]
        covered = ((labels == label) | (labels == label + _PATTERN)).astype(np.float32)
        masks[part] = cv2.resize(covered, (size, size), interpolation=cv2.INTER_AREA) > 0.5
    return masks
