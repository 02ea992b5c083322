"""The study of docs/real-photographs.md: measures, and writes its tables. A stopped run goes on.

    python docs/study.py --data DIR --output RUN              # everything that is not measured yet
    python docs/study.py --data DIR --output RUN --only parts # the cells whose names have this in them
    python docs/study.py --tables                             # only the tables, from docs/figures/study.json

DIR holds cub-crops (CUB-200-2011, or a part of it, in its own layout), its file inat_names.csv, and inat-birds (a
classifier of birds with its classes.txt). All seeds are fixed.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import study_parts
import study_tables
import timm
import torch
from safetensors.torch import load_file

import finercam_clip
from finercam_clip import progress
from finercam_clip.datasets import DataSet, Truth, find_truth, open_dataset
from finercam_clip.evaluation.asked import classes_of
from finercam_clip.evaluation.protocol import Protocol
from finercam_clip.evaluation.referee import evaluate
from finercam_clip.evaluation.stopwatch import Stopwatch
from finercam_clip.explainer import Explainer
from finercam_clip.files import make_folder, write_whole
from finercam_clip.fitting import fit
from finercam_clip.options import Options

SEED = 18
GAMMAS = (0.3, 0.6, 0.8, 1.0)
BOTH = ("finer", "finer-rectified")
PAPER, RECTIFIED = (("finer",), (0.6,)), (("finer-rectified",), (1.0,))
LINEAR, FAST = ("hirescam",), ("gradcam++", "layercam", "eigencam")


@dataclass(frozen=True)
class Cell:
    """One call of `evaluate`.

    Attributes:
        name: Its folder.
        model: "inat-birds" or "lite0".
        images: How many photographs.
        objectives: Each with every gamma.
        gammas: Comparison strengths.
        groups: Figures.
        methods: Methods.
        size: Of the input, pixels.
        protocol: What differs from the base protocol.
        changes: What differs from the default options.
    """

    name: str
    model: str
    images: int
    objectives: tuple[str, ...]
    gammas: tuple[float, ...]
    groups: tuple[str, ...] = ("drop",)
    methods: tuple[str, ...] = LINEAR
    size: int = 224
    protocol: tuple[tuple[str, Any], ...] = (("fills", ("mean",)),)
    changes: tuple[tuple[str, Any], ...] = ()


_WHERE = ("place", "difference", "causes")
_WEIGHTS = (("similar_by", "concepts"),)
_REPRODUCTION = (("fills", ("black",)), ("scaling", "min-max"), ("upsampling", "bilinear"))
_OTHER_FILLS = (("fills", ("black", "blur")),)


def cells() -> Iterator[Cell]:
    """Everything of photographs, the most important first."""
    for model in ("inat-birds", "lite0"):
        yield Cell(f"grid {model}", model, 200, BOTH, GAMMAS, ("drop", "place", "overlap"))
        yield Cell(f"where {model}", model, 300, BOTH, (0.6, 1.0), ("place", "difference"))
    for model in ("inat-birds", "lite0"):
        yield Cell(f"more {model}", model, 400, ("finer",), (0.6, 1.0))
        yield Cell(f"fills {model}", model, 60, *PAPER, ("drop", "place", "controls"), protocol=_OTHER_FILLS)
        yield Cell(f"mean {model}", model, 60, *PAPER)
        yield Cell(f"448 where {model}", model, 100, BOTH, (0.6, 1.0), ("place", "difference"), size=448)
        yield Cell(f"448 {model}", model, 100, ("finer",), (0.6, 1.0), size=448)
    for model in ("inat-birds", "lite0"):
        yield Cell(f"beside methods {model}", model, 24, *PAPER, ("drop", "place", "difference"))
        yield Cell(f"methods {model}", model, 24, *PAPER, ("drop", "place", "difference"), FAST)
        yield Cell(f"methods rectified {model}", model, 24, *RECTIFIED, ("drop", "place", "difference"), FAST)
    mean = ("fills", ("mean",))
    for model in ("inat-birds", "lite0"):
        yield Cell(f"weights {model}", model, 80, *PAPER, changes=_WEIGHTS)
        yield Cell(
            f"reproduction {model}", model, 60, *PAPER, ("drop", "place"), protocol=_REPRODUCTION, changes=_WEIGHTS
        )
        for choice in (("upsampling", "nearest"), ("scaling", "min-max")):
            yield Cell(f"{choice[1]} {model}", model, 60, *PAPER, ("drop", "place"), protocol=(mean, choice))
        yield Cell(f"strongest {model}", model, 200, ("finer-strongest",), (0.6, 1.0), ("drop", "place", "overlap"))
    for model in ("inat-birds", "lite0"):
        yield Cell(f"beside occlusion {model}", model, 30, *PAPER, ("drop", *_WHERE))
        for method, images in (("occlusion", 30), ("rise", 12), ("scorecam", 12)):
            yield Cell(f"{method} {model}", model, images, *PAPER, ("drop", *_WHERE), (method,))


PARTS = [("inat-birds", 224, 110), ("lite0", 224, 60), ("inat-birds", 448, 20), ("lite0", 448, 20)]


# --------------------------------------------------------------------------------------------------------------- models


def inat_birds(data: Path) -> Explainer:
    """The classifier of 965 birds."""
    model = timm.create_model("mobilenetv2_100", num_classes=965, pad_type="same")
    weights = load_file(data / "inat-birds" / "mobilenetv2_100.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    model.eval()
    model.pretrained_cfg.update(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, crop_mode="squash")
    return finercam_clip.wrap(model, classes=data / "inat-birds" / "classes.txt", name="inat-birds")


@cache
def birds(data: Path) -> tuple[DataSet, Truth]:
    """The photographs of the official test split, and what is known about all of them."""
    dataset = open_dataset(data / "cub-crops")
    return dataset.split("test"), find_truth(dataset)


@cache
def model_of(name: str, size: int, data: Path, output: Path) -> tuple[Explainer, dict[str, str] | None]:
    """A model, and what it calls the classes of the photographs."""
    if name == "inat-birds":
        with (data / "cub-crops" / "inat_names.csv").open(encoding="utf-8", newline="") as file:
            return inat_birds(data), {row["cub"]: row["inat"] for row in csv.DictReader(file)}
    head = output / f"cub-{size}.safetensors"
    if not head.exists():
        fit("photos", data / "cub-crops", head, image_size=size)
    return finercam_clip.load_classifier(head=head), None


# -------------------------------------------------------------------------------------------------------------- measure


def measure(cell: Cell, data: Path, output: Path) -> None:
    """One cell. What is there already is not computed again."""
    explainer, labels = model_of(cell.model, cell.size, data, output)
    photographs, truth = birds(data)
    watch = Stopwatch()
    evaluate(
        explainer,
        photographs,
        methods=cell.methods,
        objectives=cell.objectives,
        gammas=cell.gammas,
        protocol=Protocol(groups=cell.groups, seed=SEED, limit=cell.images, **dict(cell.protocol)),
        truth=truth,
        labels=labels,
        output=output / cell.name,
        watch=watch,
        image_size=cell.size,
        **dict(cell.changes),
    )
    print(f"{cell.name}: {watch.line()}", flush=True)


def measure_parts(model: str, size: int, images: int, data: Path, output: Path) -> None:
    """All clear pairs of each photograph, a line per photograph."""
    explainer, labels = model_of(model, size, data, output)
    photographs, truth = birds(data)
    classes = classes_of(explainer, photographs, Options(image_size=size), Protocol(), labels)
    known = [item for item in photographs.items if item.target in classes.target_of]
    generator = torch.Generator().manual_seed(SEED)
    drawn = [known[i] for i in torch.randperm(len(known), generator=generator)[:images].tolist()]
    path = output / f"parts {model} {size}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    asked = study_parts.Asked(explainer, photographs, truth, classes, LINEAR[0], size)
    for item in progress.each(drawn[len(lines) :], "parts"):
        lines.append(json.dumps(study_parts.record_of(asked, item)))
        write_whole(path, "".join(f"{line}\n" for line in lines).encode())
    print(f"parts {model} {size}: {len(lines)} photographs", flush=True)


def steps(data: Path, output: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and work of everything, the most important first."""
    every = list(cells())
    for cell in every[:4]:
        yield cell.name, partial(measure, cell, data, output)
    for parts in PARTS:
        yield f"parts {parts[0]} {parts[1]}", partial(measure_parts, *parts, data, output)
    for cell in every[4:]:
        yield cell.name, partial(measure, cell, data, output)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", action="append", help="cells whose names have this in them; repeatable")
    parser.add_argument("--tables", action="store_true", help="only the tables, from the figures that are kept")
    arguments = parser.parse_args()
    if arguments.tables:
        study_tables.fill_page()
        return
    make_folder(arguments.output)
    for name, work in steps(arguments.data, arguments.output):
        if not arguments.only or any(part in name for part in arguments.only):
            work()
    study_tables.gather(arguments.output)
    study_tables.fill_page()


if __name__ == "__main__":
    main()
