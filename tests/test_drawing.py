"""Pictures of birds: masks are exact, parts have the colours that texts name, a picture is a function of its seed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from birds import bird

from finercam_clip.aviary import drawing, world
from finercam_clip.opencv import cv2


@pytest.mark.parametrize("slot", world.SLOTS)
def test_changing_a_trait_changes_pixels_of_its_part_only(slot: str) -> None:
    one_bird = bird(3)
    one, two = (
        drawing.draw(b, 11, size=192) for b in (one_bird, world.change_trait(one_bird, slot, np.random.default_rng(0)))
    )
    part = world.part_of(slot)
    either = (one.masks[0][part] | two.masks[0][part]).astype(np.uint8)
    near = cv2.dilate(either, np.ones((11, 11), np.uint8)) > 0  # a twig can leave a sliver of it
    changed = np.abs(one.image.astype(int) - two.image).max(-1) > 12
    assert changed.any()
    assert not (changed & ~near).any()


def test_parts_do_not_overlap_and_are_seldom_hidden() -> None:
    hidden = 0
    for seed in range(40):
        for birds in ((bird(seed),), (bird(seed), bird(seed + 100))):
            scene = drawing.draw(birds, seed, size=128)
            masks = [mask for parts in scene.masks for mask in parts.values()]
            assert len(masks) == len(birds) * len(world.PARTS)
            assert np.sum(masks, axis=0).max() == 1
            hidden += sum(mask.mean() < 0.0005 for mask in masks)
    assert hidden < 10  # of 1,200: off the edge, or behind the other bird


def test_twigs_hide_what_is_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A white bird with and without its twigs: what the masks lose to them is dark in the picture.

    A third of the pictures have twigs, and most of these cross the bird. Twigs and leaves are less than half as light
    as a white part.
    """
    white = world.Bird(tuple("white" if slot in world.PARTS else values[0] for slot, values in world.SLOTS.items()))
    scenes = [drawing.draw(white, seed, size=192) for seed in range(60)]
    monkeypatch.setattr(drawing, "_paint_twigs", lambda labels, rng, side: None)
    crossed, light_of_hidden = 0, []
    for seed, scene in enumerate(scenes):
        bare = drawing.draw(white, seed, size=192).masks[0]
        shown = np.any(list(scene.masks[0].values()), axis=0)
        hidden = np.any([bare[part] & ~mask for part, mask in scene.masks[0].items()], axis=0)
        assert not any((mask & ~bare[part]).any() for part, mask in scene.masks[0].items())  # a twig adds to no part
        light = scene.image.mean(-1)
        crossed += hidden.any()
        light_of_hidden += (light[hidden] / np.median(light[shown])).tolist()
    assert 5 <= crossed <= 20 + 3 * np.sqrt(60 * 1 / 3 * 2 / 3)
    assert np.median(light_of_hidden) < 0.5


def test_a_scene_is_a_function_of_its_seed() -> None:
    one, two, other = drawing.draw(bird(1), 5), drawing.draw(bird(1), 5), drawing.draw(bird(1), 6)
    assert np.array_equal(one.image, two.image)
    assert not np.array_equal(one.image, other.image)


def test_a_scene_without_masks_is_the_same_picture() -> None:
    birds = (bird(1), bird(2))
    plain = drawing.draw(birds, (5, 1), masks=False)
    assert plain.masks == ()
    assert np.array_equal(plain.image, drawing.draw(birds, (5, 1)).image)


def test_masks_are_the_same_bird_at_every_size() -> None:
    small, large = (drawing.draw(bird(2), 9, size=size).masks[0]["wing"] for size in (96, 192))
    assert abs(small.mean() - large.mean()) < 0.004


def test_a_part_has_the_colour_that_its_text_names() -> None:
    for seed in range(10):
        scene = drawing.draw(bird(seed), seed, size=192)
        for part in ("crown", "tail", "legs", "back"):
            mean = np.median(scene.image[scene.masks[0][part]].astype(float), axis=0)
            distance = {name: np.linalg.norm(mean - rgb) for name, rgb in world.COLOURS.items()}
            assert sorted(distance, key=distance.__getitem__).index(bird(seed)[part]) < 2, (seed, part)


def test_drawing_without_opencv_is_one_line_and_birds_and_texts_need_none() -> None:
    """`None` in `sys.modules` makes an import fail as if the package were not there."""
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "import finercam_clip.aviary.world\n"
        "from finercam_clip import InputError\n"
        "try:\n"
        "    import finercam_clip.aviary.drawing\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "pip install opencv-python-headless" in done.stdout
