"""Reading pictures of any kind: upright, 8 bit, RGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from finercam_clip.errors import InputError

ImageInput = str | Path | Image.Image | NDArray[np.uint8]

MAX_PIXELS = 175_000_000  # a little under Pillow's own limit
MAX_ASPECT = 50  # beyond this a centre crop would show less than a fiftieth of the picture


def read_image(source: ImageInput) -> Image.Image:
    """The picture as a person sees it: upright (EXIF), 8 bit RGB, alpha over white, the first frame of an animation.

    Raises:
        InputError: there is no such file, it is not a picture, it is cut short, or it is of a kind that has no one
            right rendering in 8 bits (floating point).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _decoding_errors("the image"):
            return _check_shape(_to_rgb(source, "the image"), "the image")
    if isinstance(source, (str, Path)):
        return _check_shape(_from_file(Path(source)), str(source))
    raise InputError(f"an image is a path, a PIL image or a uint8 array [H, W, 3], not {type(source).__name__}")


def _from_file(path: Path) -> Image.Image:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name an image file in it")
        if not path.exists():
            raise InputError(f"{path}: no such file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes)")
    with _decoding_errors(str(path)), Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{path} has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}: scale it down"
            )
        return _to_rgb(image, str(path))


@contextmanager
def _decoding_errors(name: str) -> Iterator[None]:
    """Pillow's warnings held back, and whatever its decoders raise on damaged data turned into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has more than {MAX_PIXELS:,} pixels: scale it down") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} is damaged or cut short: {reason}") from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(
            f"an image array must be uint8 [H, W, 3] (RGB), not {array.dtype} {list(array.shape)}; "
            "for floats in 0..1 give (255 * image).astype('uint8')"
        )
    return _check_shape(Image.fromarray(array), "the image")


def _check_shape(image: Image.Image, name: str) -> Image.Image:
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise InputError(
            f"{name} is {image.width} x {image.height}: too long and thin for a square model; crop it first"
        )
    return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits (or 16 bits in 32); Pillow's own conversion would clip at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name} has values outside 0..65535; convert it to 8 or 16 bits")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError(
            f"{name} holds floating-point values, which have no one right picture; convert it to 8 or 16 bits"
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
