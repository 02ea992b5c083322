"""A small data set in CUB-200-2011's layout: every part is a square of its species' colour, where its point is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from finercam_clip.birds.words import GROUPS

COLOURS = {
    "blue": (0, 0, 255), "brown": (120, 70, 20), "yellow": (255, 255, 0), "green": (0, 160, 0), "black": (0, 0, 0),
    "white": (255, 255, 255), "red": (255, 0, 0), "orange": (255, 140, 0),
}  # fmt: skip
PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
BOX = (20, 10, 200, 180)  # x, y, width, height
SQUARE = 8  # pixels from a point to the edge of its square
SHAPE = (210, 240)  # H, W


def colour_of(species: int, part: str) -> str:
    """The colour of a part of a species."""
    return list(COLOURS)[(species * 3 + PARTS.index(part) * 5 + species * PARTS.index(part)) % len(COLOURS)]


def draw_cub(folder: Path, *, species: int = 5, each: int = 4) -> Path:
    """Writes the data set. The last part of every other photograph is not visible."""
    rng = np.random.default_rng(0)
    names, labels, boxes, places = [], [], [], []
    for kind in range(species):
        for number in range(each):
            names.append(f"{kind + 1:03}.Species_{kind}/{number}.png")
            labels.append(kind + 1)
            boxes.append(BOX)
            image = np.full((*SHAPE, 3), 128, np.uint8)
            spots = rng.permutation(25)[: len(PARTS)]  # squares of a 5 x 5 grid in the box, so that none overlap
            for part_number, (part, spot) in enumerate(zip(PARTS, spots, strict=True)):
                x = BOX[0] + 20 + int(spot % 5) * 40
                y = BOX[1] + 18 + int(spot // 5) * 36
                visible = part_number < len(PARTS) - 1 or len(names) % 2 == 0
                if visible:
                    side = part.removeprefix("left ").removeprefix("right ")
                    colour = COLOURS[colour_of(kind, side if side in PARTS else f"left {side}")]
                    image[y - SQUARE : y + SQUARE + 1, x - SQUARE : x + SQUARE + 1] = colour
                places.append((len(names), part_number + 1, x, y, int(visible)))
            path = folder / "images" / names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    _write(folder / "images.txt", names)
    _write(folder / "classes.txt", [f"{kind + 1:03}.Species_{kind}" for kind in range(species)])
    _write(folder / "image_class_labels.txt", labels)
    _write(folder / "bounding_boxes.txt", [" ".join(map(str, box)) for box in boxes])
    (folder / "parts").mkdir()
    _write(folder / "parts" / "parts.txt", list(PARTS))
    (folder / "parts" / "part_locs.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in places))
    (folder / "attributes").mkdir()
    names = [f"has_{group.name}::{value}" for group in GROUPS for value in group.phrases]
    _write(folder / "attributes" / "attributes.txt", [*names, "has_primary_color::red", "has_primary_color::blue"])
    rows = []
    for kind in range(species):
        row = []
        for group in GROUPS:
            part = group.part if group.part in PARTS else f"left {group.part}"
            true = colour_of(kind, part) if group.name.endswith("_color") else list(group.phrases)[kind % 3]
            row += [80.0 if value == true else 20.0 / (len(group.phrases) - 1) for value in group.phrases]
        rows.append(" ".join(f"{share:.4f}" for share in [*row, 50.0, 50.0]))
    (folder / "attributes" / "class_attribute_labels_continuous.txt").write_text("\n".join(rows) + "\n")
    return folder


def _write(path: Path, values: list[object] | list[str] | list[int]) -> None:
    path.write_text("".join(f"{number} {value}\n" for number, value in enumerate(values, 1)))
