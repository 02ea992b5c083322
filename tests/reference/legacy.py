"""A run as earlier versions wrote it: a file per image, and a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from finercam_clip.runs import each_record


def with_a_file_per_image(run: Path, folder: Path) -> Path:
    """Writes the same maps and records as those of a run in the old layout."""
    ledger = json.loads((run / "run.json").read_text())
    place = ledger.pop("place")
    kept = {name: ledger[name] for name in ("split", "target", "contrasts", "batch", "settings", "texts")}
    (folder / "maps").mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps(place | kept | {"model": ledger["model"], "versions": ledger["versions"]}, indent=1) + "\n"
    )
    lines = []
    for record, maps in each_record(run):
        record["maps"] = f"maps/{record['image']}.npz"
        record["source"] |= {"modified": 1, "changed": 2}
        del record["row"], record["grid"]
        scaled = {mode: (grid / record["scales"][mode]).astype(np.float16) for mode, grid in maps.items()}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        own = np.frombuffer(lines[-1].encode(), np.uint8)
        (folder / record["maps"]).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / record["maps"], record=own, **scaled)  # type: ignore[arg-type]
    (folder / "manifest.jsonl").write_text("".join(lines))
    (folder / "unreadable.jsonl").write_text(json.dumps({"image": "x.png", "why": "is none"}) + "\n")
    return folder
