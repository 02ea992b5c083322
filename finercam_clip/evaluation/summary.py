"""Records of images to a table: means with intervals, differences image by image, and what they depend on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finercam_clip.evaluation.faithfulness import FILLS
from finercam_clip.evaluation.intervals import Interval, bootstrap, mean
from finercam_clip.evaluation.protocol import CONTRASTED, CONTROLS, MASKED, PLAIN, Setting
from finercam_clip.tables import markdown

_HIDDEN = "contrastive at "  # the curve itself is in the JSON only

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One figure of one setting, or of a difference of two.

    Attributes:
        figure: Its name.
        method: A method; "" for controls without one.
        objective: An objective.
        gamma: Comparison strength.
        mode: A mode or a control; or "finer-default - baseline": the differences, image by image.
        images: How many images it is of.
        value: The mean, and the lower and upper end of its 95 % bootstrap interval.
    """

    figure: str
    method: str
    objective: str
    gamma: float
    mode: str
    images: int
    value: Interval


@dataclass(frozen=True)
class Result:
    """What an evaluation came to.

    Attributes:
        rows: Every figure.
        protocol: The choices that move them, in words.
        chances: Figure -> what a constant map reaches.
        rankings: Whether the order of maps depends on what fills the masked pixels, in words.
        images: How many images were measured.
        unreadable: Image -> why it was left out.
    """

    rows: list[Row]
    protocol: list[str]
    chances: dict[str, float]
    rankings: list[str]
    images: int
    unreadable: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "protocol": self.protocol,
            "images": self.images,
            "rankings": self.rankings,
            "chances": self.chances,
            "rows": [
                vars(row) | {"value": row.value[0], "low": row.value[1], "high": row.value[2]} for row in self.rows
            ],
            "unreadable": self.unreadable,
        }

    def table(self) -> str:
        """Protocol, table and rankings in Markdown."""
        shown = [row for row in self.rows if not row.figure.startswith(_HIDDEN)]
        beside = (*CONTROLS, MASKED)
        own = [row for row in shown if row.mode not in beside]
        parts = [f"{self.images} images, means with 95 % paired bootstrap intervals", "\n".join(self.protocol)]
        parts.append(_table(own, [PLAIN, *CONTRASTED, *(f"{mode} - {PLAIN}" for mode in CONTRASTED)], self.chances))
        controls = [row for row in shown if row.mode in beside]
        if controls:
            parts.append(_table(controls, list(beside), self.chances))
        parts.append("\n".join(self.rankings))
        return "\n\n".join(part for part in parts if part)


def result_of(
    records: Sequence[Record],
    compared: Sequence[Setting],
    controls: Sequence[Setting],
    protocol: list[str],
    unreadable: dict[str, str],
) -> Result:
    """The rows of all records."""
    columns = {setting: _columns(records, setting) for setting in (*compared, *controls)}
    rows = [row for setting in columns for row in _rows(setting, setting.mode, columns[setting])]
    plain = {setting.method: setting for setting in compared if setting.mode == PLAIN}
    for setting in compared:
        if setting.mode in CONTRASTED:
            mine, base = columns[setting], columns[plain[setting.method]]
            gains = {name: _minus(mine[name], base[name]) for name in mine if name in base}
            rows += _rows(setting, f"{setting.mode} - {PLAIN}", gains)
    chances: dict[str, list[float]] = {}
    for record in records:
        for name, value in record["chances"].items():
            chances.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in chances.items()}
    rankings = list(_rankings(rows, compared))
    return Result(rows, protocol, means, rankings, len(records), unreadable)


def _columns(records: Sequence[Record], setting: Setting) -> dict[str, dict[str, float]]:
    """Figure -> image -> value."""
    columns: dict[str, dict[str, float]] = {}
    for record in records:
        for name, value in record["figures"].get(setting.key, {}).items():
            columns.setdefault(name, {})[record["image"]] = value
    return columns


def _minus(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {image: value - other[image] for image, value in one.items() if image in other}


def _rows(setting: Setting, mode: str, columns: dict[str, dict[str, float]]) -> Iterable[Row]:
    for name, values in columns.items():
        if values:
            interval = bootstrap(mean, np.array(list(values.values())))
            yield Row(name, setting.method, setting.objective, setting.gamma, mode, len(values), interval)


def _rankings(rows: Sequence[Row], compared: Sequence[Setting]) -> Iterable[str]:
    """A line per contrasted setting: whether the sign of its gain depends on the fill."""
    gains = {(row.figure, row.method, row.objective, row.gamma, row.mode): row.value[0] for row in rows}
    for s in compared:
        mode = f"{s.mode} - {PLAIN}"
        own = {fill: gains.get((f"RD@5 {fill}, all", s.method, s.objective, s.gamma, mode)) for fill in FILLS}
        found = {fill: gain for fill, gain in own.items() if gain is not None}
        if len(found) < 2:
            continue
        listed = ", ".join(f"{fill} {gain:+.3f}" for fill, gain in found.items())
        flips = len({gain > 0 for gain in found.values()}) > 1
        verdict = "the ranking flips between fills" if flips else "the ranking is the same under all fills"
        yield f"RD@5 of {s.method}, {s.objective}, gamma {s.gamma:g}, {mode}: {listed}: {verdict}"


def _table(rows: Sequence[Row], modes: Sequence[str], chances: dict[str, float]) -> str:
    """A line per figure under a method, an objective and a gamma, a column per mode."""
    modes = [mode for mode in modes if any(row.mode == mode for row in rows)]
    values = {(row.figure, row.method, row.objective, row.gamma, row.mode): row for row in rows}
    figures = list(dict.fromkeys(row.figure for row in rows))
    plain = {(row.figure, row.method): row for row in rows if row.mode in (PLAIN, CONTROLS[3])}
    free = {(row.figure, row.mode): row for row in rows if not row.method}
    kinds = [row for row in rows if row.gamma > 0] or list(rows)
    lines = []
    for method, objective, gamma in dict.fromkeys((row.method, row.objective, row.gamma) for row in kinds):
        for figure in figures:
            cells = [
                values.get((figure, method, objective, gamma, mode))
                or (plain.get((figure, method)) if mode in (PLAIN, CONTROLS[3]) else None)
                or free.get((figure, mode))
                for mode in modes
            ]
            if any(cells):
                count = max(cell.images for cell in cells if cell)
                chance = f"{chances[figure]:.3f}" if figure in chances else ""
                shown = [_cell(cell.value, signed=" - " in cell.mode) if cell else "" for cell in cells]
                lines.append([figure, method, objective, f"{gamma:g}", f"{count}", chance, *shown])
    header = ["figure", "method", "objective", "gamma", "images", "chance", *modes]
    return markdown(header, lines, numbers=len(modes) + 3)


def _cell(value: Interval, *, signed: bool) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{value[0]:{form}} ({value[1]:{form}} to {value[2]:{form}})"
