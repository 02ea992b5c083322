"""Preprocessing as users have it: run as it is, its geometry known, or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image
from reference.networks import TRANSFORM
from skimage import data
from torch import Tensor
from torchvision.transforms import v2 as V2

from finercam_clip import InputError

CHELSEA = data.chelsea()


# ---------------------------------------------------------------------------------------------------- preprocessing

T = torchvision.transforms

NORMALIZE = T.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))

TRANSFORMS: dict[str, tuple[Any, str, tuple[int, int]]] = {
    "open_clip": (open_clip.transform.image_transform(64, is_train=False), "shortest", (64, 64)),
    "open_clip, squashed": (
        open_clip.transform.image_transform(64, is_train=False, resize_mode="squash"),
        "squash",
        (64, 64),
    ),
    "open_clip, padded": (
        open_clip.transform.image_transform(64, is_train=False, resize_mode="longest"),
        "longest",
        (64, 64),
    ),
    "timm": (timm.data.create_transform((3, 64, 64), crop_pct=0.875), "shortest", (64, 64)),
    "torchvision's preset": (torchvision.models.ResNet18_Weights.DEFAULT.transforms(), "shortest", (224, 224)),
    "torchvision, squashed": (TRANSFORM, "squash", (32, 48)),
    "torchvision v2": (
        V2.Compose(
            [
                V2.ToImage(),
                V2.Resize(80, antialias=True),
                V2.CenterCrop(64),
                V2.ToDtype(torch.float32, scale=True),
                V2.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        ),
        "shortest",
        (64, 64),
    ),
    "a function to RGB": (
        T.Compose([T.Resize(64), T.CenterCrop(64), lambda image: image.convert("RGB"), T.ToTensor(), NORMALIZE]),
        "shortest",
        (64, 64),
    ),
    "pybioclip": ("pybioclip", "squash", (224, 224)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (64, 64)])
def test_a_transform_is_run_as_it_is_and_its_geometry_is_known(name: str, shape: tuple[int, int]) -> None:
    """A white square is found where the geometry puts it."""
    from finercam_clip.models.transforms import NAMED, preprocess_of

    transform, mode, size = TRANSFORMS[name]
    preprocess = preprocess_of(transform)
    assert (preprocess.cfg.resize_mode, preprocess.size) == (mode, size)
    image = np.zeros((*shape, 3), np.uint8)
    y, x = shape[0] // 2 - 15, shape[1] // 2 + 5
    image[y : y + 20, x : x + 20] = 255
    pixels, geometry = preprocess(Image.fromarray(image))
    own = NAMED[transform]() if isinstance(transform, str) else transform
    assert torch.equal(pixels, own(Image.fromarray(image)))
    back = geometry.to_image(pixels.mean(0).numpy())
    rows, columns = np.nonzero(back > (back.max() + back.min()) / 2)
    assert abs(rows.mean() - (y + 9.5)) <= 1.5
    assert abs(columns.mean() - (x + 9.5)) <= 1.5


WRONG_TRANSFORMS: dict[str, tuple[Any, str]] = {
    "for training": (open_clip.transform.image_transform(64, is_train=True), "step 'RandomResizedCrop'"),
    "a flip": (
        T.Compose([T.Resize(64), T.CenterCrop(64), T.RandomHorizontalFlip(1.0), T.ToTensor(), NORMALIZE]),
        "step",
    ),
    "a flip that looks like a conversion": (
        T.Compose([T.Resize(64), T.CenterCrop(64), T.ToTensor(), NORMALIZE, lambda x: x.flip(-1)]),
        "step",
    ),
    "no size": (T.Compose([T.ToTensor(), NORMALIZE]), "must resize and normalise"),
    "no normalising": (T.Compose([T.Resize((64, 64)), T.ToTensor()]), "must resize and normalise"),
    "no crop": (T.Compose([T.Resize(64), T.ToTensor(), NORMALIZE]), "centre crop"),
    "no tensor": (T.Compose([T.Resize((64, 64)), NORMALIZE]), "fails on an RGB image: .*Tensor Image"),
    "nearest": (T.Compose([T.Resize((64, 64), T.InterpolationMode.NEAREST), T.ToTensor(), NORMALIZE]), "resizes by"),
    "colours swapped": (
        T.Compose([T.Resize((64, 64)), T.ToTensor(), T.Normalize((0.5,) * 3, (0.5,) * 3)]),
        "",
    ),
    "another name": ("bioclip3", "there is no preprocessing 'bioclip3'; there are pybioclip"),
    "something else": (3, "preprocess is a torchvision transform"),
}


@pytest.mark.parametrize("name", [name for name in WRONG_TRANSFORMS if name != "colours swapped"])
def test_an_unknown_transform_is_an_error_never_a_guess(name: str) -> None:
    from finercam_clip.models.transforms import preprocess_of

    transform, message = WRONG_TRANSFORMS[name]
    with pytest.raises(InputError, match=message):
        preprocess_of(transform)


def test_a_transform_that_does_not_do_what_its_steps_say_is_found_out() -> None:
    from finercam_clip.models.transforms import preprocess_of

    class Resize(T.Resize):
        """It crops besides."""

        def forward(self, image: Any) -> Any:
            return super().forward(T.functional.center_crop(image, min(image.size) // 2))

    class Normalize(T.Normalize):
        """It swaps red and blue besides, as cv2's readers have them."""

        def forward(self, tensor: Tensor) -> Tensor:
            return super().forward(tensor.flip(0))

    for steps in (
        [Resize((64, 64)), T.ToTensor(), NORMALIZE],
        [T.Resize((64, 64)), T.ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)],
    ):
        with pytest.raises(InputError, match="besides what its steps say"):
            preprocess_of(T.Compose(steps))
