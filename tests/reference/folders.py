"""A data set of drawn birds, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from finercam_clip.aviary import drawing, world
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


def draw_species(root: Path, train: int = 4, test: int = 3, species: int = 3) -> Path:
    """Pictures of several species of birds by class, 96 pixels each, in train/ and test/; without tests in no split."""
    for number in range(species):
        bird = world.sample_bird(np.random.default_rng(100 + number))
        for i in range(train + test):
            split = "" if not test else "train" if i < train else "test"
            folder = root / split / f"{number + 1:03}.Species_{'ABCDEFG'[number]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawing.draw(bird, 1000 * number + i, size=96).image).save(folder / f"{i:05}.png")
    return root


def draw_photographs(root: Path, count: int) -> Path:
    """A folder of JPEG files: real photographs where they are, else noise."""
    root.mkdir()
    shared = Path(__file__).parents[3] / "shared" / "data" / "cub-crops" / "images"
    real = sorted(shared.rglob("*.jpg"))[:count]
    for number in range(count):
        path = root / f"{number:04}.jpg"
        if number < len(real):
            path.write_bytes(real[number].read_bytes())
        else:
            pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((160, 120)).save(path)
    return root
