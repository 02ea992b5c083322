"""A run's folder: what lies where, written so that it can be stopped at any moment and go on to the same bytes.

RUN/run.json          what was asked of what: another question needs another folder
RUN/maps/<name>.npz   float16 maps and the image's record; there only when whole, so it says what is done
RUN/manifest.jsonl    the records, one line per image, in the order of the data set
RUN/unreadable.jsonl  images that were skipped, and why; only if there are any
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip.errors import InputError
from finercam_clip.files import PART, make_folder, write_whole
from finercam_clip.geometry import Geometry

MANIFEST, SETTINGS, MAPS, UNREADABLE = "manifest.jsonl", "run.json", "maps", "unreadable.jsonl"

Record = dict[str, Any]


def read_manifest(run: str | Path) -> list[Record]:
    """The records of a run; a last line that was cut off is left out.

    Raises:
        InputError: There is no run in that folder, or a line of it is damaged.
    """
    path = Path(run) / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{run} holds no run ({MANIFEST}); make one with finercam-clip generate DATASET --output {run}"
        )
    lines = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break was not written whole
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: damaged; run finercam-clip generate again to mend it") from error
    return records


def read_maps(run: str | Path, record: Record) -> dict[str, NDArray[np.float32]]:
    """The signed maps of one image, mode -> float32 [h, w], as `Explanation.grid` to float16's precision.

    Raises:
        InputError: The file is not there, or is damaged.
    """
    path = Path(run) / record["maps"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                mode: arrays[mode].astype(np.float32) * np.float32(scale) for mode, scale in record["scales"].items()
            }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}; delete it and run generate again") from error


def images_root(run: str | Path) -> Path:
    """The folder that the `path` of a run's records starts from, where it was when the run began."""
    return Path(json.loads((Path(run) / SETTINGS).read_text(encoding="utf-8"))["root"])


def geometry_in(record: Record) -> Geometry:
    """The geometry that a record carries."""
    fields: dict[str, Any] = {key: value and tuple(value) for key, value in record["geometry"].items()}
    return Geometry(**fields)


def maps_file(name: str) -> str:
    """Where the maps of an image lie within a run, by its name."""
    return f"{MAPS}/{name}.npz"


def open_run(folder: Path, settings: dict[str, Any]) -> None:
    """Begins a run, or goes on with one: writes its settings, and removes what a killed run was writing.

    Raises:
        InputError: The folder holds a run of other settings, or other files.
    """
    path = folder / SETTINGS
    if not path.is_file():
        if any(folder.iterdir()):
            raise InputError(f"{folder} holds other files and no run: name a new folder for --output")
        write_whole(path, (json.dumps(settings, indent=1) + "\n").encode())
    else:
        _check_settings(path, json.loads(json.dumps(settings)))
    for part in folder.rglob(f".*{PART}"):
        part.unlink()
    make_folder(folder / MAPS)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raises InputError where a run was about something else before."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; name a new folder for --output") from error
    if before == settings:
        return
    old, new = _flat(before), _flat(settings)
    changed = [f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)]
    raise InputError(
        f"{path.parent} holds a run of other settings ({'; '.join(changed[:4])}): name a new --output folder"
    )


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def records_there(folder: Path, asked: dict[str, Any]) -> dict[str, Record]:
    """What is done already: from the manifest, or, for the last ones before a kill, from the maps themselves.

    Args:
        folder: The run.
        asked: Image name -> what it is asked; a record of another question does not count.
    """
    listed: dict[str, Record] = {}
    if (folder / MANIFEST).is_file():
        for line in (folder / MANIFEST).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            listed[record["image"]] = record
    records = {}
    for name, question in asked.items():
        path = folder / maps_file(name)
        record = (listed.get(name) or _record_in(path)) if path.is_file() else None
        if record is not None and record["asked"] == question:
            records[name] = record
    return records


def _record_in(path: Path) -> Record | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            record: Record = json.loads(arrays["record"].tobytes())
            return record
    except (OSError, ValueError, KeyError):
        return None


def write_maps(folder: Path, record: Record, maps: dict[str, NDArray[np.float32]]) -> None:
    """Each map over its largest absolute value (`scales`), in -1..1: float16 then keeps three digits of any map."""
    path = folder / record["maps"]
    make_folder(path.parent)
    arrays: dict[str, Any] = {
        mode: (grid / (record["scales"][mode] or 1.0)).astype(np.float16) for mode, grid in maps.items()
    }
    arrays["record"] = np.frombuffer(line_of(record).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)  # NumPy dates all entries 1980: no clock in the bytes
    write_whole(path, buffer.getvalue())


def write_manifest(folder: Path, records: Iterable[Record]) -> None:
    """The whole manifest, if it is not that already."""
    data = "".join(line_of(record) for record in records).encode()
    path = folder / MANIFEST
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)


def write_unreadable(folder: Path, unreadable: dict[str, str]) -> None:
    """The list of images that were skipped, if there are any: name -> why."""
    path = folder / UNREADABLE
    if unreadable:
        write_whole(path, "".join(line_of({"image": name, "why": why}) for name, why in unreadable.items()).encode())
    else:
        path.unlink(missing_ok=True)


def line_of(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"
