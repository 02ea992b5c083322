"""Reading pictures of every kind, and the way from the grid back to their pixels."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image

from finercam_clip.errors import InputError
from finercam_clip.geometry import Geometry, geometry_of
from finercam_clip.images import MAX_ASPECT, read_image
from finercam_clip.models.catalogue import BUNDLED_FOLDER

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
MODES = ("shortest", "squash", "longest")


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """A picture without symmetry that JPEG keeps nearly as it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // width, 255 * y // height, np.full_like(x, 80)], 2).astype(np.uint8)


def pixels(path: Path) -> NDArray[np.uint8]:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


# ------------------------------------------------------------------------------------------------------------- reading

# How the standard's eight orientations store an upright picture: e.g. 6 is "row 0 is the right side, column 0 the top".
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright[:, ::-1].transpose(1, 0, 2),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: upright[::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", STORED)
def test_an_exif_rotated_jpeg_comes_out_upright(tmp_path: Path, orientation: int) -> None:
    upright = smooth(48, 80)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    Image.fromarray(stored).save(tmp_path / "bird.jpg", quality=95, exif=exif)
    assert difference(pixels(tmp_path / "bird.jpg"), upright) < 12


def test_an_rgb_file_is_read_bit_by_bit(tmp_path: Path) -> None:
    Image.fromarray(noise(7, 5)).save(tmp_path / "bird.png")
    np.testing.assert_array_equal(pixels(tmp_path / "bird.png"), noise(7, 5))


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), RED)
    image.paste(GREEN, (16, 0, 32, 32))
    image.convert("CMYK").save(tmp_path / "bird.jpg", quality=95)
    read = pixels(tmp_path / "bird.jpg")
    assert difference(read[:, :14], np.full((32, 14, 3), RED, np.uint8)) < 12
    assert difference(read[:, 18:], np.full((32, 14, 3), GREEN, np.uint8)) < 12


@pytest.mark.parametrize("name", ["bird.png", "bird.tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    deep = np.array([[0, 255, 256], [257 * 100, 40000, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / name)
    read = pixels(tmp_path / name)
    np.testing.assert_array_equal(read[..., 0], [[0, 1, 1], [100, 156, 255]])
    assert (read == read[..., :1]).all()


def test_a_palette_with_alpha_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *BLUE, *GREEN])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "bird.png", transparency=bytes([255, 0, 128]))
    half_green = (127, 255, 127)
    assert difference(pixels(tmp_path / "bird.png"), np.array([[RED, WHITE, half_green]], np.uint8)) <= 1


def test_rgba_lies_over_white(tmp_path: Path) -> None:
    rgba = np.array([[(*RED, 255), (*BLUE, 0), (*GREEN, 128)]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "bird.png")
    assert difference(pixels(tmp_path / "bird.png"), np.array([[RED, WHITE, (127, 255, 127)]], np.uint8)) <= 1


def test_grey_with_alpha_lies_over_white(tmp_path: Path) -> None:
    grey = np.array([[(10, 255), (10, 0)]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "bird.png")
    np.testing.assert_array_equal(pixels(tmp_path / "bird.png"), [[(10,) * 3, WHITE]])


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "bird.gif", save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_array_equal(pixels(tmp_path / "bird.gif"), np.full((6, 8, 3), RED))


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), BLUE).save(tmp_path / "bird.png")
    np.testing.assert_array_equal(pixels(tmp_path / "bird.png"), [[BLUE]])


def test_paths_pil_images_and_arrays_read_the_same(tmp_path: Path) -> None:
    Image.fromarray(noise(6, 9)).save(tmp_path / "bird.png")
    for source in (tmp_path / "bird.png", str(tmp_path / "bird.png"), Image.fromarray(noise(6, 9)), noise(6, 9)):
        np.testing.assert_array_equal(np.asarray(read_image(source)), noise(6, 9))


def test_the_callers_pil_image_stays_as_it_was() -> None:
    image = Image.new("RGBA", (4, 4), (*RED, 0))
    read_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (*RED, 0)


@pytest.mark.slow
def test_sixty_megapixels_are_read_and_mapped(tmp_path: Path) -> None:
    Image.fromarray(smooth(6000, 10000)).save(tmp_path / "bird.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "bird.jpg")
    assert image.size == (10000, 6000)
    grid = np.zeros((7, 7), np.float32)
    grid[5, 1] = 1
    heat = geometry_of((6000, 10000), (224, 224), "shortest").to_image(grid)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert (x, y) == pytest.approx((2000 + 6000 * 1.5 / 7, 6000 * 5.5 / 7), abs=6000 / 224)


def cut(data: bytes, part: float) -> bytes:
    return data[: int(len(data) * part)]


def encoded(folder: Path, suffix: str) -> bytes:
    Image.fromarray(noise(120, 120)).save(folder / f"whole{suffix}")
    return (folder / f"whole{suffix}").read_bytes()


def error_of(source: object) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            read_image(source)  # type: ignore[arg-type]
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("part", [0.001, 0.02, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".gif", ".bmp"])
def test_a_picture_that_is_cut_short_is_an_error(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"bird{suffix}"
    path.write_bytes(cut(encoded(tmp_path, suffix), part))
    assert str(path) in error_of(path)


def test_a_pil_image_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bird.jpg"
    path.write_bytes(cut(encoded(tmp_path, ".jpg"), 0.5))
    assert "cut short" in error_of(Image.open(path))


def test_a_text_named_jpg_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bird.jpg"
    path.write_text("a bird with a red crown\n" * 50)
    message = error_of(path)
    assert str(path) in message
    assert "not an image" in message


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bird.jpg"
    path.touch()
    message = error_of(path)
    assert str(path) in message
    assert "0 bytes" in message


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    message = error_of(tmp_path)
    assert str(tmp_path) in message
    assert "folder" in message


@pytest.mark.parametrize("name", ["bird.jpg", "no/such/bird.jpg", "b" * 300 + ".jpg"])
def test_a_missing_file_is_an_error(tmp_path: Path, name: str) -> None:
    assert str(tmp_path / name) in error_of(tmp_path / name)


def test_floating_point_pictures_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bird.tif"
    Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)).save(path)
    message = error_of(path)
    assert str(path) in message
    assert "floating-point" in message


def test_a_picture_too_thin_for_a_square_model_is_an_error() -> None:
    assert read_image(noise(1, MAX_ASPECT)).size == (MAX_ASPECT, 1)
    assert "too long and thin" in error_of(noise(1, MAX_ASPECT + 1))
    assert "too long and thin" in error_of(noise(2 * MAX_ASPECT + 1, 2))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_an_array_of_another_kind_is_an_error_that_says_which(array: NDArray[np.generic]) -> None:
    message = error_of(array)
    assert "uint8 [H, W, 3]" in message
    assert str(array.dtype) in message
    assert str(list(array.shape)) in message


def test_anything_else_is_an_error_that_names_its_type() -> None:
    assert "int" in error_of(42)
    assert "NoneType" in error_of(None)


# ------------------------------------------------------------------------------------------------------------ geometry

PICTURES = {"tall": (700, 210), "wide": (150, 640), "square": (300, 300), "small": (40, 31), "long": (60, 500)}
INPUTS = {"96": (96, 96), "224": (224, 224), "64x128": (64, 128)}
PLACES = [(0.0, 0.0), (-0.8, 0.6), (0.7, -0.45), (0.1, 0.85)]  # from the centre: -1 and 1 are the edges of what is kept


def kept(picture: tuple[int, int], size: tuple[int, int], mode: str) -> tuple[float, float]:
    """Height and width, in pixels of the picture, of the centred part that a model's input shows."""
    height, width = picture
    if mode != "shortest":
        return height, width
    return min(height, width * size[0] / size[1]), min(width, height * size[1] / size[0])


def blob_at(picture: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.uint8]:
    y, x = np.mgrid[: picture[0], : picture[1]]
    distance = ((y + 0.5 - centre[0]) / radii[0]) ** 2 + ((x + 0.5 - centre[1]) / radii[1]) ** 2
    return (255 * np.exp(-distance / 2)).astype(np.uint8)[..., None].repeat(3, 2)


def seen_by_open_clip(image: NDArray[np.uint8], size: tuple[int, int], mode: str) -> NDArray[np.float32]:
    transform = image_transform(size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=mode)
    seen: NDArray[np.float32] = transform(Image.fromarray(image))[0].numpy()
    return seen


def centroid(values: NDArray[np.float32]) -> tuple[float, float]:
    weights = np.clip(values - 0.2 * values.max(), 0, None)
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    return float((weights * (y + 0.5)).sum() / weights.sum()), float((weights * (x + 0.5)).sum() / weights.sum())


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
    found = centroid(model_input)
    one_hot[int(found[0] // patch), int(found[1] // patch)] = 1
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
    config = json.loads((BUNDLED_FOLDER / "open_clip_config.json").read_text())
    mode = config["preprocess_cfg"]["resize_mode"]
    side = config["model_cfg"]["vision_cfg"]["image_size"]
    assert geometry_of((300, 200), (side, side), mode).size == (side, side)
