"""The aviary: a procedural world of birds whose every part is known to the pixel, with text that is true of each bird.

A `Bird` gives each *slot* (crown colour, breast pattern, tail shape, ...) a value. `draw` renders it under random pose,
size, light and background and returns the picture with one mask a part. `describe` writes text that is true of it.
Two birds that differ in one slot, and the mask of the part that differs, are a question whose answer is known exactly.

Everything is a function of its seed. Training draws from seeds >= `TRAINING_SEEDS`, so every smaller seed is held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

TRAINING_SEEDS = 1_000_000_000

COLOURS: dict[str, tuple[int, int, int]] = {  # RGB
    "red": (205, 32, 36),
    "orange": (243, 130, 22),
    "yellow": (248, 221, 48),
    "green": (44, 150, 60),
    "blue": (40, 84, 208),
    "purple": (124, 44, 160),
    "pink": (246, 148, 188),
    "brown": (116, 70, 36),
    "black": (26, 26, 29),
    "white": (246, 246, 243),
}
PARTS = ("crown", "beak", "throat", "breast", "back", "wing", "tail", "legs")
PATTERNS = ("plain", "spotted", "striped")

# slot -> the values it can take. A slot is named after its part, with a second word where it is not the colour.
SLOTS: dict[str, tuple[str, ...]] = {
    **{part: tuple(COLOURS) for part in PARTS},
    "breast pattern": PATTERNS,
    "wing pattern": PATTERNS,
    "beak shape": ("short", "long"),
    "tail shape": ("rounded", "forked"),
}
Trait = tuple[str, str]  # (slot, value)
TRAITS: tuple[Trait, ...] = tuple((slot, value) for slot, values in SLOTS.items() for value in values)

_SYNONYMS = {"crown": "cap", "beak": "bill", "breast": "chest"}
_ADJECTIVES = {
    "crown": "crowned", "beak": "billed", "throat": "throated", "breast": "breasted",
    "back": "backed", "wing": "winged", "tail": "tailed", "legs": "legged",
}  # fmt: skip
GENERIC_TEXTS = ("a bird", "a photo of a bird", "a bird on a branch", "the bird", "a picture of a bird", "bird")
_NEUTRALS = np.array([(152, 146, 136), (172, 152, 122), (112, 110, 108), (194, 184, 168), (98, 92, 82)], np.float32)
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Bird:
    """A value for each slot of `SLOTS`, in their order."""

    values: tuple[str, ...]

    def __getitem__(self, slot: str) -> str:
        return self.values[list(SLOTS).index(slot)]

    @property
    def traits(self) -> tuple[Trait, ...]:
        """Everything that is true of this bird, one (slot, value) a slot."""
        return tuple(zip(SLOTS, self.values, strict=True))

    def with_trait(self, slot: str, value: str) -> Bird:
        """The same bird but for one slot."""
        return Bird(tuple(value if s == slot else v for s, v in self.traits))


@dataclass(frozen=True)
class Scene:
    """A drawn bird: `image` uint8 [H, W, 3] RGB, and `masks`, part -> bool [H, W], what of the part is visible."""

    bird: Bird
    image: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]


def part_of(slot: str) -> str:
    """The part that a slot is about: "breast" for "breast" and for "breast pattern"."""
    return slot.split()[0]


def sample_bird(rng: np.random.Generator) -> Bird:
    """A bird whose slots are drawn independently and uniformly."""
    return Bird(tuple(str(values[rng.integers(len(values))]) for values in SLOTS.values()))


def change_trait(bird: Bird, slot: str, rng: np.random.Generator) -> Bird:
    """The same bird with another value, drawn uniformly, in `slot`."""
    others = [value for value in SLOTS[slot] if value != bird[slot]]
    return bird.with_trait(slot, others[rng.integers(len(others))])


# ---------------------------------------------------------------------------------------------------------------- text


def trait_phrase(trait: Trait, *, noun: str | None = None) -> str:
    """A noun phrase for a trait: ("crown", "red") -> "a red crown"; ("legs", "orange") -> "orange legs"."""
    slot, value = trait
    noun = noun or part_of(slot)
    if noun == "legs":
        return f"{value} legs"
    return f"{_article(value)} {value} {noun}"


def describe(traits: tuple[Trait, ...], rng: np.random.Generator | None = None) -> str:
    """Text that names `traits`: plain ("a bird with a red crown and a blue tail"), or phrased at random with `rng`."""
    if not traits:
        return GENERIC_TEXTS[rng.integers(len(GENERIC_TEXTS))] if rng is not None else GENERIC_TEXTS[0]
    if rng is None:
        return f"a bird with {_list_phrases([trait_phrase(t) for t in traits])}"
    nouns = [_noun(part_of(slot), rng) for slot, _ in traits]
    phrases = [trait_phrase(t, noun=n) for t, n in zip(traits, nouns, strict=True)]
    together = _list_phrases(phrases, oxford=rng.random() < 0.2)
    if len(traits) == 1:
        (slot, value), noun = traits[0], nouns[0]
        adjective = f"{value}-{_ADJECTIVES[part_of(slot)]}"
        verb = "are" if noun == "legs" else "is"
        forms = [
            f"a bird with {together}", f"a bird with {together}", f"a photo of a bird with {together}", together,
            f"{value} {noun}", f"a bird whose {noun} {verb} {value}", f"{_article(value)} {adjective} bird",
            f"the {value} {noun} of a bird", f"the bird has {together}", f"a picture of {together}",
            f"the {noun} {verb} {value}", f"a photo of {_article(value)} {adjective} bird",
        ]  # fmt: skip
    else:
        bare = _list_phrases([f"{value} {noun}" for (_, value), noun in zip(traits, nouns, strict=True)])
        forms = [
            f"a bird with {together}", f"a bird with {together}", f"a photo of a bird with {together}", together,
            f"the bird has {together}", f"a bird that has {together}", f"a bird with {bare}", bare,
            f"a picture of a bird with {together}", "a bird with " + " and ".join(phrases),
        ]  # fmt: skip
    text = forms[rng.integers(len(forms))]
    return text + "." if rng.random() < 0.1 else text


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _noun(part: str, rng: np.random.Generator) -> str:
    return _SYNONYMS[part] if part in _SYNONYMS and rng.random() < 0.2 else part


def _list_phrases(phrases: list[str], *, oxford: bool = False) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    comma = "," if oxford and len(phrases) > 2 else ""
    return f"{', '.join(phrases[:-1])}{comma} and {phrases[-1]}"


# ------------------------------------------------------------------------------------------------------------- drawing
# A bird is drawn in its own coordinates: facing right, x right, y down, about 2 units long, its middle at the origin.

_CANVAS = {"background": 0, "branch": 1, "body": 2, "eye": 3, "glint": 4, "far leg": 5}
_LABELS = {part: 8 + i for i, part in enumerate(PARTS)}
_PATTERN = 8  # label + _PATTERN: the marks of a spotted or striped part


def draw(bird: Bird, seed: int | tuple[int, ...], *, size: int = 96, masks: bool = True) -> Scene:
    """Renders `bird` in a square picture of `size` pixels; pose, scale, flip, light and background come from `seed`.

    Returns the `Scene`; its masks are exact: a pixel belongs to a part if most of its area shows it. `masks=False`
    leaves them out (training never asks for them).
    """
    rng = np.random.default_rng(seed)
    side = size * _SUPERSAMPLING
    labels = np.zeros((side, side), np.uint8)
    pose = _pose(rng, side)
    _paint_branch(labels, pose, rng)
    _paint_bird(labels, bird, pose, rng)
    colours = _colours(bird, rng)
    image = colours[labels]
    background = _background(rng, side)
    empty = labels == 0
    image = np.where(empty[..., None], background, image)
    image *= _shading(labels, empty, rng, side)[..., None]
    image *= (rng.uniform(0.82, 1.12) * (1 + rng.uniform(-0.04, 0.04, 3))).astype(np.float32)
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    small += rng.normal(0, 2.0, (size, size, 1)).astype(np.float32)
    picture = np.clip(small, 0, 255).astype(np.uint8)
    return Scene(bird, picture, _part_masks(labels, size) if masks else {})


def _pose(rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    """A random 2x3 affine map from the bird's coordinates to the canvas."""
    scale = side * rng.uniform(0.40, 0.49)
    angle = np.deg2rad(rng.uniform(-13, 13))
    flip = rng.choice([-1.0, 1.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * rotation @ np.diag([flip, rng.uniform(0.94, 1.06)])
    slack = side * 0.5 - scale * np.array([0.97, 0.86])
    centre = side * 0.5 + rng.uniform(-1, 1, 2) * np.maximum(slack, side * 0.02)
    return np.column_stack([linear, centre])


def _paint(labels: NDArray[np.uint8], outline: NDArray[np.float64], pose: NDArray[np.float64], label: int) -> None:
    points = np.rint((outline @ pose[:, :2].T + pose[:, 2]) * 16).astype(np.int32)
    cv2.fillPoly(labels, [points], label, shift=4)


def _ellipse(x: float, y: float, a: float, b: float, degrees: float = 0) -> NDArray[np.float64]:
    circle = _unit_circle()
    angle = np.deg2rad(degrees)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline: NDArray[np.float64] = (circle * (a, b)) @ axes + (x, y)
    return outline


@lru_cache(maxsize=1)
def _unit_circle() -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack([np.cos(turn), np.sin(turn)])


def _smooth(*corners: tuple[float, float]) -> NDArray[np.float64]:
    """A closed curve that rounds a polygon off: Chaikin's corner cutting, twice."""
    points = np.array(corners, float)
    for _ in range(2):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def _paint_branch(labels: NDArray[np.uint8], pose: NDArray[np.float64], rng: np.random.Generator) -> None:
    y, tilt, width = 0.82, rng.uniform(-0.08, 0.08), rng.uniform(0.05, 0.09)
    branch = np.array([(-3, y - tilt), (3, y + tilt), (3, y + tilt + width), (-3, y - tilt + width * 1.4)])
    _paint(labels, branch, pose, _CANVAS["branch"])


def _paint_bird(labels: NDArray[np.uint8], bird: Bird, pose: NDArray[np.float64], rng: np.random.Generator) -> None:
    def jitter() -> float:
        return float(rng.uniform(-0.025, 0.025))

    def paint(label: str, outline: NDArray[np.float64]) -> None:
        _paint(labels, outline, pose, _LABELS.get(label, _CANVAS.get(label, 0)))

    tip, droop, spread = -1.0 + jitter(), 0.14 + 4 * jitter(), 0.20 + jitter()
    if bird["tail shape"] == "forked":
        tail = np.array([(-0.36, -0.10), (-0.36, 0.26), (tip, droop + spread + 0.06), (tip + 0.26, droop),
                         (tip, droop - spread - 0.06)])  # fmt: skip
    else:
        tail = _smooth((-0.30, -0.12), (-0.30, 0.28), (tip + 0.14, droop + spread), (tip, droop + 0.6 * spread),
                       (tip, droop - 0.6 * spread), (tip + 0.14, droop - spread))  # fmt: skip
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
    inside = labels == _CANVAS["body"]

    def paint_inside(part: str, outline: NDArray[np.float64]) -> None:
        layer = np.zeros_like(labels)
        _paint(layer, outline, pose, 1)
        labels[inside & (layer > 0)] = _LABELS[part]

    back = _smooth((head_x - 0.42, head_y + 0.06), (head_x - 0.06, head_y + 0.20), (0.04, 0.06), (-0.60, 0.20),
                   (-0.80, -0.10), (-0.2, -0.55))  # fmt: skip
    paint_inside("back", back)
    paint_inside("breast", _ellipse(0.38 + jitter(), 0.26 + jitter(), 0.29, 0.28))
    paint_inside("throat", _ellipse(head_x + 0.09 + jitter(), head_y + 0.31, 0.27, 0.165, 15))

    wing_tip = -0.58 + jitter()
    wing = _smooth((0.16 + jitter(), -0.02), (0.22, 0.20), (-0.02, 0.44), (wing_tip, 0.44), (wing_tip - 0.04, 0.28),
                   (-0.30, 0.00))  # fmt: skip
    paint("wing", wing)

    length = 0.58 if bird["beak shape"] == "long" else 0.36
    beak = np.array([(head_x + 0.16, head_y - 0.15), (head_x + 0.32, head_y - 0.13),
                     (head_x + 0.12 + length, head_y + 0.09), (head_x + 0.32, head_y + 0.17),
                     (head_x + 0.16, head_y + 0.17)])  # fmt: skip
    paint("beak", beak)
    head = _ellipse(head_x, head_y, 0.27, 0.25)
    paint("body", head[head[:, 1] < head_y + 0.15])
    crown = _smooth((head_x - 0.36, head_y + 0.02), (head_x - 0.31, head_y - 0.30), (head_x, head_y - 0.42 + jitter()),
                    (head_x + 0.28, head_y - 0.29), (head_x + 0.31, head_y - 0.10),
                    (head_x, head_y - 0.085))  # fmt: skip
    paint("crown", crown)
    paint("eye", _ellipse(head_x + 0.10, head_y + 0.005, 0.055, 0.055))
    paint("glint", _ellipse(head_x + 0.117, head_y - 0.012, 0.019, 0.019))

    for part, box in {"breast": (0.06, -0.06, 0.72, 0.58), "wing": (-0.70, -0.04, 0.28, 0.48)}.items():
        _paint_pattern(labels, part, bird[f"{part} pattern"], box, pose, rng)


def _paint_pattern(
    labels: NDArray[np.uint8],
    part: str,
    pattern: str,
    box: tuple[float, float, float, float],
    pose: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Dots or bars across the box of a part, where the part is visible."""
    if pattern == "plain":
        return
    x0, y0, x1, y1 = box
    layer = np.zeros_like(labels)
    if pattern == "spotted":
        step, radius = 0.14, rng.uniform(0.040, 0.048)
        rows = [(row, y) for row, y in enumerate(np.arange(y0, y1, step * 0.9))]
        dots = np.array([(x, y) for row, y in rows for x in np.arange(x0 + (row % 2) * step / 2, x1, step)])
        pixels = radius * float(np.sqrt(abs(np.linalg.det(pose[:, :2]))))
        for x, y in np.rint((dots @ pose[:, :2].T + pose[:, 2]) * 16).astype(int).tolist():
            cv2.circle(layer, (x, y), round(pixels * 16), 1, -1, shift=4)
    else:
        width, step, lean = 0.056, 0.135, 0.10
        for x in np.arange(x0 - lean, x1 + lean, step):
            _paint(layer, np.array([(x, y0), (x + width, y0), (x + width + lean, y1), (x + lean, y1)]), pose, 1)
    here = (layer > 0) & (labels == _LABELS[part])
    labels[here] = _LABELS[part] + _PATTERN


def _colours(bird: Bird, rng: np.random.Generator) -> NDArray[np.float32]:
    """The colour of every label, float32 [256, 3], each a little off its nominal value."""
    table = np.zeros((256, 3), np.float32)
    table[_CANVAS["branch"]] = np.array((92, 74, 58)) * rng.uniform(0.7, 1.3)
    table[_CANVAS["body"]] = _NEUTRALS[rng.integers(len(_NEUTRALS))] * rng.uniform(0.9, 1.1)
    table[_CANVAS["eye"]] = (18, 16, 16)
    table[_CANVAS["glint"]] = (250, 250, 250)
    for part, label in _LABELS.items():
        colour = np.array(COLOURS[bird[part]], np.float32)
        table[label] = np.clip(colour * rng.uniform(0.92, 1.06) + rng.normal(0, 5, 3), 0, 255)
        marks = np.float32(235) if bird[part] in ("black", "brown", "purple", "blue") else np.float32(30)
        table[label + _PATTERN] = 0.15 * table[label] + 0.85 * marks
    return table


@lru_cache(maxsize=1)
def _feathers() -> NDArray[np.float32]:
    """Fine streaks of noise, a tile that every picture takes a window of."""
    noise = np.random.default_rng(7).normal(0, 1, (2048, 2048)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=1.6, sigmaY=0.8) * 1.5, np.float32)


def _shading(
    labels: NDArray[np.uint8], empty: NDArray[np.bool_], rng: np.random.Generator, side: int
) -> NDArray[np.float32]:
    """Light from above, dark seams between parts, soft rims, feather texture: a factor for each canvas pixel."""
    light = np.linspace(1.08, rng.uniform(0.82, 0.95), side, dtype=np.float32)[:, None]
    x, y = rng.integers(0, 2048 - min(side, 2047), 2)
    texture = _feathers()[y : y + side, x : x + side]
    if texture.shape != (side, side):
        texture = cv2.resize(_feathers(), (side, side))
    bird_part = np.where(empty, np.float32(0), np.float32(1))
    rim = cv2.blur(bird_part, (max(side // 24, 3),) * 2)
    factor = light * (1 + 0.05 * texture) * (0.86 + 0.14 * rim)
    seam = np.zeros(labels.shape, bool)
    seam[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    seam[1:] |= labels[1:] != labels[:-1]
    factor = np.where(seam & ~empty, factor * 0.78, factor)
    return np.asarray(np.where(empty, 1, factor), np.float32)


def _background(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """An out-of-focus place: muted sky, foliage, sand or water, with a few soft blobs."""
    tints = np.array(
        [(176, 196, 212), (128, 146, 108), (188, 178, 152), (142, 164, 160), (104, 118, 96), (206, 206, 198)]
    )
    coarse = tints[rng.integers(len(tints))] + rng.normal(0, 14, (5, 5, 1)) + rng.normal(0, 6, (5, 5, 3))
    coarse += np.linspace(rng.uniform(0, 22), rng.uniform(-22, 0), 5)[:, None, None]
    small = cv2.resize(coarse.astype(np.float32), (48, 48), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 6)):
        x, y, a, b = (int(v) for v in rng.integers((0, 0, 2, 2), (48, 48, 9, 9)))
        shade = tuple(float(v) for v in tints[rng.integers(len(tints))] * rng.uniform(0.6, 1.1))
        cv2.ellipse(small, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, shade, -1)
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(0.8, 2.5)))
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR))


def _part_masks(labels: NDArray[np.uint8], size: int) -> dict[str, NDArray[np.bool_]]:
    masks = {}
    for part, label in _LABELS.items():
        shown = ((labels == label) | (labels == label + _PATTERN)).astype(np.float32)
        masks[part] = cv2.resize(shown, (size, size), interpolation=cv2.INTER_AREA) > 0.5
    return masks
