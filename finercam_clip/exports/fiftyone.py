"""FiftyOne's format of detections (FiftyOneImageDetectionDataset)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finercam_clip.exports.images import Choice, Hot
from finercam_clip.files import write_whole
from finercam_clip.paths import path_of
from finercam_clip.runs import images_root

IMAGES, LABELS = "data.json", "labels.json"


def to_fiftyone(choice: Choice, folder: Path) -> int:
    """Writes labels.json, the boxes of hot regions, and data.json, where the images lie. Images are not copied.

    `fiftyone.Dataset.from_dir(FOLDER, fiftyone.types.FiftyOneImageDetectionDataset, data_path="data.json")` reads them.

    Returns:
        How many images there are.
    """
    root = images_root(choice.run)
    labels: dict[str, list[dict[str, Any]]] = {}
    images: dict[str, str] = {}
    classes: dict[str, None] = {}
    for hot in choice.each():
        number = f"{len(labels):08}"  # FiftyOne takes endings away from names
        labels[number], images[number] = _detections(hot), str(root / path_of(hot.record["path"]))
        classes[hot.record["target"]] = None
    write_whole(folder / LABELS, json.dumps({"classes": list(classes), "labels": labels}, ensure_ascii=False).encode())
    write_whole(folder / IMAGES, json.dumps(images).encode())
    return len(labels)


def _detections(hot: Hot) -> list[dict[str, Any]]:
    height, width = hot.heat.shape
    return [
        {
            "label": hot.record["target"],
            "bounding_box": [x / width, y / height, w / width, h / height],
            "confidence": region.score,
            "attributes": {"probability": hot.probability},
        }
        for region in hot.regions
        for x, y, w, h in [region.box]
    ]
