"""The record of one image in a run: what was asked of it, the answer's numbers, and what the answer was made of.

Records come from files, so each is checked before anything else is done with it.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any

from finercam_clip import checks
from finercam_clip.files import MAPS
from finercam_clip.geometry import Geometry
from finercam_clip.paths import stays_inside

Record = dict[str, Any]
Source = tuple[int, str]  # size and SHA-256 of an image's file

TITLES = {"baseline": "Baseline", "finer-default": "Finer-Default", "finer-compare": "Finer-Compare"}  # of the modes
_MOST_PIXELS = 1_000_000  # along any side that a geometry speaks of


def main_mode(modes: Container[str]) -> str:
    """The mode that is shown first, and compared with a null: Finer-Default where there are contrasts."""
    return "finer-default" if "finer-default" in modes else "baseline"


def parsed(text: str) -> object:
    """What a line of JSON holds; None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: brackets within brackets within brackets
        return None


def line_of(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def fault_of(record: object) -> str | None:
    """What is wrong with a record that was read from a file, in a few words; None if nothing is."""
    if not isinstance(record, dict):
        return "is no record"
    for name, is_right in _FIELDS.items():
        if name not in record:
            return f"has no '{name}'"
        if not is_right(record[name]):
            return f"has a '{name}' that is none"
    labels = [record["target"], *record["contrasts"]]
    if any(label not in record[name] for name in ("similarities", "probabilities") for label in labels):
        return "lacks the scores of its own texts"
    return None


def geometry_in(record: Record) -> Geometry:
    """The geometry that a record carries."""
    fields: dict[str, Any] = {key: value and tuple(value) for key, value in record["geometry"].items()}
    return Geometry(**fields)


def source_in(record: Record) -> Source | None:
    """(size, SHA-256) of the image file that a record was made from; None in records that do not say."""
    source = record.get("source")
    if not isinstance(source, dict):
        return None
    size, digest = checks.whole(source.get("bytes")), source.get("sha256")
    return (size, digest) if size is not None and isinstance(digest, str) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and (value.isascii() or value == value.encode(errors="replace").decode())


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _is_text(value) and stays_inside(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_numbers(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_text(name) for name in value)
        and None not in map(checks.real, value.values())
    )


def _is_maps(value: object) -> bool:
    return _is_name(value) and str(value).startswith(f"{MAPS}/")


def _is_scales(value: object) -> bool:
    return isinstance(value, dict) and _is_numbers(value) and bool(value) and set(value) <= set(TITLES)


def _is_settings(value: object) -> bool:
    return (
        isinstance(value, dict)
        and checks.real(value.get("gamma")) is not None
        and _is_text(value.get("method"))
        and _is_text(value.get("objective"))
    )


def _is_model(value: object) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name")) and _is_text(value.get("pretrained"))


def _is_pair(value: object, least: int) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    sides = [checks.whole(side) for side in value]
    return all(side is not None and least <= side <= _MOST_PIXELS for side in sides)


def _is_geometry(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"image", "resized", "offset", "size", "stride", "shift"}:
        return False
    shift, stride = value["shift"], value["stride"]
    return (
        all(_is_pair(value[name], 1) for name in ("image", "resized", "size"))
        and _is_pair(value["offset"], -_MOST_PIXELS)
        and (stride is None or _is_pair(stride, 1))
        and isinstance(shift, list)
        and len(shift) == 2
        and all(number is not None and abs(number) <= _MOST_PIXELS for number in map(checks.real, shift))
    )


_FIELDS = {
    "image": _is_name,
    "path": _is_name,
    "maps": _is_maps,
    "asked": lambda value: isinstance(value, dict),
    "target": _is_text,
    "contrasts": _is_texts,
    "score": _is_text,
    "similarities": _is_numbers,
    "probabilities": _is_numbers,
    "predicted": _is_numbers,
    "scales": _is_scales,
    "geometry": _is_geometry,
    "settings": _is_settings,
    "model": _is_model,
}
