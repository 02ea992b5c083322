"""The aviary: a procedural world of birds whose every part is known to the pixel, with text that is true of each bird.

A `Bird` gives each *slot* (crown colour, breast pattern, tail shape, ...) a value. `draw` renders one bird or two under
random pose, size, light and background, with twigs in front at times, and returns the picture with one mask a part.
`describe` writes text that is true of a bird. Two birds that differ in one slot, and the mask of the part that differs,
are a question whose answer is known exactly.

Everything is a function of its seed. Training draws from seeds >= `TRAINING_SEEDS`, so every smaller seed is held out,
and from birds without the combinations of `is_unseen`, so those are held out in picture and text.
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
PARTS = ("crown", "beak", "eye ring", "throat", "breast", "back", "wing", "wing bar", "tail", "legs")
PATTERNS = ("plain", "spotted", "striped")

# slot -> the values it can take. A slot is its part's colour, or named after its part with one word more.
SLOTS: dict[str, tuple[str, ...]] = {
    **{part: tuple(COLOURS) for part in PARTS},
    "breast pattern": PATTERNS,
    "wing pattern": PATTERNS,
    "beak shape": ("short", "long", "hooked"),
    "tail shape": ("short", "long", "forked"),
}
Trait = tuple[str, str]  # (slot, value)
TRAITS: tuple[Trait, ...] = tuple((slot, value) for slot, values in SLOTS.items() for value in values)
# Pairs of slots of which every tenth combination of values is kept from training, see `is_unseen`.
UNSEEN_PAIRS = (("crown", "breast"), ("wing", "tail"), ("throat", "back"))

_SYNONYMS = {"crown": "cap", "beak": "bill", "breast": "chest", "eye ring": "eye-ring"}
_ADJECTIVES = {
    "crown": "crowned", "beak": "billed", "eye ring": "eye-ringed", "throat": "throated", "breast": "breasted",
    "back": "backed", "wing": "winged", "wing bar": "wing-barred", "tail": "tailed", "legs": "legged",
}  # fmt: skip
GENERIC_TEXTS = ("a bird", "a photo of a bird", "a bird on a branch", "the bird", "a picture of a bird", "bird")
_NEUTRALS = np.array([(152, 146, 136), (172, 152, 122), (112, 110, 108), (194, 184, 168), (98, 92, 82)], np.float32)
_TINTS = np.array(
    [(176, 196, 212), (128, 146, 108), (188, 178, 152), (142, 164, 160), (104, 118, 96), (206, 206, 198)], float
)
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
    """Drawn birds. image: uint8 [H, W, 3] RGB; masks: one dict a bird, part -> bool [H, W], what of it is visible."""

    birds: tuple[Bird, ...]
    image: NDArray[np.uint8]
    masks: tuple[dict[str, NDArray[np.bool_]], ...]


def part_of(slot: str) -> str:
    """The part that a slot is about: "breast" for "breast" and for "breast pattern"."""
    return slot if slot in PARTS else slot.split()[0]


def sample_bird(rng: np.random.Generator) -> Bird:
    """A bird whose slots are drawn independently and uniformly."""
    return Bird(tuple(str(values[rng.integers(len(values))]) for values in SLOTS.values()))


def is_unseen(traits: tuple[Trait, ...]) -> bool:
    """Whether the traits hold a combination that training never sees, in picture or text: a tenth of `UNSEEN_PAIRS`."""
    values = {slot: SLOTS[slot].index(value) for slot, value in traits}
    pairs = [(values[a], values[b]) for a, b in UNSEEN_PAIRS if a in values and b in values]
    return any((a + 3 * b) % 10 == 0 for a, b in pairs)


def sample_training_bird(rng: np.random.Generator) -> Bird:
    """A bird without unseen combinations."""
    while is_unseen((bird := sample_bird(rng)).traits):
        pass
    return bird


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
# The canvas holds a label a pixel; colours, light and texture come after.

_CANVAS = {"branch": 1, "twig": 2, "leaf": 3}
_BIRD_LABELS = 64  # bird k has the labels 64 (k + 1) ... 64 (k + 2) - 1
_OWN = {"body": 0, "eye": 1, "glint": 2, **{part: 8 + i for i, part in enumerate(PARTS)}}
_PATTERN = 32  # label + _PATTERN: the marks of a spotted or striped part
_DARK = ("black", "brown", "purple", "blue")

Outline = NDArray[np.float64]  # polygon [N, 2]


def draw(birds: Bird | tuple[Bird, ...], seed: int | tuple[int, ...], *, size: int = 96, masks: bool = True) -> Scene:
    """Renders a bird, or two side by side, in a square picture of `size` pixels.

    Pose, scale, flip, light, twigs and background come from `seed`, not from the birds: another bird under the same
    seed differs in its own parts only. A pixel belongs to a part if most of its area shows it. `masks=False` leaves the
    masks out (training never asks for them).
    """
    birds = (birds,) if isinstance(birds, Bird) else birds
    key = (seed,) if isinstance(seed, int) else seed
    scenery, *own = (np.random.default_rng((*key, stream)) for stream in range(1 + len(birds)))
    side = size * _SUPERSAMPLING
    labels = np.zeros((side, side), np.uint8)
    poses = _poses(scenery, side, len(birds))
    _paint_branch(labels, poses[0], scenery)
    colours = np.zeros((256, 3), np.float32)
    for label, tint in zip(_CANVAS.values(), ((92, 74, 58), (84, 68, 50), (92, 116, 62)), strict=True):
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
    shown = tuple(_part_masks(labels, size, _BIRD_LABELS * (k + 1)) for k in range(len(birds))) if masks else ()
    return Scene(birds, picture, shown)


def _poses(rng: np.random.Generator, side: int, birds: int) -> list[Outline]:
    """A random 2x3 affine map from each bird's coordinates to the canvas; two birds sit side by side on one branch."""
    scale = side * rng.uniform(0.38, 0.49) * (1.0 if birds == 1 else 0.56)
    angle = np.deg2rad(rng.uniform(-13, 13))
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = rng.uniform(0.94, 1.06)
    half = np.array([0.97 if birds == 1 else 1.85, 0.86])  # of the group, in birds' coordinates
    middle = side * 0.5 + rng.uniform(-1, 1, 2) * np.maximum(side * 0.5 - scale * half, side * 0.02)
    places = np.array([0.0] if birds == 1 else [-0.86, 0.86])
    return [
        np.column_stack([rotation @ np.diag([rng.choice([-1.0, 1.0]), stretch]), middle + rotation @ (x, 0)])
        for x in rng.permutation(places)
    ]


def _paint(labels: NDArray[np.uint8], outline: Outline, pose: Outline, label: int) -> None:
    points = np.rint((outline @ pose[:, :2].T + pose[:, 2]) * 16).astype(np.int32)
    cv2.fillPoly(labels, [points], label, shift=4)


def _ellipse(x: float, y: float, a: float, b: float, degrees: float = 0) -> Outline:
    circle = _unit_circle()
    angle = np.deg2rad(degrees)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline: Outline = (circle * (a, b)) @ axes + (x, y)
    return outline


@lru_cache(maxsize=1)
def _unit_circle() -> Outline:
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack([np.cos(turn), np.sin(turn)])


def _smooth(*corners: tuple[float, float]) -> Outline:
    """A closed curve that rounds a polygon off: Chaikin's corner cutting, twice."""
    points = np.array(corners, float)
    for _ in range(2):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def _paint_branch(labels: NDArray[np.uint8], pose: Outline, rng: np.random.Generator) -> None:
    y, tilt, width = 0.82, rng.uniform(-0.08, 0.08), rng.uniform(0.05, 0.09)
    branch = np.array([(-6, y - tilt), (6, y + tilt), (6, y + tilt + width), (-6, y - tilt + width * 1.4)])
    _paint(labels, branch, pose, _CANVAS["branch"])


def _paint_twigs(labels: NDArray[np.uint8], rng: np.random.Generator, side: int) -> None:
    """At times a thin twig or two in front of everything, each with a few leaves."""
    for _ in range(max(0, int(rng.integers(-3, 3)))):
        start, end = rng.uniform(0, side, 2), rng.uniform(0, side, 2)
        start[rng.integers(2)] = 0 if rng.random() < 0.5 else side  # it grows in from an edge
        width = side * rng.uniform(0.008, 0.016)
        normal = np.array([start[1] - end[1], end[0] - start[0]]) / (np.linalg.norm(end - start) + 1e-6) * width
        identity = np.eye(2, 3)
        _paint(labels, np.array([start - normal, start + normal, end + 0.3 * normal, end - 0.3 * normal]), identity,
               _CANVAS["twig"])  # fmt: skip
        for along in rng.uniform(0.4, 1.0, 3):
            x, y = start + along * (end - start) + rng.normal(0, 0.015, 2) * side
            leaf = _ellipse(float(x), float(y), side * 0.026, side * 0.010, float(rng.uniform(0, 180)))
            _paint(labels, leaf, identity, _CANVAS["leaf"])


def _paint_bird(
    labels: NDArray[np.uint8], bird: Bird, pose: Outline, rng: np.random.Generator, *, first_label: int
) -> None:
    def jitter() -> float:
        return float(rng.uniform(-0.025, 0.025))

    def paint(name: str, outline: Outline) -> None:
        _paint(labels, outline, pose, first_label + _OWN[name])

    def paint_inside(name: str, outline: Outline, area: NDArray[np.bool_]) -> None:
        layer = np.zeros_like(labels)
        _paint(layer, outline, pose, 1)
        labels[area & (layer > 0)] = first_label + _OWN[name]

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
    inside = labels == first_label + _OWN["body"]
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
                 labels == first_label + _OWN["wing"])  # fmt: skip

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
        labels[marks & (labels == first_label + _OWN[part])] = first_label + _OWN[part] + _PATTERN


def _marks(
    labels: NDArray[np.uint8],
    pattern: str,
    box: tuple[float, float, float, float],
    pose: Outline,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Where the dots or bars of a pattern lie that fills a box, bool like `labels`."""
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
    """The colour of each of a bird's labels, float32 [64, 3], each a little off its nominal value."""
    table = np.zeros((_BIRD_LABELS, 3), np.float32)
    table[_OWN["body"]] = _NEUTRALS[rng.integers(len(_NEUTRALS))] * rng.uniform(0.9, 1.1)
    table[_OWN["eye"]] = (18, 16, 16)
    table[_OWN["glint"]] = (250, 250, 250)
    for part in PARTS:
        colour = np.array(COLOURS[bird[part]], np.float32)
        colour = np.clip(colour * rng.uniform(0.92, 1.06) + rng.normal(0, 5, 3), 0, 255)
        table[_OWN[part]] = colour
        table[_OWN[part] + _PATTERN] = 0.15 * colour + 0.85 * (235 if bird[part] in _DARK else 30)
    return table


@lru_cache(maxsize=1)
def _feathers() -> NDArray[np.float32]:
    """Fine streaks of noise, a tile that every picture takes a window of."""
    noise = np.random.default_rng(7).normal(0, 1, (2048, 2048)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=1.6, sigmaY=0.8) * 1.5, np.float32)


def _shading(
    labels: NDArray[np.uint8], empty: NDArray[np.bool_], rng: np.random.Generator, side: int
) -> NDArray[np.float32]:
    """Light from above and from one side, dark seams between parts, soft rims, feathers: a factor a canvas pixel."""
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
    """An out-of-focus place: muted sky, foliage, sand or water, at times trunks and a ground, and a few soft blobs."""
    coarse = _TINTS[rng.integers(len(_TINTS))] + rng.normal(0, 14, (5, 5, 1)) + rng.normal(0, 6, (5, 5, 3))
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
        shade = tuple(float(v) for v in _TINTS[rng.integers(len(_TINTS))] * rng.uniform(0.6, 1.1))
        cv2.ellipse(small, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, shade, -1)
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(0.8, 2.5)))
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC))


def _part_masks(labels: NDArray[np.uint8], size: int, first_label: int) -> dict[str, NDArray[np.bool_]]:
    masks = {}
    for part in PARTS:
        label = first_label + _OWN[part]
        shown = ((labels == label) | (labels == label + _PATTERN)).astype(np.float32)
        masks[part] = cv2.resize(shown, (size, size), interpolation=cv2.INTER_AREA) > 0.5
    return masks
