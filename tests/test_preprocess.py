"""From a picture to the model's input: the sizes it may have, its pixels, and where these lie on the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform
from PIL import Image
from reference.pictures import blob_at, centroid
from skimage import data
from timm.data import create_transform

from finercam_clip import InputError
from finercam_clip.preprocess import Preprocess

PICTURES = {"wide": data.chelsea(), "tall": data.rocket().transpose(1, 0, 2), "square": data.astronaut()}
PREPROCESS = Preprocess(PreprocessCfg(size=32))


# ---------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        (None, ((32, 32), False)),
        (48, ((48, 48), False)),
        ((16, 64), ((16, 64), False)),
        ("native", ((72, 128), True)),
    ],
)
def test_sizes_are_whole_cells(image_size: Any, expected: Any) -> None:
    assert PREPROCESS.input_size(image_size, (70, 130), (8, 8)) == expected


def test_the_models_own_size_needs_no_whole_cells() -> None:
    preprocess = Preprocess(PreprocessCfg(size=384))
    assert preprocess.input_size(384, (10, 10), (14, 14)) == ((384, 384), False)


@pytest.mark.parametrize("image_size", [0, -8, 47, 3.5, "big", (8,), (8, 9), True, ("a", "b")])
def test_other_sizes_are_errors(image_size: Any) -> None:
    with pytest.raises(InputError, match="image_size"):
        PREPROCESS.input_size(image_size, (70, 130), (8, 8))


# --------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(64, 64), (48, 96)], ids=str)
def test_pixels_are_those_of_open_clips_transform(picture: NDArray[np.uint8], mode: str, size: tuple[int, int]) -> None:
    cfg = PreprocessCfg(size=size, resize_mode=mode, interpolation="bicubic")
    transform = image_transform(size, is_train=False, resize_mode=mode, interpolation="bicubic")
    pixels, geometry = Preprocess(cfg)(Image.fromarray(picture))
    torch.testing.assert_close(pixels, transform(Image.fromarray(picture)), rtol=0, atol=0)
    assert (geometry.image, geometry.size) == (picture.shape[:2], size)


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_cropped_pixels_are_those_of_timms_transform(picture: NDArray[np.uint8], interpolation: str) -> None:
    """timm resizes to size / crop_pct and keeps the middle."""
    cfg = PreprocessCfg(size=64, resize_mode="shortest", interpolation=interpolation)
    transform = create_transform(
        (3, 64, 64), interpolation=interpolation, crop_pct=0.875, crop_mode="center", mean=cfg.mean, std=cfg.std
    )
    pixels, geometry = Preprocess(cfg, crop=0.875)(Image.fromarray(picture))
    torch.testing.assert_close(pixels, transform(Image.fromarray(picture)), rtol=0, atol=1e-5)
    assert min(geometry.resized) == 73  # floor(64 / 0.875)


def test_at_another_size_nothing_is_cropped_for_its_own_sake() -> None:
    """A crop is part of the model's own size only: at another one the whole shorter side is kept."""
    picture = Image.fromarray(data.chelsea())
    whole, cropped = (Preprocess(PreprocessCfg(size=64, resize_mode="shortest"), crop) for crop in (1.0, 0.875))
    assert cropped(picture)[1] != whole(picture)[1]
    for size, squeeze in (((96, 96), False), ((96, 144), True)):
        (pixels, geometry), (expected, same) = (one(picture, size, squeeze=squeeze) for one in (cropped, whole))
        assert geometry == same
        assert torch.equal(pixels, expected)


# ------------------------------------------------------------------------------------------------ pixels and geometry


@pytest.mark.parametrize("place", [(0.0, 0.0), (-0.6, 0.5), (0.5, -0.6)], ids=str)
@pytest.mark.parametrize("shape", [(300, 450), (420, 200)], ids=str)
@pytest.mark.parametrize(
    ("mode", "crop", "size", "squeeze"),
    [
        ("shortest", 1.0, None, False),
        ("shortest", 0.8, None, False),
        ("shortest", 0.8, (96, 160), False),
        ("shortest", 0.8, (96, 160), True),
        ("longest", 1.0, None, False),
        ("squash", 1.0, (160, 96), False),
    ],
)
def test_geometry_is_that_of_the_pixels(
    mode: str,
    crop: float,
    size: tuple[int, int] | None,
    squeeze: bool,
    shape: tuple[int, int],
    place: tuple[float, float],
) -> None:
    """The pixels of a spot, put back on the picture by the geometry that came with them, are the spot."""
    cfg = PreprocessCfg(size=128, resize_mode=mode, mean=(0.0,) * 3, std=(1.0,) * 3)
    preprocess, side = Preprocess(cfg, crop), min(shape) * 0.35  # within what every mode keeps of the picture
    centre = (shape[0] / 2 + place[0] * side, shape[1] / 2 + place[1] * side)
    picture = blob_at(shape, centre, (8, 8))
    pixels, geometry = preprocess(Image.fromarray(picture), size, squeeze=squeeze)
    assert tuple(pixels.shape[1:]) == geometry.size == (size or preprocess.size)
    returned = geometry.to_image(np.ascontiguousarray(pixels[0].numpy()))
    assert centroid(returned) == pytest.approx(centroid(picture[..., 0].astype(np.float32)), abs=1.0)
