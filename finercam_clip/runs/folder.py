"""Reading a run, whatever it is made of: parts of many images each, or, of older runs, a file per image.

RUN/run.json                   what was asked of what (`ledger`)
RUN/maps/part-000017.parquet   the rows of one shard (`parts`): there only when whole, so it says what is done
RUN/.lock                      there while a process works in the folder

Records and unreadable images are columns of the parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip.errors import InputError
from finercam_clip.files import MANIFEST, MAPS, SETTINGS
from finercam_clip.runs.ledger import place_of, read_ledger
from finercam_clip.runs.legacy import read_old_manifest, read_old_maps
from finercam_clip.runs.parts import (
    GRIDS,
    MAP_COLUMNS,
    MEND,
    Part,
    cached_part,
    maps_in,
    numbers_in,
    p_values_in,
    part_in,
    records_in,
)
from finercam_clip.runs.records import Record, fault_of, parsed
from finercam_clip.runs.shards import part_number
from finercam_clip.runs.store import Folder, Store, store_of

Maps = dict[str, NDArray[np.float32]]
_RECORD = [name for name in MAP_COLUMNS.names if name not in GRIDS]


def is_legacy(store: Store) -> bool:
    """Whether a run has a file per image, as those of earlier versions."""
    if not isinstance(store, Folder) or MANIFEST not in store.names():
        return False
    ledger = parsed((store.read(SETTINGS) or b"").decode("utf-8", "replace"))
    return not (isinstance(ledger, dict) and "list" in ledger)


def read_manifest(run: str | Path) -> list[Record]:
    """The records of a run, in the order of the data set, without images that have no maps.

    Raises:
        InputError: There is no run in that place, or some of it is damaged.
    """
    return [record for record, _ in each_record(run, maps=False)]


def each_record(run: str | Path, *, maps: bool = True) -> Iterator[tuple[Record, Maps]]:
    """The records of a run with their maps, one shard in memory at a time.

    Args:
        run: The place of the run.
        maps: Whether maps are read, too; else there are none.

    Raises:
        InputError: As `read_manifest`.
    """
    store = store_of(run)
    if isinstance(store, Folder) and is_legacy(store):
        for record in read_old_manifest(store.path):
            yield record, read_old_maps(store.path, record) if maps else {}
        return
    read_ledger(store)
    for number in numbers_in(store):
        part = part_in(store, number, None if maps else _RECORD)
        for record in records_in(part, number):
            yield record, maps_in(part, record, f"{store}/{record['maps']}") if maps else {}


def read_maps(run: str | Path, record: Record) -> Maps:
    """The signed maps of one image, mode -> float32 [h, w], as `Explanation.grid` to float16's precision.

    Raises:
        InputError: The file is not there, or is damaged.
    """
    store, part = _part_of(run, record)
    if part is None:
        return read_old_maps(store.path, record)
    return maps_in(part, record, f"{store}/{record['maps']}")


def read_p_values(run: str | Path, record: Record) -> NDArray[np.float32] | None:
    """The p-values of one image, float32 [h, w], as `Significance.p_values`; None in a run without a null.

    They are of Finer-Default, or of the baseline where the image has no contrasts.

    Raises:
        InputError: As `read_maps`.
    """
    store, part = _part_of(run, record)
    return None if part is None else p_values_in(part, record, f"{store}/{record['maps']}")


def _part_of(run: str | Path, record: Record) -> tuple[Any, Part | None]:
    """The place of a run, and the part that holds an image; None in older runs."""
    if fault := fault_of(record):
        raise InputError(f"the record of an image in {run} {fault}; {MEND}")
    store = store_of(run)
    number = part_number(record["maps"].removeprefix(f"{MAPS}/"))
    if number is None and isinstance(store, Folder):
        return store, None
    if number is None:
        raise InputError(f"{store}/{record['maps']} is no part of a run; {MEND}")
    return store, cached_part(store, number, store.changed(record["maps"]))


def read_unreadable(run: str | Path) -> dict[str, str]:
    """The images of a run that have no maps: image name -> why.

    Raises:
        InputError: As `read_manifest`.
    """
    store = store_of(run)
    if is_legacy(store):
        return {}
    read_ledger(store)
    unreadable: dict[str, str] = {}
    for number in numbers_in(store):
        rows = part_in(store, number, ["image", "error"]).rows.to_pylist()
        unreadable |= {row["image"]: row["error"] for row in rows if row["error"] is not None}
    return unreadable


def images_root(run: str | Path) -> Path:
    """The folder that the `path` of a run's records starts from, where it was when the run began."""
    store = store_of(run)
    return Path(place_of(store, read_ledger(store))[1])


def dataset_folder(run: str | Path) -> Path | None:
    """The folder that a run's data set is; None if it is a list, or lies in pieces."""
    store = store_of(run)
    dataset, root = place_of(store, read_ledger(store))
    return Path(root) if root == dataset else None
