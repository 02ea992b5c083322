"""Runs of earlier versions, with a file per image, made into runs of parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finercam_clip import progress
from finercam_clip.errors import InputError
from finercam_clip.files import MANIFEST, MAPS, SETTINGS, locked
from finercam_clip.paths import from_text, place
from finercam_clip.runs.folder import is_legacy
from finercam_clip.runs.ledger import Ledger, meaning_of, place_of, read_ledger
from finercam_clip.runs.legacy import read_old_manifest, read_old_maps
from finercam_clip.runs.parts import MAP_COLUMNS, Row, part_bytes, row_of
from finercam_clip.runs.records import Record, source_in
from finercam_clip.runs.shards import SHARD, count_of, part_name, shard_of
from finercam_clip.runs.store import Folder

UNREADABLE = "unreadable.jsonl"  # of earlier versions: images that were skipped


@dataclass(frozen=True)
class Converted:
    """What `convert` made.

    Attributes:
        images: How many images' maps there are.
        parts: In how many files.
    """

    images: int
    parts: int


def convert(run: str | Path) -> Converted:
    """Makes a run with a file per image into one of parts, in its own folder.

    The old files go when all parts are written and the ledger names them. If it is stopped, the run is still whole, and
    the same command goes on. The run is finished then: `generate` does not go on with it.

    Args:
        run: The folder.

    Raises:
        InputError: It is no such run, one of its files is damaged, or somebody works in it.
    """
    folder = place(run, "the run")
    store = Folder(folder)
    ledger = read_ledger(store)
    if not is_legacy(store) and not ledger.get("converted"):
        raise InputError(f"{folder} is no run with a file per image: there is nothing to convert")
    with locked(folder):
        if is_legacy(store):
            records = read_old_manifest(folder)
            now = _ledger_of(store, ledger, len(records))
            for number in progress.each(range(count_of(len(records), SHARD)), "converting", unit="shard"):
                rows = list(_rows(folder, shard_of(records, number, SHARD)))
                store.write(f"{MAPS}/{part_name(number)}", part_bytes(rows, MAP_COLUMNS, meaning_of(now)))
            store.write(SETTINGS, (json.dumps(now, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode())
            ledger = now
        if MANIFEST in store.names():
            _remove_old(folder, read_old_manifest(folder))
    return Converted(ledger["images"], count_of(ledger["images"], SHARD))


def _ledger_of(store: Folder, old: dict[str, Any], images: int) -> Ledger:
    dataset, root = place_of(store, old)
    kept = {name: old.get(name) for name in ("target", "contrasts", "batch", "split", "settings", "texts", "model")}
    own = {"kind": "maps", "converted": True, "shard_size": SHARD, "images": images, "list": ""}
    return own | kept | {"versions": old.get("versions"), "place": {"dataset": dataset, "root": root}}


def _rows(folder: Path, records: Sequence[Record]) -> Iterator[Row]:
    for record in records:
        size, digest = source_in(record) or (None, None)
        own = {name: record.get(name) for name in ("image", "path", "split")} | {"bytes": size, "sha256": digest}
        yield own | row_of(record, read_old_maps(folder, record))


def _remove_old(folder: Path, records: list[Record]) -> None:
    """Removes the files that parts have taken the place of; the manifest last, since it names them."""
    for record in records:
        path = folder / from_text(record["maps"])
        path.unlink(missing_ok=True)
        for above in path.relative_to(folder / MAPS).parents[:-1]:
            with suppress(OSError):  # it is not empty
                (folder / MAPS / above).rmdir()
    for name in (UNREADABLE, MANIFEST):
        (folder / name).unlink(missing_ok=True)
