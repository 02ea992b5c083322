"""Reading pictures of every kind."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from reference import damaged

from finercam_clip.errors import InputError
from finercam_clip.images import MAX_ASPECT, read_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


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
def test_sixty_megapixels_are_read(tmp_path: Path) -> None:
    Image.fromarray(smooth(6000, 10000)).save(tmp_path / "bird.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "bird.jpg")
    assert image.size == (10000, 6000)


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


# ------------------------------------------------------------------------------------- whatever lies around the pixels


@pytest.mark.parametrize("name", damaged.READABLE)
def test_pixels_that_decode_are_used_whatever_their_metadata(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(damaged.READABLE[name]())
    kind = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rsplit(".", 1)[1]]
    with Image.open(io.BytesIO(damaged.encoded(kind))) as bare:
        expected = np.asarray(bare.convert("RGB"))
    image = read_image(tmp_path / name)
    if image.size != (64, 48):  # a damaged block that still says how the picture lies
        image = image.transpose(Image.Transpose.ROTATE_90)
    np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_exif_block_never_ends_in_anything_but_a_picture_or_one_line(seed: int, tmp_path: Path) -> None:
    """The pixels are read once: what reads them again must not find another file."""
    rng = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "maker" * 9, {0x9003: "2026:01:01 00:00:00"}
    for kind in ("JPEG", "PNG", "WEBP"):
        data = bytearray(damaged.encoded(kind, exif=exif.tobytes()))
        start = data.find(b"Exif") if kind != "PNG" else data.find(b"eXIf")
        for at in rng.integers(start + 4, start + 100, 8):
            data[at] = int(rng.integers(256))
        (tmp_path / "x").write_bytes(data)
        try:
            image = read_image(tmp_path / "x")
        except InputError:
            continue
        image.tobytes()
        assert sorted(image.size) == [48, 64]
        np.testing.assert_array_equal(
            np.asarray(read_image(image)), np.asarray(image)
        )  # what is read again is the same


@pytest.mark.parametrize("name", damaged.UNREADABLE)
def test_what_cannot_be_read_is_one_line_with_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(damaged.UNREADABLE[name]())
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_picture_without_pixels_is_one_line() -> None:
    for image in (Image.new("RGB", (0, 0)), Image.new("L", (5, 0)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError):
            read_image(image)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "LA"])
def test_a_large_picture_needs_a_small_multiple_of_its_pixels(mode: str, tmp_path: Path) -> None:
    """169 megapixels of RGB are 0.5 GB. One copy in the file's own mode is needed beside them."""
    resource = pytest.importorskip("resource")
    script = (
        "import resource, sys\nfrom PIL import Image\nfrom finercam_clip.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "image = read_image(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    Image.new(mode, (13_000, 13_000)).save(tmp_path / "large.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "large.png")], capture_output=True, text=True, check=True
    )
    assert resource is not None
    assert int(done.stdout) < 1.5 * 1024**2  # kilobytes
