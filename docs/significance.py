"""The figures of docs/significance.md: measures them, and writes its tables.

    OMP_NUM_THREADS=1 python docs/significance.py --data DIR             # all of them
    OMP_NUM_THREADS=1 python docs/significance.py --only birds z-maps    # some
    python docs/significance.py --tables                                 # only the tables, from docs/figures

DIR holds cub-crops (CUB-200-2011, or a part of it, in its own layout); without it photographs are left out, and their
figures stay as they are. Every question is drawn from --seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import assets
import numpy as np
import torch

import finercam_clip
from finercam_clip import progress
from finercam_clip.aviary.questions import BirdQuestion, make_question
from finercam_clip.concepts.vocabulary import read_prompts
from finercam_clip.datasets import open_dataset
from finercam_clip.evaluation import metrics
from finercam_clip.evaluation.controls import randomised
from finercam_clip.evaluation.intervals import Interval, bootstrap, mean, share
from finercam_clip.files import write_whole
from finercam_clip.significance import HARDLY, LEVEL, p_values
from finercam_clip.tables import markdown

FIGURES = Path(__file__).parent / "figures" / "significance.json"
PAGE = Path(__file__).parent / "significance.md"
SEED = 700_000  # the first question's
CLOSED = 0.15  # the level of the null "aviary": one trait in eight is true of any bird
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"objective": "similarity"},
    "finer-rectified": {"objective": "finer-rectified", "gamma": 1.0},
}
BIRDS = (*range(7, 25), *range(80, 101), *range(127, 147))  # classes of ImageNet
SPECIES = {  # of cub-crops, of which ImageNet has a class
    "019.European_Goldfinch": "goldfinch",
    "006.Indigo_Bunting": "indigo bunting",
    "026.Anna_Hummingbird": "hummingbird",
    "027.Ruby_throated_Hummingbird": "hummingbird",
    "028.Rufous_Hummingbird": "hummingbird",
    "029.Green_Violetear": "hummingbird",
    "038.Red_breasted_Merganser": "red-breasted merganser",
    "045.Brown_Pelican": "pelican",
    "046.White_Pelican": "pelican",
    "001.Black_footed_Albatross": "albatross",
    "030.Blue_Jay": "jay",
}
NEAREST = 60  # classes of a null of the nearest ones

Figures = dict[str, list[float]]  # name -> how many, the figure, the ends of its 95 % interval


def kept(count: int, value: Interval) -> list[float]:
    return [count, *(round(v, 4) for v in value)]


def rate(hits: Any) -> list[float]:
    """The share of questions, with Wilson's interval."""
    return kept(len(hits), share(np.asarray(hits, bool)))


def average(values: Any) -> list[float]:
    return kept(len(values), bootstrap(mean, np.asarray(values, float)))


def apart(present: list[float], absent: list[float]) -> list[float]:
    """The AUROC of p-values of what is absent against those of what is there, question by question."""
    figure = bootstrap(lambda a, p: metrics.auroc(a, p), np.array(absent), np.array(present))
    return kept(len(present), figure)


def asked(kind: str, count: int, seed: int) -> list[BirdQuestion]:
    return [make_question(kind, seed + i) for i in range(count)]


# ---------------------------------------------------------------------------------------------------------- drawn birds


def validity(seed: int, data: Path | None) -> Figures:
    """Targets drawn from the null's own texts: 20 on each of 100 birds. The contrast is a text of the null, too."""
    explainer, texts, rng = finercam_clip.load(), read_prompts("aviary"), np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for question in progress.each(asked("attribute", 100, seed), "validity"):
        image = explainer.encode(question.scene.image)
        for target, contrast in rng.permutation(texts)[:40].reshape(20, 2):
            for name, changes in SETTINGS.items():
                contrasts = [] if name == "plain" else [str(contrast)]
                found[name].append(float(image.explain(str(target), contrasts, null="aviary", **changes).p_value or 0))
    level = {f"{name}, p <= {at:g}": rate(np.array(p) <= at + 1e-9) for name, p in found.items() for at in (0.05, 0.01)}
    return level


def birds(seed: int, data: Path | None) -> Figures:
    """A text that is true of a bird, and the same text with another value of its trait."""
    explainer, figures = finercam_clip.load(), {}
    questions = asked("absent", 400, seed)
    images = [explainer.encode(question.scene.image) for question in questions]
    for name, changes in SETTINGS.items():
        absent, present = [], []
        for question, image in zip(progress.each(questions, f"birds, {name}"), images, strict=True):
            contrasts = [] if name == "plain" else [question.contrast]
            for text, values in ((question.target, absent), (question.siblings[-1], present)):
                values.append(float(image.explain(text, contrasts, null="aviary", **changes).p_value or 0))
        figures[f"{name}, AUROC"] = apart(present, absent)
        figures[f"{name}, absent and flagged"] = rate(np.array(absent) > CLOSED)
        figures[f"{name}, present and flagged"] = rate(np.array(present) > CLOSED)
    return figures


def z_maps(seed: int, data: Path | None) -> Figures:
    """z-maps as heatmaps, beside the maps that they are made of."""
    explainer, figures = finercam_clip.load(), {}
    for kind in ("attribute", "species"):
        found: dict[str, list[float]] = {}
        for question in progress.each(asked(kind, 120, seed), f"z-maps, {kind}"):
            image = explainer.encode(question.scene.image)
            for name, contrasts in (("plain", []), ("finer", [question.contrast])):
                answer = image.explain(question.target, contrasts, null="aviary")
                assert answer.z is not None
                for of, grid in ((name, answer.grid), (f"z of {name}", answer.z)):
                    heat = replace(answer, grid=grid, target_grid=grid).heatmap
                    hit = metrics.pointing(question.answer, metrics.peak_of(heat))
                    found.setdefault(f"{of}, pointing", []).append(float(hit))
                    found.setdefault(f"{of}, energy", []).append(metrics.energy(heat, question.answer))
        figures |= {f"{kind}, {name}": average(values) for name, values in found.items()}
        for measure in ("pointing", "energy"):
            for name in ("plain", "finer"):
                gain = np.array(found[f"z of {name}, {measure}"]) - np.array(found[f"{name}, {measure}"])
                figures[f"{kind}, z of {name} - {name}, {measure}"] = average(gain)
    return figures


def random_towers(seed: int, data: Path | None) -> Figures:
    """Whether `specific` tells models of random weights, and whether the dimensions of the null's maps would.

    The dimensions are the participation ratio of the maps' principal values: how many independent maps the texts of
    the null give on one image.
    """
    own = finercam_clip.load()
    image_only = randomised(own)
    assert image_only is not None
    models = {
        "bundled": own,
        "ViT-B-32, all random": finercam_clip.load("ViT-B-32", pretrained="random"),
        "bundled, image tower random": image_only,
    }
    figures: Figures = {}
    questions = asked("attribute", 60, seed)
    for name, explainer in models.items():
        texts = explainer.embed(read_prompts("aviary"))
        specific, dimensions = [], []
        for question in progress.each(questions, name):
            image = explainer.encode(question.scene.image)
            specific.append(float(image.explain(question.target, null="aviary").specific or 0))
            dimensions.append(_dimensions(image.heatmaps(texts)))
        figures[f"{name}, specific < {HARDLY:g}"] = rate(np.array(specific) < HARDLY)
        figures[f"{name}, specific"] = average(specific)
        figures[f"{name}, dimensions of the null"] = average(dimensions)
    return figures


def _dimensions(maps: np.ndarray) -> float:
    """The participation ratio of the principal values of maps [K, h, w], 1 .. cells; the mean map is taken away."""
    rows = maps.reshape(len(maps), -1).astype(float)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return float(values.sum() ** 2 / (values**2).sum())


# ---------------------------------------------------------------------------------------------------------- photographs


def photographs(seed: int, data: Path | None) -> Figures:
    """A classifier on photographs: its own class, another of these birds, a class of no bird; and what else could tell.

    All classes are asked about once per picture, plain. "the nearest" has the 60 classes in the null whose rows of the
    head are nearest to the target's, but for those that are near as every null has it (`concepts.null`). "by score" is
    the rank of the target's logit, among all classes or those: no map.
    """
    if data is None or not (data / "cub-crops").is_dir():
        print("photographs: left out, there is no cub-crops (--data)")
        return {}
    explainer, rng = finercam_clip.load_classifier("photos"), np.random.default_rng(seed)
    items = [item for item in open_dataset(data / "cub-crops").items if item.target in SPECIES]
    chosen = [items[i] for i in sorted(rng.choice(len(items), 120, replace=False))]
    space = explainer.loaded.space
    classes = space.vocabulary(None)
    rows = space.directions(classes)
    bare = space.bare(rows)
    cosines = (bare @ bare.T).cpu().numpy()
    typical = (cosines.sum() - len(rows)) / (len(rows) * (len(rows) - 1))
    numbers = {concept.key: i for i, concept in enumerate(classes)}
    birds = {name: numbers[space.concept(name, "target").key] for name in sorted({*SPECIES.values()})}
    things = [i for i in range(len(classes)) if i not in BIRDS]
    found: dict[tuple[str, str], list[float]] = {}
    for item in progress.each(chosen, "photographs"):
        image = explainer.encode(item.path)
        logits, maps = (rows @ image.embedding).cpu().numpy(), image.heatmaps(rows)
        own = birds[SPECIES[str(item.target)]]
        other = int(rng.choice([i for i in birds.values() if i != own]))
        for what, target in (("there", own), ("bird", other), ("thing", int(rng.choice(things)))):
            every = np.flatnonzero(cosines[target] < (1 + typical) / 2)
            nearest = every[np.argsort(-cosines[target, every])[:NEAREST]]
            for called, null in (("all classes", every), ("the nearest", nearest)):
                found.setdefault((called, what), []).append(float(p_values(maps[target], maps[null]).min()))
                better = int((logits[null] >= logits[target]).sum())
                found.setdefault((f"{called}, by score", what), []).append((1 + better) / (1 + len(null)))
    figures = {f"{called}, {what} and flagged": rate(np.array(p) > LEVEL + 1e-9) for (called, what), p in found.items()}
    for called in dict.fromkeys(called for called, _ in found):
        figures[f"{called}, AUROC of there against bird"] = apart(found[called, "there"], found[called, "bird"])
    return figures


# ----------------------------------------------------------------------------------------------------------------- cost


def cost(seed: int, data: Path | None) -> Figures:
    """500 null texts on ViT-B-16, in forward passes: processor time, median of 5 rounds, the least and the largest."""
    explainer = finercam_clip.load("ViT-B-16", pretrained="random")
    texts = explainer.embed([*read_prompts("everyday"), *read_prompts("traits")][:500])
    picture = make_question("attribute", seed).scene.image
    pixels = explainer.encode(picture).forward.pixels
    ratios: dict[str, list[float]] = {"first question": [], "each further one": []}
    for _ in range(6):
        with torch.no_grad():
            bare = _seconds(lambda: explainer.loaded.tower.visual(pixels))
        encoding = explainer.encode(picture)
        for name in ratios:
            ratios[name].append(_seconds(lambda e=encoding: e.heatmaps(texts)) / bare)
    rounds = {name: values[1:] for name, values in ratios.items()}  # the first warms up
    return {name: kept(len(r), (statistics.median(r), min(r), max(r))) for name, r in rounds.items()}


def _seconds(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


CELLS: dict[str, Callable[[int, Path | None], Figures]] = {
    "validity": validity,
    "birds": birds,
    "z-maps": z_maps,
    "random": random_towers,
    "photographs": photographs,
    "cost": cost,
}

# --------------------------------------------------------------------------------------------------------------- tables


def _table(cell: str) -> Callable[[dict[str, Any]], str]:
    def table(figures: dict[str, Any]) -> str:
        measured = figures.get(cell, {})
        rows = [
            [name, f"{int(count):,}", f"{value:.3f} ({low:.3f} to {high:.3f})"]
            for name, (count, value, low, high) in measured.items()
        ]
        return markdown(["figure", "n", "value"], rows, numbers=2)

    return table


TABLES = {cell: _table(cell) for cell in CELLS}


def filled(text: str) -> str:
    """The page with its tables."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    for name, table in TABLES.items():
        text = assets.fill(text, name, table(figures))
    return text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", nargs="*", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in () if arguments.tables else arguments.only:
        found = CELLS[name](arguments.seed, arguments.data)
        figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
        figures |= {name: found} if found else {}
        ordered = {cell: figures[cell] for cell in CELLS if cell in figures}
        write_whole(FIGURES, f"{json.dumps(ordered, indent=1)}\n".replace(",\n   ", ", ").encode())
        print(f"{name}: {len(found)} figures", flush=True)
    write_whole(PAGE, filled(PAGE.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()
