"""Is the part hot in which two classes differ, and does the model itself look there? For every pair of classes.

For each photograph, each class that differs from its own clearly in one visible part: the rank of that part by the heat
of the map, by what masking the part does to the gap of the two scores, and by the best map that the grid can show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finercam_clip.datasets import DataSet, Item, Truth
from finercam_clip.datasets.truth import differences
from finercam_clip.evaluation import metrics
from finercam_clip.evaluation.asked import Classes
from finercam_clip.evaluation.causes import masked_parts
from finercam_clip.evaluation.heats import on_image
from finercam_clip.evaluation.judging import Parts, Place
from finercam_clip.evaluation.protocol import Protocol
from finercam_clip.evaluation.stopwatch import Stopwatch
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.images import read_image
from finercam_clip.opencv import cv2

MAPS = {"plain": ("similarity", 0.0), "finer": ("finer", 1.0), "rectified": ("finer-rectified", 1.0)}
LEAST = 4  # visible parts of a photograph
EACH = 2  # pairs for each part of it

Record = dict[str, Any]
Pair = tuple[str, dict[str, float], str, float]  # a class, its differences by part, the largest one's part, its lead


@dataclass(frozen=True)
class Asked:
    """What is looked at.

    Attributes:
        explainer: The model.
        dataset: The photographs.
        truth: Their parts, and the attributes of their classes.
        classes: The model's classes.
        method: A method that is linear, so that every pair costs little.
        size: Of the model's input.
    """

    explainer: Explainer
    dataset: DataSet
    truth: Truth
    classes: Classes
    method: str
    size: int


def record_of(asked: Asked, item: Item) -> Record:
    """Every pair of one photograph."""
    encoding = asked.explainer.encode(read_image(item.path), image_size=asked.size)
    shape = (encoding.image.shape[0], encoding.image.shape[1])
    place = Place.of(asked.truth, item.name, shape, Protocol().radius)
    own = str(item.target)
    record: Record = {"image": item.name, "target": own, "pairs": []}
    pairs = pairs_of(asked.truth, place.parts, own, list(asked.classes.target_of))
    if not pairs:
        return record
    parts = {part: place.parts[part] for part in pairs[0][1]}
    record["right"] = asked.classes.most_probable(encoding.embedding)[0] == asked.classes.target_of[own]
    others = [asked.classes.target_of[other] for other, *_ in pairs]
    directions = asked.classes.directions[[asked.classes.target_of[own], *others]]
    masked = masked_parts(encoding, parts, place.radius, directions, Stopwatch())
    scores = torch.cat([masked.before[None], *masked.after.values()]).cpu().numpy()  # a photograph has one change each
    gaps = scores[:, :1] - scores[:, 1:]
    lost = gaps[:1] - gaps[1:]  # [parts, pairs]
    plain = _heats(encoding, asked, parts, place.radius, "plain", directions[:1], directions[:0])
    far = _far(parts, 2 * max(shape) / max(encoding.grid))
    best = {part: _best(encoding, parts, part, place.radius) for part in {pair[2] for pair in pairs}}
    target = asked.classes.target_of[own]
    stranger = asked.classes.random([target, *others], 0, item.name)
    stray = _heats(encoding, asked, parts, place.radius, "finer", directions[:1], asked.classes.directions[[stranger]])
    order = asked.classes.nearest(target, encoding.embedding)
    for index, (other, by_part, part, lead) in enumerate(pairs):
        heats = {
            name: plain
            if name == "plain"
            else _heats(encoding, asked, parts, place.radius, name, directions[:1], directions[[index + 1]])
            for name in MAPS
        }
        heats["random contrast"] = stray
        heats["the grid's best"] = best[part]
        heats["masking"] = dict(zip(parts, lost[:, index].tolist(), strict=True))
        heats["masking, own score"] = dict(zip(parts, (scores[0, 0] - scores[1:, 0]).tolist(), strict=True))
        record["pairs"].append(
            {
                "other": other,
                "part": part,
                "lead": lead,
                "similar": others[index] in order,
                "difference": [by_part[name] for name in parts],
                "parts": list(parts),
                "far": [name in far[part] for name in parts],
                "heats": {name: [values[p] for p in parts] for name, values in heats.items()},
                "gap": float(gaps[0, index]),
            }
        )
    return record


def pairs_of(truth: Truth, parts: Parts, own: str, classes: list[str]) -> list[Pair]:
    """For each visible part the classes that differ from one in it most of all parts, and by the largest lead.

    Without a share for each part nearly all would be about the beak, which has most attributes.
    """
    by_part: dict[str, list[Pair]] = {}
    for other in classes:
        if other == own or own not in truth.classes or other not in truth.classes:
            continue
        every = differences(truth.classes[own], truth.classes[other])
        visible = {part: value for part, value in every.items() if part in parts}
        if len(visible) >= LEAST:
            first, second = sorted(visible.values(), reverse=True)[:2]
            part = max(visible, key=lambda name: visible[name])
            by_part.setdefault(part, []).append((other, visible, part, first - second))
    return [pair for pairs in by_part.values() for pair in sorted(pairs, key=lambda pair: -pair[3])[:EACH]]


def _heats(
    encoding: ImageEncoding, asked: Asked, parts: Parts, radius: float, name: str, target: Any, contrast: Any
) -> dict[str, float]:
    objective, gamma = MAPS[name]
    changes: Any = {"method": asked.method, "objective": objective, "gamma": gamma}
    grid = encoding.heatmaps(target, contrast, **changes)[0]
    return metrics.part_heats(on_image(encoding, grid, Protocol()), parts, radius)


def _best(encoding: ImageEncoding, parts: Parts, part: str, radius: float) -> dict[str, float]:
    """Heats of the best map of this grid: the part's own discs, averaged over each cell."""
    size = encoding.geometry.size
    scale = (size[1] / encoding.image.shape[1], size[0] / encoding.image.shape[0])
    points = [(x * scale[0], y * scale[1]) for x, y in parts[part]]
    discs = metrics.discs(points, radius * max(scale), size).astype(np.float32)
    grid = cv2.resize(discs, encoding.grid[::-1], interpolation=cv2.INTER_AREA)
    return metrics.part_heats(on_image(encoding, grid, Protocol()), parts, radius)


def _far(parts: Parts, distance: float) -> dict[str, set[str]]:
    """Part -> itself and the parts that are farther from it than so many pixels."""
    return {
        part: {other for other, theirs in parts.items() if other == part or _apart(points, theirs) > distance}
        for part, points in parts.items()
    }


def _apart(one: Iterable[tuple[float, float]], other: Iterable[tuple[float, float]]) -> float:
    a, b = np.array(list(one)), np.array(list(other))
    return float(np.linalg.norm(a[:, None] - b[None], axis=-1).min())


# ------------------------------------------------------------------------------------------------------------ figures


def rank(values: list[float], first: int, among: Iterable[bool]) -> float | None:
    """The share of other parts that are below one; None where there is no other."""
    chosen = {str(i): value for i, (value, use) in enumerate(zip(values, among, strict=True)) if use}
    return metrics.rank_of(str(first), chosen) if len(chosen) > 1 else None


def ranks_of(
    record: Record,
    name: str,
    *,
    far: bool = False,
    similar: bool = False,
    lead: float = 0.0,
    part: str = "",
    other_than: str = "",
) -> list[float]:
    """The ranks of the differing part over the pairs of one photograph.

    Args:
        record: The photograph.
        name: Which heat.
        far: Only against parts that are two cells away at least.
        similar: Only pairs with one of the three classes that are most similar by logits.
        lead: Only pairs whose differing part leads by so much.
        part: Only pairs that differ in this part.
        other_than: Only pairs that differ in another part.
    """
    ranks = []
    for pair in record["pairs"]:
        if pair["lead"] < lead or (similar and not pair["similar"]):
            continue
        if pair["part"] == other_than or (part and pair["part"] != part):
            continue
        among = pair["far"] if far else [True] * len(pair["parts"])
        own = rank(pair["heats"][name], pair["parts"].index(pair["part"]), among)
        if own is not None:
            ranks.append(own)
    return ranks


def lift_of(record: Record, name: str) -> float | None:
    """How much higher a part ranks where the pair differs in it than where the pair differs elsewhere.

    The same part of the same photograph is compared with itself, so it does not matter which parts are hot anyway. 0 is
    chance.
    """
    own: dict[str, list[float]] = {}
    elsewhere: dict[str, list[float]] = {}
    for pair in record["pairs"]:
        for i, part in enumerate(pair["parts"]):
            value = rank(pair["heats"][name], i, [True] * len(pair["parts"]))
            if value is not None:
                (own if part == pair["part"] else elsewhere).setdefault(part, []).append(value)
    lifts = [np.mean(own[part]) - np.mean(elsewhere[part]) for part in own if part in elsewhere]
    return float(np.mean(lifts)) if lifts else None


def correlation_of(record: Record, name: str, other: str) -> float | None:
    """Spearman's correlation over parts of two heats, or of heat and difference; the mean over pairs."""
    values = [
        metrics.rank_correlation(
            pair["heats"][name], pair["difference"] if other == "difference" else pair["heats"][other]
        )
        for pair in record["pairs"]
    ]
    return float(np.mean(values)) if values else None


def columns(records: list[Record], figure: Any) -> NDArray[np.float64]:
    """A figure of each photograph that has it."""
    values = (figure(record) for record in records)
    flat = [np.mean(value) if isinstance(value, list) else value for value in values if value not in (None, [])]
    return np.array(flat, float)
