"""The way from the grid back to the pixels of a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image
from reference.pictures import blob_at, centroid

from finercam_clip.errors import InputError
from finercam_clip.geometry import Geometry, geometry_of
from finercam_clip.models.catalogue import BUNDLED, BUNDLED_MODELS

MODES = ("shortest", "squash", "longest")
PICTURES = {"tall": (700, 210), "wide": (150, 640), "square": (300, 300), "small": (40, 31), "long": (60, 500)}
INPUTS = {"96": (96, 96), "224": (224, 224), "64x128": (64, 128)}
PLACES = [(0.0, 0.0), (-0.8, 0.6), (0.7, -0.45), (0.1, 0.85)]  # from the centre: -1 and 1 are the edges of what is kept


def kept(picture: tuple[int, int], size: tuple[int, int], mode: str) -> tuple[float, float]:
    """Height and width, in pixels of the picture, of the centred part that a model's input shows."""
    height, width = picture
    if mode != "shortest":
        return height, width
    return min(height, width * size[0] / size[1]), min(width, height * size[1] / size[0])


def seen_by_open_clip(image: NDArray[np.uint8], size: tuple[int, int], mode: str) -> NDArray[np.float32]:
    transform = image_transform(size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=mode)
    seen: NDArray[np.float32] = transform(Image.fromarray(image))[0].numpy()
    return seen


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("size", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("mode", MODES)
def test_the_map_is_hot_where_open_clips_preprocessing_put_the_blob(
    mode: str, picture: tuple[int, int], size: tuple[int, int], place: tuple[float, float]
) -> None:
    shown = kept(picture, size, mode)
    centre = tuple(picture[i] / 2 + place[i] * shown[i] / 2 for i in (0, 1))
    ratios = picture[0] / size[0], picture[1] / size[1]
    # One pixel of the model's input, in pixels of the picture.
    pixel = ratios if mode == "squash" else (min(ratios),) * 2 if mode == "shortest" else (max(ratios),) * 2
    image = blob_at(picture, (centre[0], centre[1]), (max(2 * pixel[0], 1), max(2 * pixel[1], 1)))
    model_input = seen_by_open_clip(image, size, mode)
    geometry = geometry_of(picture, size, mode)

    patch = 8
    one_hot = np.zeros((size[0] // patch, size[1] // patch), np.float32)
    y, x = centroid(model_input)
    one_hot[int(y // patch), int(x // patch)] = 1
    heat = geometry.to_image(one_hot)
    assert heat.shape == picture
    hottest = np.unravel_index(int(heat.argmax()), heat.shape)
    for axis in (0, 1):
        assert abs(hottest[axis] + 0.5 - centre[axis]) <= patch * pixel[axis]

    blob, returned = centroid(image[..., 0].astype(np.float32)), centroid(geometry.to_image(model_input))
    for axis in (0, 1):  # the input itself, put back on the picture: the blob to the pixel
        assert abs(returned[axis] - blob[axis]) <= max(0.5 * pixel[axis], 0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("picture", [*PICTURES.values(), (1, 1), (1, 50), (500, 20), (223, 225)], ids=str)
def test_the_map_keeps_to_what_the_model_saw_and_to_the_grids_own_range(picture: tuple[int, int], mode: str) -> None:
    rng = np.random.default_rng(3)
    geometry = geometry_of(picture, (96, 96), mode)
    x0, y0, x1, y1 = geometry.seen
    assert 0 <= x0 < x1 <= picture[1]
    assert 0 <= y0 < y1 <= picture[0]
    for low, high in ((0.2, 1), (-3, 2), (-2, -1)):
        grid = rng.uniform(low, high, (12, 12)).astype(np.float32)
        heat = geometry.to_image(grid)
        assert heat.dtype == np.float32
        assert heat.shape == picture
        inside = heat[y0:y1, x0:x1].copy()
        assert grid.min() <= inside.min()
        assert inside.max() <= grid.max()
        heat[y0:y1, x0:x1] = 0
        assert not heat.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_what_is_seen_is_what_the_resize_mode_keeps(picture: tuple[int, int], mode: str) -> None:
    x0, y0, x1, y1 = geometry_of(picture, (96, 96), mode).seen
    height, width = kept(picture, (96, 96), mode)
    pixel = max(min(picture) / 96, 1)
    assert (y0, x0) == pytest.approx(((picture[0] - height) / 2, (picture[1] - width) / 2), abs=pixel)
    assert (y1, x1) == pytest.approx(((picture[0] + height) / 2, (picture[1] + width) / 2), abs=pixel)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_constant_grid_is_constant_where_the_model_saw(picture: tuple[int, int], mode: str) -> None:
    geometry = geometry_of(picture, (96, 96), mode)
    x0, y0, x1, y1 = geometry.seen
    heat = geometry.to_image(np.full((12, 12), 0.37, np.float32))
    assert (heat[y0:y1, x0:x1] == np.float32(0.37)).all()


@pytest.mark.parametrize("factor", [1, 3, 7, 15])
def test_an_odd_factor_puts_every_cells_value_on_its_centre(factor: int) -> None:
    grid = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    whole = (5 * factor, 8 * factor)
    heat = Geometry(image=whole, resized=whole, offset=(0, 0), size=whole).to_image(grid)
    np.testing.assert_allclose(heat[factor // 2 :: factor, factor // 2 :: factor], grid, atol=1e-5)


def test_an_even_factor_puts_a_cells_centre_between_its_middle_pixels() -> None:
    grid = np.zeros((5, 5), np.float32)
    grid[1, 3] = 1
    heat = Geometry(image=(40, 40), resized=(40, 40), offset=(0, 0), size=(40, 40)).to_image(grid)
    top = np.argwhere(heat == heat.max())
    assert {tuple(place) for place in top.tolist()} == {(11, 27), (11, 28), (12, 27), (12, 28)}


@pytest.mark.parametrize("mode", MODES)
def test_turning_the_picture_turns_the_map(mode: str) -> None:
    grid = np.random.default_rng(2).normal(size=(12, 12)).astype(np.float32)
    tall = geometry_of((300, 120), (96, 96), mode).to_image(grid)
    wide = geometry_of((120, 300), (96, 96), mode).to_image(np.ascontiguousarray(grid.T))
    np.testing.assert_allclose(tall.T, wide, atol=1e-5)


def test_an_unknown_resize_mode_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(InputError, match="'stretch'") as caught:
        geometry_of((10, 10), (8, 8), "stretch")
    assert all(mode in str(caught.value) for mode in MODES)


def test_the_bundled_models_resize_mode_has_a_geometry() -> None:
    config = json.loads((BUNDLED_MODELS[BUNDLED] / "open_clip_config.json").read_text())
    mode = config["preprocess_cfg"]["resize_mode"]
    side = config["model_cfg"]["vision_cfg"]["image_size"]
    assert geometry_of((300, 200), (side, side), mode).size == (side, side)


def test_a_shifted_receptive_field_shifts_the_map() -> None:
    """A cell whose field is centred 4 pixels up and left of its block is drawn there."""
    grid = np.zeros((5, 5), np.float32)
    grid[2, 2] = 1
    size = (40, 40)
    plain = Geometry(size, size, (0, 0), size, stride=(8, 8)).to_image(grid)
    shifted = Geometry(size, size, (0, 0), size, stride=(8, 8), shift=(-4.0, -4.0)).to_image(grid)
    np.testing.assert_allclose(shifted[:36, :36], plain[4:, 4:], atol=1e-6)


def test_cells_that_do_not_fill_the_input_stay_at_their_stride() -> None:
    """27 patches of 14 pixels in 384: the last 6 pixels belong to no patch; the others are not stretched over them."""
    grid = np.zeros((27, 27), np.float32)
    grid[26, 26] = 1
    size = (384, 384)
    heat = Geometry(size, size, (0, 0), size, stride=(14, 14)).to_image(grid)
    y, x = np.unravel_index(int(heat[:378, :378].argmax()), (378, 378))
    assert (abs(y - 370.5) <= 1, abs(x - 370.5) <= 1) == (True, True)


@pytest.mark.slow
def test_a_map_is_put_on_sixty_megapixels() -> None:
    grid = np.zeros((7, 7), np.float32)
    grid[5, 1] = 1
    heat = geometry_of((6000, 10000), (224, 224), "shortest").to_image(grid)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert (x, y) == pytest.approx((2000 + 6000 * 1.5 / 7, 6000 * 5.5 / 7), abs=6000 / 224)
