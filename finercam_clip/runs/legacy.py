"""Runs of earlier versions, with a file per image. They are read and converted, and never written.

RUN/run.json          what was asked of what
RUN/maps/<name>.npz   float16 maps, and the image's record
RUN/manifest.jsonl    the records, one line per image, in the order of the data set
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip.errors import InputError
from finercam_clip.files import MANIFEST
from finercam_clip.paths import check_file, from_text, opened, read_bytes
from finercam_clip.runs.records import Record, fault_of, parsed

_MOST_LINES = 1 << 33  # bytes of a manifest
_MOST_MAPS = 1 << 28  # bytes of one image's maps, unpacked


def read_old_manifest(run: Path) -> list[Record]:
    """The records of a run; a last line that was cut off is left out. Raises InputError if a line is damaged."""
    path = run / MANIFEST
    lines = read_bytes(path, _MOST_LINES).decode("utf-8", "replace").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break was not written whole
        record = parsed(line)
        if fault := fault_of(record):
            raise InputError(f"{path}, line {number}: damaged, for it {fault}; make the run anew")
        records.append(record)
    return records  # type: ignore[return-value]


def read_old_maps(run: Path, record: Record) -> dict[str, NDArray[np.float32]]:
    """The signed maps of one image, mode -> float32 [h, w]. Raises InputError if the file is gone or damaged."""
    path = run / from_text(record["maps"])
    arrays = _arrays_in(path)
    if set(record["scales"]) - set(arrays):
        raise InputError(f"{path} is damaged, for it lacks maps; make the run anew")
    return {mode: arrays[mode].astype(np.float32) * np.float32(scale) for mode, scale in record["scales"].items()}


def _arrays_in(path: Path) -> dict[str, NDArray[Any]]:
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
        raise InputError(f"{path} is damaged ({error}); make the run anew") from error
    for name, array in arrays.items():
        ndim, dtype = (1, np.uint8) if name == "record" else (2, np.float16)
        if array.ndim != ndim or array.dtype != dtype or 0 in array.shape or not np.isfinite(array).all():
            raise InputError(f"{path} is damaged ('{name}' is no map); make the run anew")
    return arrays
