"""The tables of a run about traits: CSV, Parquet, and Darwin Core's measurements or facts."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finercam_clip.errors import InputError
from finercam_clip.files import staged
from finercam_clip.paths import place
from finercam_clip.runs.calibration import Threshold, calibrated, read_answers
from finercam_clip.runs.ledger import Ledger, read_ledger
from finercam_clip.runs.parts import numbers_in, part_in
from finercam_clip.runs.shards import count_of
from finercam_clip.runs.store import Store, is_address, store_of
from finercam_clip.tables import defused

CSV, PARQUET, MEASUREMENTS = "traits.csv", "traits.parquet", "measurements.csv"
_LONG = pa.schema(
    [
        *((name, pa.string()) for name in ("image", "trait", "state")),
        *((name, pa.float64()) for name in ("score", "probability")),
        *((name, pa.int32()) for name in ("peak_x", "peak_y", "x0", "y0", "x1", "y1")),
        ("heat", pa.float64()),
        ("doubtful", pa.bool_()),
    ]
)
_TERMS = (  # of Darwin Core's extension MeasurementOrFact
    "measurementID",
    "occurrenceID",
    "measurementType",
    "measurementValue",
    "measurementUnit",
    "measurementAccuracy",
    "measurementMethod",
    "measurementRemarks",
)


@dataclass(frozen=True)
class Tables:
    """What `write_tables` wrote.

    Attributes:
        folder: Where the tables lie.
        images: How many images they are about.
        thresholds: Trait -> when it counts as present; None where there are too few labels.
    """

    folder: Path
    images: int
    thresholds: dict[str, Threshold | None]


def write_tables(run: str | Path, output: str | Path | None = None, labels: str | Path | None = None) -> Tables:
    """Writes the tables of a run about traits: all of them, or none.

    traits.csv has one row per image; traits.parquet and measurements.csv have one per image and trait.

    Args:
        run: The place of the run.
        output: The folder to write to, by default the run's own.
        labels: A user's own labels (`calibration.read_answers`), from which thresholds are made. Without them no trait
            is called present or absent.

    Raises:
        InputError: There is no such run, it is not finished, or the labels cannot be used.
    """
    store = store_of(run)
    ledger = read_ledger(store)
    if ledger.get("kind") != "traits":
        raise InputError(f"{store} is no run about traits: make one with finercam-clip traits DATASET --output RUN")
    if not is_finished(run):
        raise InputError(f"{store} is not finished: some shards are missing; run finercam-clip traits again")
    if output is None and is_address(run):
        raise InputError(f"{run} is in an object store: name a folder of this machine for the tables (--tables)")
    folder = place(run if output is None else output, "the folder of the tables")
    thresholds = {} if labels is None else _thresholds_of(store, ledger, labels)
    images = 0
    with (
        staged(folder) as stage,
        (stage / CSV).open("w", encoding="utf-8", newline="") as wide,
        (stage / MEASUREMENTS).open("w", encoding="utf-8", newline="") as facts,
        pq.ParquetWriter(stage / PARQUET, _LONG, compression="zstd") as parquet,
    ):
        names = [trait["name"] for trait in ledger["traits"]]
        sheet = csv.writer(wide, lineterminator="\n")
        sheet.writerow(["image", *(defused(f"{name} {p}") for name in names for p in _PARTS), "error"])
        terms = csv.DictWriter(facts, _TERMS, lineterminator="\n")
        terms.writeheader()
        for rows in _each_part(store):
            of_images = [list(_long_rows(image, names, thresholds)) for image in rows]
            long = list(chain.from_iterable(of_images))
            parquet.write_table(pa.Table.from_pylist(long, _LONG))
            terms.writerows(_facts(long, ledger, thresholds))
            for image, own in zip(rows, of_images, strict=True):
                cells = [text for row in own for text in _cells(row)] or [""] * (len(names) * len(_PARTS))
                sheet.writerow([defused(image["image"]), *cells, defused(image["error"] or "")])
                images += 1
    return Tables(folder, images, thresholds)


def is_finished(run: str | Path) -> bool:
    """Whether all shards of a run are there."""
    store = store_of(run)
    ledger = read_ledger(store)
    return len(numbers_in(store)) == count_of(ledger["images"], ledger["shard_size"])


_PARTS = ("state", "score", "p", "peak", "box")


def _each_part(store: Store) -> Iterator[list[dict[str, Any]]]:
    for number in numbers_in(store):
        yield part_in(store, number).rows.to_pylist()


def _value(score: float, probability: float | None) -> float:
    """What a trait is judged by: its log odds among its contrasts, or without contrasts its similarity."""
    if probability is None:
        return score
    return math.log(max(probability, 1e-12) / max(1 - probability, 1e-12))


def _thresholds_of(store: Store, ledger: Ledger, labels: str | Path) -> dict[str, Threshold | None]:
    names = [trait["name"] for trait in ledger["traits"]]
    values: dict[str, dict[str, float]] = {name: {} for name in names}
    images = []
    for rows in _each_part(store):
        for row in rows:
            images.append(row["image"])
            if row["error"] is None:
                for name, score, p in zip(names, row["scores"], row["probabilities"], strict=True):
                    values[name][row["image"]] = _value(score, p)
    answers = read_answers(labels, names, images)
    return {name: calibrated(values[name], own) for name, own in answers.items()}


def _long_rows(
    row: dict[str, Any], names: list[str], thresholds: dict[str, Threshold | None]
) -> Iterator[dict[str, Any]]:
    """A row per trait of an image; none of an image without answers."""
    if row["error"] is not None:
        return
    columns = zip(
        names, *(row[name] for name in ("scores", "probabilities", "peaks", "boxes", "doubtful")), strict=True
    )
    for name, score, probability, peak, box, doubtful in columns:
        threshold = thresholds.get(name)
        yield {
            "image": row["image"],
            "trait": name,
            "state": None if threshold is None else threshold.state(_value(score, probability)),
            "score": score,
            "probability": probability,
            **({} if peak is None else {"peak_x": peak["x"], "peak_y": peak["y"]}),
            **(box or {}),
            "doubtful": doubtful,
        }


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield row["state"] or ""
    yield f"{row['score']:.4f}"
    yield "" if row["probability"] is None else f"{row['probability']:.4f}"
    yield _numbers(row, "peak_x", "peak_y")
    yield _numbers(row, "x0", "y0", "x1", "y1")


def _numbers(row: dict[str, Any], *names: str) -> str:
    return " ".join(str(row[name]) for name in names) if names[0] in row else ""


def _facts(
    rows: list[dict[str, Any]], ledger: Ledger, thresholds: dict[str, Threshold | None]
) -> Iterator[dict[str, str]]:
    """Measurements or facts: whether a trait is there, or, where that is not calibrated, its score."""
    settings, model = ledger["settings"], ledger["model"]
    asked = {trait["name"]: trait for trait in ledger["traits"]}
    version = ledger["versions"]["finercam_clip"]
    how = f"{model['name']} ({model['pretrained']}), {settings['method']}, finercam_clip {version}"
    for row in rows:
        trait, threshold = asked[row["trait"]], thresholds.get(row["trait"])
        contrasts = f" against {'; '.join(trait['contrasts'])}" if trait["contrasts"] else ""
        box = _numbers(row, "x0", "y0", "x1", "y1")
        yield {
            "measurementID": defused(f"{row['image']}#{row['trait']}"),
            "occurrenceID": defused(row["image"]),
            "measurementType": defused(row["trait"]),
            "measurementValue": row["state"] or f"{row['score']:.4f}",
            "measurementUnit": "",
            "measurementAccuracy": "" if threshold is None else str(threshold),
            "measurementMethod": defused(f"{how}: '{trait['target']}'{contrasts}"),
            "measurementRemarks": f"score {row['score']:.4f}" + (f", box {box}" if box else ""),
        }
