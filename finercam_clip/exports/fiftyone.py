"""FiftyOne's format of detections (FiftyOneImageDetectionDataset), with a heatmap beside each image's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from finercam_clip.errors import InputError
from finercam_clip.exports.images import Choice, Hot
from finercam_clip.exports.masks import HEAT, write_grey
from finercam_clip.files import write_whole
from finercam_clip.runs.originals import originals_of

IMAGES, LABELS, HEATMAPS = "data.json", "labels.json", "heatmaps.json"


def to_fiftyone(choice: Choice, folder: Path) -> int:
    """Writes labels.json, the boxes of hot regions, and data.json, where the images lie. Images are not copied.

    `fiftyone.Dataset.from_dir(FOLDER, fiftyone.types.FiftyOneImageDetectionDataset, data_path="data.json")` reads them.
    That format has no heatmaps, so heatmaps.json says which of heat/*.png belongs to an image:
    `sample["heatmap"] = fiftyone.Heatmap(map_path=...)`.

    Returns:
        How many images there are.
    """
    originals = originals_of(choice.run)
    if originals.streamed:
        raise InputError("FiftyOne takes image files, and the images of this run are in tars, a table or a store")
    labels: dict[str, list[dict[str, Any]]] = {}
    images: dict[str, str] = {}
    heatmaps: dict[str, str] = {}
    classes: dict[str, None] = {}
    for hot in choice.each():
        number = f"{len(labels):08}"  # FiftyOne takes endings away from names
        labels[number], images[number] = _detections(hot), str(originals.path(hot.record))
        heatmaps[images[number]] = f"{HEAT}/{number}.png"
        write_grey(folder / heatmaps[images[number]], np.round(hot.heat * 255).astype(np.uint8))
        classes[hot.record["target"]] = None
    write_whole(folder / LABELS, json.dumps({"classes": list(classes), "labels": labels}, ensure_ascii=False).encode())
    write_whole(folder / IMAGES, json.dumps(images).encode())
    write_whole(folder / HEATMAPS, json.dumps(heatmaps).encode())
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
