"""A data set of drawn birds, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from finercam_clip.aviary import drawing
from finercam_clip.aviary.demo import BIRD

CLASSES = (
    "a_bird_with_a_red_crown",
    "a_bird_with_a_blue_crown",
    "a_bird_with_a_yellow_crown",
    "a_bird_with_a_red_tail",
)
UNREADABLE = {  # image -> why
    f"test/{CLASSES[0]}/broken.jpg": "is not an image that Pillow can read",
    f"test/{CLASSES[1]}/empty.jpg": "is empty (0 bytes)",
}


def draw_birds(root: Path) -> Path:
    """Twelve pictures by class, four in train/ and eight in test/, and two files there that are no images."""
    for i in range(12):
        folder = root / ("train" if i < 4 else "test") / CLASSES[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing.draw(BIRD, i, size=112).image).save(folder / f"{i:05}.png")
    for name in UNREADABLE:
        (root / name).write_bytes(b"no image" if "broken" in name else b"")
    return root


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder: its name and its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
