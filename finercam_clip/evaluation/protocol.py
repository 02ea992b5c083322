"""What is measured, and how: the settings that are compared, the figures, and every choice that moves them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finercam_clip import checks
from finercam_clip.errors import InputError
from finercam_clip.evaluation.faithfulness import FILLS
from finercam_clip.presets import MODES

PLAIN = "baseline"
CONTRASTED = tuple(mode for mode in MODES if mode != PLAIN)
CONTROLS = ("centre", "saliency", "random contrast", "random weights")
MASKED = "masked parts"  # no map: what the model itself does without each part
GROUPS = {
    "drop": "relative confidence drop at 5 and 10 %, three fills, two softmaxes",
    "curves": "deletion, insertion and contrastive areas: three times the time",
    "place": "energy and pointing in boxes, masks or discs about parts",
    "difference": "is the part hot in which two classes differ?",
    "causes": "what does the model lose without each part, and is the map hot there? A picture more per part",
    "overlap": "do the maps of the two most probable classes look alike?",
    "controls": "centre, saliency, a random contrast, random weights",
}
USUAL = ("drop", "place", "difference", "overlap")

DROPS = (0.05, 0.1)  # shares of the pixels that are masked
TENTHS = tuple(round(i / 10, 1) for i in range(11))  # of the curves
DELETION, INSERTION = "mean", "blur"  # their fills
CLEAR = 0.2  # by how much the part that differs most must lead the next, in total variation
SCALINGS = {"positive": "the positive part", "min-max": "from the lowest value to the highest"}
UPSAMPLINGS = ("bicubic", "bilinear", "nearest")
TOP = 0.1  # share of the cells that `overlap` compares


@dataclass(frozen=True)
class Setting:
    """A way to make a map.

    Attributes:
        method: A name in `methods.METHODS`; "" for controls without one.
        mode: One of `presets.MODES`, or of `CONTROLS`, or `MASKED`.
        objective: A name in `objectives.OBJECTIVES`.
        gamma: Comparison strength; 0 for plain maps.
    """

    method: str
    mode: str
    objective: str = "similarity"
    gamma: float = 0.0

    @property
    def key(self) -> str:
        """Its name in records."""
        return f"{self.method}|{self.mode}|{self.objective}|{self.gamma:g}"


def settings_for(methods: Sequence[str], objectives: Sequence[str], gammas: Sequence[float]) -> list[Setting]:
    """Each method plain, and in the paper's two modes with contrasts under every objective and gamma."""
    settings = []
    for method in methods:
        settings.append(Setting(method, PLAIN))
        for objective, gamma, mode in itertools.product(objectives, gammas, CONTRASTED):
            settings.append(Setting(method, mode, objective, gamma))
    return settings


def controls_for(methods: Sequence[str], objective: str, gamma: float) -> list[Setting]:
    """What a map must be better than."""
    own = [Setting("", control) for control in CONTROLS[:2]]
    for method in methods:
        own += [Setting(method, CONTROLS[2], objective, gamma), Setting(method, CONTROLS[3])]
    return own


@dataclass(frozen=True)
class Protocol:
    """The choices that move the figures.

    Attributes:
        about: "class", each image is asked about its own class; "prediction", about the class that is predicted.
        groups: Which figures, of `GROUPS`.
        radius: Of the discs about part points, as a share of the picture's longer side.
        seed: Draws the images, and the random contrasts.
        limit: How many images at most; None for all.
        fills: What takes the place of masked pixels for the relative confidence drop, of `faithfulness.FILLS`.
        scaling: Of signed maps: "positive", the positive part; "min-max", from their lowest to their highest value, as
            some code has it.
        upsampling: From the grid to pixels: "bicubic", "bilinear" or "nearest".
    """

    about: str = "class"
    groups: tuple[str, ...] = USUAL
    radius: float = 0.1
    seed: int = 0
    limit: int | None = None
    fills: tuple[str, ...] = tuple(FILLS)
    scaling: str = "positive"
    upsampling: str = UPSAMPLINGS[0]

    def __post_init__(self) -> None:
        checks.choice(self.about, ("class", "prediction"), "target")
        for group in self.groups:
            checks.choice(group, tuple(GROUPS), "group of figures")
        for fill in self.fills:
            checks.choice(fill, tuple(FILLS), "fill")
        checks.choice(self.scaling, tuple(SCALINGS), "scaling of maps")
        checks.choice(self.upsampling, UPSAMPLINGS, "upsampling of maps")
        if not self.groups:
            raise InputError(f"no figures are named; there are {', '.join(GROUPS)}")
        radius = checks.real(self.radius)
        if radius is None or not 0 < radius <= 1:
            raise InputError(f"the radius of discs is a share of the picture, above 0 and up to 1, not {self.radius}")
        checks.count(self.seed, "seed", least=0)
        if self.limit is not None:
            checks.count(self.limit, "limit")

    def plain(self) -> dict[str, Any]:
        """Every choice, ready for JSON."""
        return asdict(self) | {"groups": list(self.groups), "fills": list(self.fills)}

    def lines(self, classes: int, size: object, resize: str, pooling: str, kinds: Iterable[str]) -> list[str]:
        """The protocol for people, a line per choice.

        Args:
            classes: How many classes the softmax is over.
            size: Of the model's input, as `Options.image_size` has it.
            resize: The resize mode of preprocessing.
            pooling: How tokens are pooled.
            kinds: The truth that was found, in words.
        """
        target = "its own class" if self.about == "class" else "the class that the model finds most probable"
        lines = [
            f"target: {target}; contrast d: the most similar class, as the mode finer-compare chooses it",
            f"softmax: 'all' over {classes:,} classes, 'pair' over target and d",
            f"input: {_size(size)}, resize mode {resize}, pooling {pooling}",
            f"maps: {SCALINGS[self.scaling]}, {self.upsampling} from the grid to the pixels of the input (masking) or "
            "of the image (place); no figure depends on their scale",
            f"masking: in the model's input after resizing, pixel by pixel; fills {', '.join(self.fills)} "
            "(mean: the picture's own; blur: Gaussian, a twentieth of the longer side)",
        ]
        if "curves" in self.groups:
            lines.append(
                f"curves: in tenths of the pixels, softmax over all; deletion and contrastive with fill {DELETION}, "
                f"insertion onto {INSERTION}; the contrastive curve is p_target - p_d as the hottest pixels go"
            )
        if {"place", "difference", "causes"} & {*self.groups}:
            lines.append(
                f"place: pointing near within half a cell of the grid; discs about parts of {self.radius:g} of the "
                "longer side; left and right are one part"
            )
        if {"difference", "causes"} & {*self.groups}:
            lines.append(
                "difference: against the class where the part that differs most leads the next one most, by "
                f"{CLEAR:g} in total variation at least; its parts' mean heat, among the visible ones; chance of a "
                "rank is 0.5"
            )
        if "causes" in self.groups:
            lines.append(
                "causes: against the same class; discs of visible parts masked one by one in the image, in its mean "
                "colour; the gap is that of the two scores"
            )
        if "overlap" in self.groups:
            lines.append(f"overlap: of the hottest {TOP:.0%} of cells; unrelated maps reach {TOP:g}")
        return [*lines, *(f"truth: {kind}" for kind in kinds)]


def _size(size: object) -> str:
    if isinstance(size, tuple):
        return f"{size[1]} x {size[0]} pixels"
    return f"{size} x {size} pixels" if isinstance(size, int) else "the image's own size"
