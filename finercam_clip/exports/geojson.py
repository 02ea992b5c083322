"""GeoJSON as QuPath reads it: an annotation per hot region, a file per image."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from finercam_clip.exports.images import Choice, Hot
from finercam_clip.files import make_folder, write_whole
from finercam_clip.render import colour


def to_geojson(choice: Choice, folder: Path) -> int:
    """Writes <image>.geojson for each image. Coordinates are pixels of the image: (0, 0) is its top left corner.

    Returns:
        How many files there are.
    """
    count = 0
    for hot in choice.each():
        path = folder / hot.file(".geojson")
        make_folder(path.parent)
        content = {"type": "FeatureCollection", "features": list(_features(hot))}
        write_whole(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())
        count += 1
    return count


def _features(hot: Hot) -> Iterator[dict[str, Any]]:
    record = hot.record
    for number, region in enumerate(hot.regions):
        ink = colour(np.full((1, 1), region.score, np.float32))[0, 0].tolist()
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{record['image']} {hot.mode} {number}")),
            "geometry": {"type": "Polygon", "coordinates": [[list(corner) for corner in r] for r in region.rings()]},
            "properties": {
                "objectType": "annotation",
                "name": record["target"],
                "classification": {"name": record["target"], "color": ink},
                "measurements": {"heat": round(region.score, 4), "probability": round(hot.probability, 4)},
            },
        }
