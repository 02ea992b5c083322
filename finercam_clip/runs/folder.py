"""A run's folder: what lies where, written so that it can be stopped at any moment and go on to the same bytes.

RUN/run.json          what was asked of what: another question needs another folder
RUN/maps/<name>.npz   float16 maps and the image's record; there only when whole, so it says what is done
RUN/manifest.jsonl    the records, one line per image, in the order of the data set
RUN/unreadable.jsonl  images that were skipped, and why; only if there are any
RUN/.lock             there while a process works in the folder

A record has the size, the times and the SHA-256 of its image's file. When a run goes on, the map of an image counts
while size and times are the same, which costs no reading. Where the times differ (the data set was copied, say) the
content decides. An image that was replaced is computed anew, and the map of one that was removed goes.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip.errors import InputError
from finercam_clip.files import LOCK, MANIFEST, MAPS, PART, SETTINGS, make_folder, write_whole
from finercam_clip.paths import (
    Fingerprint,
    check_file,
    entries,
    fingerprint,
    from_text,
    is_file,
    is_folder,
    look,
    opened,
    path_of,
    place,
    read_bytes,
)
from finercam_clip.runs.records import Record, fault_of, line_of, parsed, source_in

UNREADABLE = "unreadable.jsonl"
_MEND = "run finercam-clip generate again to mend it"
_MOST_LINES = 1 << 33  # bytes of a manifest
_MOST_MAPS = 1 << 28  # bytes of one image's maps, unpacked

Arrays = dict[str, NDArray[Any]]


def read_manifest(run: str | Path) -> list[Record]:
    """The records of a run; a last line that was cut off is left out.

    Raises:
        InputError: There is no run in that folder, or a line of it is damaged.
    """
    path = place(run, "the run") / MANIFEST
    if look(path) is None:
        raise InputError(
            f"{run} holds no run ({MANIFEST}); make one with finercam-clip generate DATASET --output {run}"
        )
    lines = read_bytes(path, _MOST_LINES).decode("utf-8", "replace").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break was not written whole
        record = parsed(line)
        if fault := fault_of(record):
            raise InputError(f"{path}, line {number}: damaged, for it {fault}; {_MEND}")
        records.append(record)
    return records  # type: ignore[return-value]


def read_maps(run: str | Path, record: Record) -> dict[str, NDArray[np.float32]]:
    """The signed maps of one image, mode -> float32 [h, w], as `Explanation.grid` to float16's precision.

    Raises:
        InputError: The file is not there, or is damaged.
    """
    if fault := fault_of(record):
        raise InputError(f"the record of an image in {run} {fault}; {_MEND}")
    path = Path(run) / from_text(record["maps"])
    arrays = _arrays_in(path)
    if set(record["scales"]) - set(arrays):
        raise InputError(f"{path} is damaged, for it lacks maps; {_MEND}")
    return {mode: arrays[mode].astype(np.float32) * np.float32(scale) for mode, scale in record["scales"].items()}


def _arrays_in(path: Path) -> Arrays:
    """The maps in a file, float16 [h, w] each, and the bytes of their record. Raises InputError if it is damaged."""
    check_file(path, _MOST_MAPS)
    try:
        with opened(path, _MOST_MAPS) as file:
            with zipfile.ZipFile(file) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _MOST_MAPS:
                    raise ValueError("it would unpack to more than any maps have")
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
    except InputError:
        raise
    except Exception as error:  # zip files and arrays have their own dozen each
        raise InputError(f"{path} is damaged ({error}); {_MEND}") from error
    for name, array in arrays.items():
        ndim, dtype = (1, np.uint8) if name == "record" else (2, np.float16)
        if array.ndim != ndim or array.dtype != dtype or 0 in array.shape or not np.isfinite(array).all():
            raise InputError(f"{path} is damaged ('{name}' is no map); {_MEND}")
    return arrays


def images_root(run: str | Path) -> Path:
    """The folder that the `path` of a run's records starts from, where it was when the run began."""
    return Path(path_of(_settings_of(Path(run))["root"]))


def dataset_folder(run: str | Path) -> Path | None:
    """The folder that a run's data set is; None if it is a list, or lies in pieces."""
    settings = _settings_of(Path(run))
    return Path(path_of(settings["root"])) if settings["root"] == settings["dataset"] else None


def _settings_of(run: Path) -> dict[str, Any]:
    settings = parsed(_text_of(run / SETTINGS))
    if not isinstance(settings, dict) or not all(isinstance(settings.get(key), str) for key in ("root", "dataset")):
        raise InputError(f"{run / SETTINGS} is damaged; {_MEND}")
    return settings


def _text_of(path: Path) -> str:
    return read_bytes(path).decode("utf-8", "replace")


# ----------------------------------------------------------------------------------------------------- begin, or go on


def check_run(folder: Path, settings: dict[str, Any]) -> None:
    """Makes sure that a run can begin in a folder, or go on with the same settings. Nothing is written.

    Raises:
        InputError: The folder holds a run of other settings, or other files.
    """
    if not is_folder(folder):
        return
    path = folder / SETTINGS
    if not is_file(path):
        if any(entry.name != LOCK and not _is_part(entry.name) for entry in entries(folder)):
            raise InputError(f"{folder} holds other files and no run: name a new folder for --output")
        return
    before, now = parsed(_text_of(path)), json.loads(json.dumps(settings))
    if not isinstance(before, dict):  # damaged: what was asked stands in each record, too
        before = _settings_in_records(folder, now)
    if before != now:
        old, new = _flat(before), _flat(now)
        names = [key for key in {**old, **new} if old.get(key, "") != new.get(key, "")]
        changed = [f"{key} {old.get(key)!r:.60} -> {new.get(key)!r:.60}" for key in names]
        raise InputError(
            f"{folder} holds a run of other settings ({'; '.join(changed[:4])}): name a new --output folder"
        )


def _settings_in_records(folder: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The settings now, with what the first whole record of a run has instead."""
    for path in _map_files(folder):
        record = _record_in(path)
        if record is not None:
            return now | {key: record.get(key) for key in ("settings", "model", "versions")}
    return now


def open_run(folder: Path, settings: dict[str, Any]) -> None:
    """Begins a run, or goes on with one: writes its settings, and removes what a killed run was writing.

    Only whoever holds the folder's lock may do so.
    """
    data = (json.dumps(settings, indent=1) + "\n").encode()
    path = folder / SETTINGS
    if not is_file(path) or not isinstance(parsed(_text_of(path)), dict):
        write_whole(path, data)
    make_folder(folder / MAPS)
    for above, _, names in os.walk(folder / MAPS):
        for name in filter(_is_part, names):
            (Path(above) / name).unlink()
    for entry in entries(folder):
        if _is_part(entry.name) and entry.is_file(follow_symlinks=False):
            Path(entry.path).unlink()


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(PART)


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def record_there(folder: Path, file: str, asked: dict[str, Any], image: Path) -> Record | None:
    """The record of an image that need not be computed again.

    Args:
        folder: The run.
        file: Where the image's maps lie within it.
        asked: What the image is asked now; an answer to something else does not count.
        image: The image's file; the map of another content does not count.

    Returns:
        None if the maps are not there, are damaged, or are of something else.
    """
    path = folder / from_text(file)
    try:
        arrays = _arrays_in(path) if look(path) is not None else {}
        record = _record_of(arrays)
        status = look(image)
        if record is None or status is None or record["asked"] != asked or record["maps"] != file:
            return None
        source = source_in(record)
        if source is None or source.bytes != status.st_size:
            return None
        if not source.is_of(status):
            with opened(image) as content:
                now = fingerprint(content, image)
            if now.sha256 != source.sha256:
                return None
            record["source"] = asdict(now)  # so that its content need not be read the next time
            _write_arrays(path, record, arrays)
    except (InputError, OSError):
        return None
    return record


def is_same_content(image: Path, source: Fingerprint | None) -> bool:
    """Whether an image's file still is what its map was made from.

    Raises:
        InputError: It cannot be read.
    """
    if source is None:
        return True
    if source.is_of(check_file(image)):
        return True
    with opened(image) as content:
        return fingerprint(content, image).sha256 == source.sha256


def _record_in(path: Path) -> Record | None:
    try:
        return _record_of(_arrays_in(path))
    except InputError:
        return None


def _record_of(arrays: Arrays) -> Record | None:
    """The record among the arrays of a map file; None if there is none, or not all of its maps."""
    if "record" not in arrays:
        return None
    record = parsed(arrays["record"].tobytes().decode("utf-8", "replace"))
    if not isinstance(record, dict) or fault_of(record) is not None or set(record["scales"]) - set(arrays):
        return None
    return record


# -------------------------------------------------------------------------------------------------------------- writing


def write_maps(folder: Path, record: Record, maps: dict[str, NDArray[np.float32]]) -> None:
    """Each map over its largest absolute value (`scales`), in -1..1: float16 then keeps three digits of any map."""
    path = folder / from_text(record["maps"])
    make_folder(path.parent)
    scaled = {mode: (grid / (record["scales"][mode] or 1.0)).astype(np.float16) for mode, grid in maps.items()}
    _write_arrays(path, record, scaled)


def _write_arrays(path: Path, record: Record, arrays: Arrays) -> None:
    content: Arrays = {name: array for name, array in arrays.items() if name != "record"}
    content["record"] = np.frombuffer(line_of(record).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **content)  # NumPy dates all entries 1980: no clock in the bytes
    write_whole(path, buffer.getvalue())


def write_manifest(folder: Path, records: Iterable[Record]) -> None:
    """The whole manifest, if it is not that already."""
    data = "".join(line_of(record) for record in records).encode()
    path = folder / MANIFEST
    if not is_file(path) or read_bytes(path, _MOST_LINES) != data:
        write_whole(path, data)


def write_unreadable(folder: Path, unreadable: dict[str, str]) -> None:
    """The list of images that were skipped, if there are any: name -> why."""
    path = folder / UNREADABLE
    if unreadable:
        write_whole(path, "".join(line_of({"image": name, "why": why}) for name, why in unreadable.items()).encode())
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def remove_orphans(folder: Path, kept: Iterable[str], is_kept: Callable[[str], bool]) -> None:
    """Removes the maps of images that the data set no longer has.

    Args:
        folder: The run.
        kept: Where the maps of its images lie within it.
        is_kept: Whether the maps of an image stay, by its name, although it is not among these.
    """
    own = {folder / from_text(file) for file in kept}
    for path in _map_files(folder):
        if path in own:
            continue
        record = _record_in(path)
        if is_kept(record["image"]) if record is not None else not _was_ours(path):
            continue
        with suppress(OSError):  # a folder is not empty, or somebody else holds it
            path.unlink()
            for above in path.relative_to(folder / MAPS).parents[:-1]:
                (folder / MAPS / above).rmdir()


def _map_files(folder: Path) -> list[Path]:
    """Every map file of a run, sorted."""
    walk = os.walk(folder / MAPS)
    return sorted(Path(above) / name for above, _, names in walk for name in names if name.endswith(".npz"))


def _was_ours(path: Path) -> bool:
    """Whether a map file that is damaged has the entries of ours: nobody else's file is ever removed."""
    try:
        with opened(path, _MOST_MAPS) as file, zipfile.ZipFile(file) as archive:
            return "record.npy" in archive.namelist()
    except Exception:
        return False
