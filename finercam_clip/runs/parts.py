"""A part: the answers about the images of one shard, as one Parquet file with a row per image of the shard.

The bytes of a part follow from its rows alone: no clock, no name of a machine, and no path but those within the data
set are in it. Pages have checksums, so that damage is seen. The file's metadata have the ledger of its run, so that a
part of another run is seen, too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from finercam_clip.errors import InputError
from finercam_clip.files import MAPS
from finercam_clip.runs.records import TITLES, Record, fault_of, parsed
from finercam_clip.runs.shards import part_name, part_number
from finercam_clip.runs.store import Store

MEND = "run finercam-clip generate again to mend it"
_KEY = b"finercam_clip"  # of the file's metadata: the ledger as JSON
_ROWS = 64  # in a row group: what a reader of a few images has to decode

Row = dict[str, Any]
Grid = NDArray[np.float32]

_TEXTS, _NUMBERS, _PAIR = pa.list_(pa.string()), pa.list_(pa.float64()), pa.list_(pa.int32())
_GEOMETRY = pa.struct(
    [(name, _PAIR) for name in ("image", "resized", "offset", "size", "stride")] + [("shift", _NUMBERS)]
)
# Of every kind of part: which image it is, what its file held, and why it has no answer.
IMAGE = [
    ("image", pa.string()),
    ("path", pa.string()),
    ("split", pa.string()),
    ("bytes", pa.int64()),
    ("sha256", pa.string()),
    ("error", pa.string()),
]
_OF_NULL = ("p_value", "level", "specific")  # of the question's null; empty without one
P_VALUES = "p_values"  # of the cells of the map that was compared with the null
GRIDS = (*TITLES, P_VALUES)  # the columns that hold a value per cell
MAP_COLUMNS = pa.schema(
    [
        *IMAGE,
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("asked_target", pa.string()),
        ("asked_contrasts", _TEXTS),
        ("target", pa.string()),
        ("contrasts", _TEXTS),
        ("score", pa.string()),
        ("texts", _TEXTS),
        ("similarities", _NUMBERS),
        ("probabilities", _NUMBERS),
        ("predicted", _TEXTS),
        ("predicted_probabilities", _NUMBERS),
        ("geometry", _GEOMETRY),
        ("grid", _PAIR),
        *((name, pa.float64()) for name in _OF_NULL),
        (P_VALUES, pa.list_(pa.float32())),
        *((f"{mode}_scale", pa.float64()) for mode in TITLES),
        *((mode, pa.list_(pa.float16())) for mode in TITLES),
    ]
)


@dataclass(frozen=True)
class Part:
    """What a part holds.

    Attributes:
        rows: One per image of the shard, in its order.
        ledger: What was asked.
    """

    rows: pa.Table
    ledger: dict[str, Any]


def part_bytes(rows: Sequence[Row], columns: pa.Schema, ledger: dict[str, Any]) -> bytes:
    """A part as the bytes of its file."""
    meaning = json.dumps(ledger, ensure_ascii=False, sort_keys=True)
    table = pa.Table.from_pylist(list(rows), columns.with_metadata({_KEY: meaning.encode()}))
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=_ROWS,
        compression="zstd",
        compression_level=3,
        version="2.6",
        data_page_version="1.0",
        use_dictionary=True,
        write_statistics=True,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def read_part(data: bytes, name: str, columns: Sequence[str] | None = None) -> Part:
    """What the bytes of a part's file hold.

    Args:
        data: All of them.
        name: What the file is called, for the error.
        columns: Which columns are read, by default all.

    Raises:
        InputError: They are damaged.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        ledger = parsed((file.schema_arrow.metadata or {})[_KEY].decode())
        if not isinstance(ledger, dict):
            raise ValueError("its ledger is none")
        return Part(file.read(columns=columns, use_threads=False), ledger)
    except Exception as error:  # Arrow has a dozen, and KeyError
        raise InputError(f"{name} is damaged ({_brief(error)}); {MEND}") from error


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:100]


def numbers_in(store: Store) -> list[int]:
    """The numbers of the shards that are done, in their order."""
    return sorted(number for number in map(part_number, store.names(MAPS)) if number is not None)


def part_in(store: Store, number: int, columns: Sequence[str] | None = None) -> Part:
    """A part of a run. Raises InputError if it is not there, or is damaged."""
    name = f"{MAPS}/{part_name(number)}"
    data = store.read(name)
    if data is None:
        raise InputError(f"{store}/{name}: no such file; {MEND}")
    return read_part(data, f"{store}/{name}", columns)


# -------------------------------------------------------------------------------------------------------------- records


def row_of(record: Record, maps: dict[str, Grid], p_values: Grid | None = None) -> Row:
    """The row of an image.

    Args:
        record: See `records`; without what is of the image's file, which `work` adds.
        maps: Its signed maps, mode -> [h, w]. Each is kept over its largest absolute value (`scales`), in -1..1:
            float16 then keeps three digits of any map.
        p_values: Of the map that was compared with the null, [h, w].
    """
    texts = list(record["similarities"])
    row = {name: record[name] for name in ("target", "contrasts", "score", "geometry")}
    row |= record["size"] | {"texts": texts}
    row |= {name: record[name] for name in _OF_NULL if name in record}
    row |= {f"asked_{name}": value for name, value in record["asked"].items()}
    row |= {name: [record[name][text] for text in texts] for name in ("similarities", "probabilities")}
    row |= {"predicted": list(record["predicted"]), "predicted_probabilities": list(record["predicted"].values())}
    for mode, grid in maps.items():
        scale = float(np.abs(grid).max())
        row |= {f"{mode}_scale": scale, mode: (grid / (scale or 1.0)).astype(np.float16).ravel()}
        row["grid"] = list(grid.shape)
    if p_values is not None:
        row[P_VALUES] = p_values.ravel()
    return row


def record_of(row: Row, number: int, index: int, ledger: dict[str, Any]) -> Record:
    """The record that a row holds.

    Args:
        row: One that has an answer, without its maps.
        number: Of the shard.
        index: Of the row within the shard.
        ledger: Of the run.

    Raises:
        InputError: It is no such row.
    """
    try:
        record = {name: row[name] for name in ("image", "path", "split", "target", "contrasts", "score", "geometry")}
        record |= {
            "maps": f"{MAPS}/{part_name(number)}",
            "row": index,
            "size": {"width": row["width"], "height": row["height"]},
            "source": {"bytes": row["bytes"], "sha256": row["sha256"]},
            "asked": {"target": row["asked_target"], "contrasts": row["asked_contrasts"]},
            "similarities": dict(zip(row["texts"], row["similarities"], strict=True)),
            "probabilities": dict(zip(row["texts"], row["probabilities"], strict=True)),
            "predicted": dict(zip(row["predicted"], row["predicted_probabilities"], strict=True)),
            "scales": {mode: row[f"{mode}_scale"] for mode in TITLES if row[f"{mode}_scale"] is not None},
            "grid": row["grid"],
        }
        record |= {name: row[name] for name in _OF_NULL if row[name] is not None}
        record |= {name: ledger[name] for name in ("settings", "model", "versions")}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"row {index} of {part_name(number)} is damaged ({_brief(error)}); {MEND}") from error
    if fault := fault_of(record):
        raise InputError(f"row {index} of {part_name(number)} is damaged, for it {fault}; {MEND}")
    return record


def records_in(part: Part, number: int) -> list[Record]:
    """The records of a part, without the images that have no answer. Raises InputError where a row is damaged."""
    rows = part.rows.drop_columns([name for name in GRIDS if name in part.rows.column_names]).to_pylist()
    return [record_of(row, number, index, part.ledger) for index, row in enumerate(rows) if row.get("error") is None]


def maps_in(part: Part, record: Record, name: str) -> dict[str, NDArray[np.float32]]:
    """The signed maps of one image, mode -> float32 [h, w]. Raises InputError if they are not what the record says."""
    maps = {}
    try:
        for mode, scale in record["scales"].items():
            values = part.rows.column(mode)[record["row"]].values.to_numpy(zero_copy_only=False)
            grid = values.reshape(record["grid"]).astype(np.float32) * np.float32(scale)
            if not np.isfinite(grid).all():
                raise ValueError(f"'{mode}' is no map")
            maps[mode] = grid
    except Exception as error:  # of rows that are not there, lists of other lengths, columns of other types
        raise InputError(f"{name} is damaged ({_brief(error)}); {MEND}") from error
    return maps


def p_values_in(part: Part, record: Record, name: str) -> Grid | None:
    """The p-values of one image, float32 [h, w]; None without a null. Raises InputError if they are damaged."""
    try:
        values = part.rows.column(P_VALUES)[record["row"]].values
        return None if values is None else values.to_numpy(zero_copy_only=False).reshape(record["grid"])
    except Exception as error:  # as in `maps_in`
        raise InputError(f"{name} is damaged ({_brief(error)}); {MEND}") from error


@lru_cache(maxsize=2)
def cached_part(store: Store, number: int, changed: int | None) -> Part:
    """As `part_in`, kept: who reads the maps of one image reads those of its neighbours next.

    Args:
        store: The run.
        number: Of the shard.
        changed: When the file was last changed.
    """
    return part_in(store, number)
