"""COCO's format: boxes and masks of the hot regions, as detections have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from finercam_clip.errors import InputError
from finercam_clip.exports.images import Choice, Hot
from finercam_clip.files import write_whole
from finercam_clip.version import __version__

FILE = "annotations.json"


def to_coco(choice: Choice, folder: Path) -> int:
    """Writes annotations.json: an annotation per hot region, its mask run-length encoded, its score the hottest value.

    Returns:
        How many images it has.

    Raises:
        InputError: pycocotools is not installed.
    """
    try:
        from pycocotools.mask import encode
    except ImportError as error:
        raise InputError("COCO files need pycocotools: pip install 'finercam_clip[coco]'") from error
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    described: dict[str, object] = {}
    for hot in choice.each():
        record = hot.record
        described = described or choice.described(record)
        category = categories.setdefault(record["target"], len(categories) + 1)
        images.append({"id": len(images) + 1, "file_name": record["path"], **_size(hot)})
        for region in hot.regions:
            mask = encode(np.asfortranarray(region.whole_mask(hot.heat.shape), np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": category,
                    "bbox": list(region.box),
                    "area": region.area,
                    "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
                    "iscrowd": 0,
                    "score": round(region.score, 4),
                }
            )
    content = {
        "info": {"description": "hot regions of heatmaps", "version": __version__, **described},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    write_whole(folder / FILE, (json.dumps(content, ensure_ascii=False) + "\n").encode())
    return len(images)


def _size(hot: Hot) -> dict[str, int]:
    return {"width": hot.heat.shape[1], "height": hot.heat.shape[0]}
