"""What the study measured, in one file of figures, and its tables in docs/real-photographs.md."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import assets
import numpy as np
import study_parts

from finercam_clip.evaluation.intervals import Interval, bootstrap, mean
from finercam_clip.evaluation.protocol import CLEAR
from finercam_clip.files import write_whole
from finercam_clip.tables import markdown

FIGURES = Path(__file__).parent / "figures" / "study.json"
PAGE = Path(__file__).parent / "real-photographs.md"
MODELS = {"inat-birds": "inat-birds", "lite0": "EfficientNet-Lite0"}
KEPT = ("RD@", "energy in discs", "peak to nearest part", "differing part: rank", "causal rank", "overlap")
FEWEST = 10  # photographs of a figure of parts
POOLED = ("grid", "where", "more")  # cells of the base protocol, whose photographs are taken together
BASE = {
    "energy in discs",
    "peak to nearest part",
    "differing part: rank",
    "overlap of two classes",
    *(f"RD@{share} mean, {support}" for share in (5, 10) for support in ("all", "pair")),
}
OBJECTIVES = ("finer", "finer-rectified")
STRONGEST = "finer-strongest"  # the same as finer-rectified where there is one contrast
PLAIN, DEFAULT, COMPARE = "baseline", "finer-default", "finer-compare"

Kept = dict[str, Any]


# --------------------------------------------------------------------------------------------------------------- gather


def gather(output: Path) -> None:
    """Writes the figures of everything that was measured. What this run has not measured keeps its figures."""
    kept = Study().kept if FIGURES.exists() else {"cells": {}, "parts": {}}
    cells = kept["cells"]
    for path in sorted(output.glob("*/results.json")):
        if path.parent.name.startswith(POOLED):
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(row) for row in result["rows"] if row["figure"].startswith(KEPT)]
        cells[path.parent.name] = {"images": result["images"], "chances": result["chances"], "rows": rows}
    for model in MODELS:
        names = (*POOLED, "mean", "beside methods")
        together = _together([output / f"{name} {model}" / "records.jsonl" for name in names])
        if together["images"] >= cells.get(f"all {model}", {"images": 0})["images"]:
            cells[f"all {model}"] = together
    parts = kept["parts"]
    for path in sorted(output.glob("parts *.jsonl")):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if len(records) >= FEWEST:
            parts[path.stem.removeprefix("parts ")] = _parts(records)
    write_whole(FIGURES, f"{_lines({'cells': cells, 'parts': parts})}\n".encode())


def _row(row: Kept) -> list[Any]:
    names = [row[name] for name in ("figure", "method", "objective", "gamma", "mode", "images")]
    return [*names, *(round(row[name], 4) for name in ("value", "low", "high"))]


def _together(paths: list[Path]) -> Kept:
    """Figures of the base protocol, of the photographs of several cells."""
    images: set[str] = set()
    columns: dict[tuple[str, str], dict[str, float]] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.with_name("results.json").exists() else []:
            record = json.loads(line)
            images.add(record["image"])
            for key, figures in record["figures"].items():
                for figure in BASE & figures.keys():
                    columns.setdefault((figure, key), {})[record["image"]] = figures[figure]
    rows = []
    for (figure, key), values in sorted(columns.items()):
        method, mode, objective, gamma = key.split("|")
        base = columns[figure, f"{method}|{PLAIN}|similarity|0"]
        for name, own in ((mode, values), (_gain(mode), {i: v - base[i] for i, v in values.items() if i in base})):
            if name != _gain(PLAIN):
                value = bootstrap(mean, np.array(list(own.values())))
                rows.append([figure, method, objective, float(gamma), name, len(own), *(round(v, 4) for v in value)])
    return {"images": len(images), "chances": {}, "rows": rows}


def _lines(kept: Kept) -> str:
    """JSON, a row per line."""
    return json.dumps(kept, sort_keys=True).replace("], [", "],\n[").replace("}, ", "},\n")


def _parts(records: list[Kept]) -> Kept:
    """Figures of all pairs: their means over the pairs of a photograph, with intervals over photographs."""
    used = [record for record in records if record["pairs"]]
    figures: dict[str, list[Any]] = {}

    def add(name: str, figure: Callable[[Kept], Any]) -> None:
        values = study_parts.columns(used, figure)
        if len(values) > 1:
            figures[name] = [len(values), *(round(v, 4) for v in bootstrap(mean, values))]

    for name in used[0]["pairs"][0]["heats"]:
        add(f"rank|{name}", lambda r, n=name: study_parts.ranks_of(r, n))
        add(f"rank, clear|{name}", lambda r, n=name: study_parts.ranks_of(r, n, lead=CLEAR))
        add(f"rank, similar|{name}", lambda r, n=name: study_parts.ranks_of(r, n, similar=True))
        add(f"rank, far|{name}", lambda r, n=name: study_parts.ranks_of(r, n, far=True))
        add(f"rank, beak|{name}", lambda r, n=name: study_parts.ranks_of(r, n, part="beak"))
        add(f"rank, other than beak|{name}", lambda r, n=name: study_parts.ranks_of(r, n, other_than="beak"))
        add(f"lift|{name}", lambda r, n=name: study_parts.lift_of(r, n))
        add(f"with difference|{name}", lambda r, n=name: study_parts.correlation_of(r, n, "difference"))
        truth = "masking, own score" if name == "plain" else "masking"
        add(f"with masking|{name}", lambda r, n=name, t=truth: study_parts.correlation_of(r, n, t))
    add("gap lost, differing part", lambda r: [_lost(pair)[0] for pair in r["pairs"]])
    add("gap lost, another part", lambda r: [_lost(pair)[1] for pair in r["pairs"]])
    add("gap lost, difference", lambda r: [_lost(pair)[0] - _lost(pair)[1] for pair in r["pairs"]])
    counts: dict[str, int] = {}
    for record in used:
        for pair in record["pairs"]:
            counts[pair["part"]] = counts.get(pair["part"], 0) + 1
    return {"photographs": len(used), "pairs": sum(counts.values()), "parts": counts, "figures": figures}


def _lost(pair: Kept) -> tuple[float, float]:
    """By how much the gap falls without the differing part, and without another one (the mean)."""
    own = pair["parts"].index(pair["part"])
    lost = pair["heats"]["masking"]
    return lost[own], float(np.mean([value for i, value in enumerate(lost) if i != own]))


# --------------------------------------------------------------------------------------------------------------- tables


class Study:
    """The figures that are kept."""

    def __init__(self) -> None:
        self.kept: Kept = json.loads(FIGURES.read_text(encoding="utf-8"))

    def value(
        self, cell: str, figure: str, mode: str, objective: str = "", gamma: float = 0, method: str = ""
    ) -> tuple[int, Interval] | None:
        """How many photographs, and the figure; None where it was not measured."""
        for own, m, o, g, where, images, *value in self.kept["cells"].get(cell, {"rows": []})["rows"]:
            if own == figure and where == mode and method in ("", m) and objective in ("", o) and gamma in (0, g):
                return images, (value[0], value[1], value[2])
        return None

    def images(self, *where: Any) -> str:
        """How many photographs a figure is of."""
        found = self.value(*where)
        return "" if found is None else str(found[0])

    def shown(self, *where: Any, signed: bool = False, **more: Any) -> str:
        """A cell of a table."""
        found = self.value(*where, **more)
        return "" if found is None else interval(found[1], signed=signed)


def interval(value: Interval, *, signed: bool = False) -> str:
    """A figure with its interval, in bold where it is a difference and the interval is clear of 0."""
    form = "+.3f" if signed else ".3f"
    text = f"{value[0]:{form}} ({value[1]:{form}} to {value[2]:{form}})"
    return f"**{text}**" if signed and (value[1] > 0 or value[2] < 0) else text


def _gain(mode: str) -> str:
    return f"{mode} - {PLAIN}"


def drops(study: Study) -> str:
    """Every objective and gamma of the linear method."""
    figures = ("RD@5 mean, all", "RD@10 mean, all", "energy in discs", "overlap of two classes")
    lines = []
    for model, called in MODELS.items():
        cell = f"all {model}"
        lines.append(
            [
                called,
                "plain",
                "",
                "",
                study.images(cell, figures[0], PLAIN),
                *(study.shown(cell, f, PLAIN) for f in figures),
            ]
        )
        asked = [*itertools.product((DEFAULT, COMPARE), OBJECTIVES, (0.3, 0.6, 0.8, 1.0))]
        for mode, objective, gamma in [*asked, *((DEFAULT, STRONGEST, gamma) for gamma in (0.6, 1.0))]:
            cell = f"{'strongest' if objective == STRONGEST else 'all'} {model}"
            own = (_gain(mode), objective, gamma)
            gains = [study.shown(cell, figure, *own, signed=True) for figure in figures]
            lines.append([called, mode, objective, f"{gamma:g}", study.images(cell, figures[0], *own), *gains])
    header = ["model", "mode", "objective", "gamma", "images", "RD@5", "RD@10", *figures[2:]]
    return markdown(header, lines, numbers=6)


def _variants(model: str) -> Iterator[tuple[str, str, str, str, str, float]]:
    """A choice, its cell, figure, mode, objective and gamma."""
    base = ("RD@5 mean, all", DEFAULT, "finer", 0.6)
    yield ("base", f"all {model}", *base)
    yield ("contrast: the most similar class only", f"all {model}", base[0], COMPARE, *base[2:])
    yield ("gamma 1", f"all {model}", *base[:3], 1.0)
    yield ("rectified, gamma 1", f"all {model}", *base[:2], "finer-rectified", 1.0)
    yield ("10 % masked", f"all {model}", "RD@10 mean, all", *base[1:])
    yield ("softmax over target and contrast", f"all {model}", "RD@5 mean, pair", *base[1:])
    yield ("fill: mean, the photographs of the next two", f"mean {model}", *base)
    yield ("fill: black", f"fills {model}", "RD@5 black, all", *base[1:])
    yield ("fill: blur", f"fills {model}", "RD@5 blur, all", *base[1:])
    yield ("most similar by weights, not by logits", f"weights {model}", *base)
    yield ("black, by weights, lowest to highest, bilinear", f"reproduction {model}", "RD@5 black, all", *base[1:])
    yield ("pixels between cells: nearest", f"nearest {model}", *base)
    yield ("maps from lowest to highest value", f"min-max {model}", *base)
    yield ("input of 448 pixels", f"448 {model}", *base)
    yield ("input of 448 pixels, gamma 1", f"448 {model}", *base[:3], 1.0)


def choices(study: Study) -> str:
    """The protocol's choices, one at a time."""
    lines: dict[str, list[str]] = {}
    for model in MODELS:
        for name, cell, figure, mode, objective, gamma in _variants(model):
            plain = study.value(cell, figure, PLAIN)
            images = study.images(cell, figure, _gain(mode), objective, gamma)
            gain = study.shown(cell, figure, _gain(mode), objective, gamma, signed=True)
            lines.setdefault(name, [name]).extend(
                [images, "" if plain is None else f"{plain[1][0]:.3f}", gain or "not measured"]
            )
    header = [
        "choice",
        *(part for called in MODELS.values() for part in ("images", f"{called}: plain", "Finer - plain")),
    ]
    return markdown(header, lines.values(), numbers=6)


def places(study: Study) -> str:
    """The share of the heat in the discs about parts, by the choices that can move it."""
    lines = []
    for model, called in MODELS.items():
        for name, cell, mode, objective, gamma in (
            ("base", f"all {model}", DEFAULT, "finer", 0.6),
            ("gamma 1", f"all {model}", DEFAULT, "finer", 1.0),
            ("rectified, gamma 1", f"all {model}", DEFAULT, "finer-rectified", 1.0),
            ("the most similar class only, gamma 1", f"all {model}", COMPARE, "finer", 1.0),
            ("maps from lowest to highest value", f"min-max {model}", DEFAULT, "finer", 0.6),
            ("pixels between cells: nearest", f"nearest {model}", DEFAULT, "finer", 0.6),
            ("input of 448 pixels", f"448 where {model}", DEFAULT, "finer", 0.6),
            ("input of 448 pixels, gamma 1", f"448 where {model}", DEFAULT, "finer", 1.0),
            ("input of 448 pixels, rectified, gamma 1", f"448 where {model}", DEFAULT, "finer-rectified", 1.0),
        ):
            plain = study.value(cell, "energy in discs", PLAIN)
            if plain is not None:
                gain = study.shown(cell, "energy in discs", _gain(mode), objective, gamma, signed=True)
                lines.append([called, name, str(plain[0]), interval(plain[1]), gain])
    return markdown(["model", "choice", "images", "plain", "Finer - plain"], lines, numbers=3)


def methods(study: Study) -> str:
    """Every method, and the linear one on the same photographs."""
    figures = ("RD@5 mean, all", "RD@10 mean, all", "energy in discs")
    lines = []
    for model, called in MODELS.items():
        for cell, names in (
            (f"beside methods {model}", ("hirescam",)),
            (f"methods {model}", ("gradcam++", "layercam", "eigencam")),
            (f"beside occlusion {model}", ("hirescam",)),
            (f"occlusion {model}", ("occlusion",)),
            (f"rise {model}", ("rise",)),
            (f"scorecam {model}", ("scorecam",)),
        ):
            for method in names:
                row = [called, method, study.images(cell, figures[0], PLAIN, "", 0, method)]
                for figure in figures:
                    row.append(study.shown(cell, figure, PLAIN, method=method))
                    row.append(study.shown(cell, figure, _gain(DEFAULT), "finer", 0.6, method, signed=True))
                if row[2]:
                    lines.append(row)
    header = ["model", "method", "images"]
    for figure in ("RD@5", "RD@10", "in discs"):
        header += [f"{figure}, plain", "Finer - plain"]
    return markdown(header, lines, numbers=7)


def controls(study: Study) -> str:
    """What a map must be better than."""
    lines = []
    for model, called in MODELS.items():
        cell, grid = f"fills {model}", f"mean {model}"
        for what, name in (("centre", "centre"), ("saliency", "saliency"), ("random weights", "random weights")):
            drop, place = (study.shown(cell, figure, name) for figure in ("RD@5 mean, all", "energy in discs"))
            lines.append([called, what, drop, place])
        drop, place = (study.shown(cell, figure, "random contrast") for figure in ("RD@5 mean, all", "energy in discs"))
        lines.append([called, "random class as contrast", drop, place])
        for what, mode, objective in (("plain", PLAIN, ""), ("Finer, gamma 0.6", DEFAULT, "finer")):
            gamma = 0.6 if objective else 0
            drop = study.shown(grid, "RD@5 mean, all", mode, objective, gamma)
            lines.append([called, what, drop, study.shown(cell, "energy in discs", mode, objective, gamma)])
        chance = study.kept["cells"].get(cell, {"chances": {}})["chances"].get("energy in discs")
        lines.append([called, "a constant map", "", "" if chance is None else f"{chance:.3f}"])
    return markdown(["model", "map", "RD@5", "energy in discs"], lines, numbers=2)


RANKS = ("model, pixels", "heat", "images", "rank", "beak", "other parts", "far parts", "lift", "agrees with masking")
KINDS = ("rank, beak", "rank, other than beak", "rank, far")
RANKED = {
    "plain": "plain map",
    "finer": "Finer, gamma 1",
    "rectified": "rectified, gamma 1",
    "random contrast": "random class as contrast",
    "the grid's best": "the best map of this grid",
    "masking": "the model itself: gap lost when the part is masked",
}


def ranks(study: Study) -> str:
    """Where the part that differs stands among the visible ones, and whether heat and the model agree."""
    lines = []
    for cell, kept in study.kept["parts"].items():
        model, size = cell.rsplit(" ", 1)
        for name, called in RANKED.items():
            figures = {c: kept["figures"].get(f"{c}|{name}") for c in ("rank", *KINDS, "lift", "with masking")}
            if name in ("masking", "the grid's best"):
                figures["with masking"] = None
            cells = [
                "" if value is None else interval(tuple(value[1:]), signed=c == "lift" and name != "plain")
                for c, value in figures.items()
            ]
            if name == "plain":
                cells[-2] = "0"
            lines.append([f"{MODELS[model]}, {size}", called, str(kept["photographs"]), *cells])
    return markdown(RANKS, lines, numbers=7)


def clearest(study: Study) -> str:
    """The same of the pair that differs most clearly, as `evaluate` measures it."""
    figure, lines = "differing part: rank", []
    for model, called in MODELS.items():
        for cell, size, method in (
            (f"all {model}", 224, "hirescam"),
            (f"448 where {model}", 448, "hirescam"),
            (f"beside occlusion {model}", 224, "hirescam"),
            (f"occlusion {model}", 224, "occlusion"),
            (f"rise {model}", 224, "rise"),
            (f"scorecam {model}", 224, "scorecam"),
        ):
            for what, mode, objective, gamma in (
                ("plain", PLAIN, "", 0.0),
                ("gamma 0.6", COMPARE, "finer", 0.6),
                ("gamma 1", COMPARE, "finer", 1.0),
                ("rectified, gamma 1", COMPARE, "finer-rectified", 1.0),
            ):
                own = (mode, objective, gamma, method)
                row = [study.images(cell, figure, *own), *(study.shown(cell, f, *own) for f in (figure, "causal rank"))]
                if row[0]:
                    lines.append([f"{called}, {size}", method, what, *row])
    header = ["model, pixels", "method", "map", "images", "rank", "agrees with masking"]
    return markdown(header, lines, numbers=3)


TABLES: dict[str, Callable[[Study], str]] = {
    "study-drops": drops,
    "study-choices": choices,
    "study-places": places,
    "study-methods": methods,
    "study-controls": controls,
    "study-ranks": ranks,
    "study-clearest": clearest,
}


def filled(text: str) -> str:
    """The page with its tables."""
    study = Study()
    for name, table in TABLES.items():
        text = assets.fill(text, name, table(study))
    return text


def fill_page() -> None:
    """Puts the tables into the page."""
    write_whole(PAGE, filled(PAGE.read_text(encoding="utf-8")).encode())
