"""Pixels: reading pictures of any kind, and the way from a grid of patches back to the pixels of the input."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from finercam_clip.errors import InputError

ImageSize = int | tuple[int, int] | str | None
MOST_CELLS = 16_384  # attention over more needs tens of gigabytes
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


@dataclass(frozen=True)
class Geometry:
    """Where the model's input lies on the image: undoes the resizing and cropping of preprocessing.

    image: (H, W) of the image; resized: (H, W) after preprocessing's resize; offset: (y, x) of the model's input in the
    resized image (negative where preprocessing pads); size: (H, W) of the model's input; stride, shift: (y, x) of a
    cell and from the middle of its block of the input to where the model really looks (see `Family`); without a stride
    the cells share the input evenly. All in pixels.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int] | None = None
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def seen(self) -> tuple[int, int, int, int]:
        """The box (x0, y0, x1, y1) of the image that the model saw; x1 and y1 are one past the last pixel."""
        box = []
        for axis in (1, 0):
            scale = self.image[axis] / self.resized[axis]
            low, high = self.offset[axis] * scale, (self.offset[axis] + self.size[axis]) * scale
            box.append((max(0, round(low)), min(self.image[axis], max(round(high), round(low) + 1))))
        (x0, x1), (y0, y1) = box
        return x0, y0, x1, y1

    def to_image(self, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map [h, w] over the model's input, on the image's own pixels [H, W]; 0 where the model saw nothing.

        Cell centres stay where the model looks; between them it is bicubic, so that a peak can lie between
        two cells, and kept within the map's own range.
        """
        columns, rows = (self._cells(axis, grid.shape[axis]) for axis in (1, 0))
        # Along one axis, then the other: the same as in one go, and no pair of full-size coordinate maps.
        wide = _resample(grid, columns)
        full = _resample(np.ascontiguousarray(wide.T), rows).T
        np.clip(full, grid.min(), grid.max(), out=full)
        x0, y0, x1, y1 = self.seen
        result = np.zeros(self.image, np.float32)
        result[y0:y1, x0:x1] = full[y0:y1, x0:x1]
        return result

    def _cells(self, axis: int, cells: int) -> NDArray[np.float32]:
        """For each pixel of the image along an axis: its position in cells (0 is the first cell's centre)."""
        pixels = (np.arange(self.image[axis]) + 0.5) * (self.resized[axis] / self.image[axis]) - self.offset[axis]
        stride = self.size[axis] / cells if self.stride is None else self.stride[axis]
        return ((pixels - self.shift[axis]) / stride - 0.5).astype(np.float32)


def _resample(values: NDArray[np.float32], positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples each row of `values` [R, n] at `positions` (in cells), bicubic, edges repeated -> [R, len(positions)]."""
    last = values.shape[1] - 1
    positions = np.clip(positions, 0, last)
    base = np.floor(positions).astype(int)
    t = positions - base.astype(np.float32)
    # Keys' cubic convolution kernel with a = -1/2 (Catmull-Rom), the four weights of the neighbours -1, 0, 1, 2.
    kernel = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    result = np.zeros((len(values), len(positions)), np.float32)
    for shift, weight in zip((-1, 0, 1, 2), kernel, strict=True):
        result += weight * values[:, np.clip(base + shift, 0, last)]
    return result


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of what libraries write as one number for a square, or as two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def geometry_of(image: tuple[int, int], size: tuple[int, int], resize_mode: str, crop: float = 1.0) -> Geometry:
    """The geometry of open_clip's preprocessing (torchvision's Resize, CenterCrop and open_clip's padding).

    image, size: (H, W) in pixels of the image and of the model's input; crop: of mode "shortest", how much of the
    resized image's sides the input is, as timm has it: resized to floor(size / crop), then cropped.
    """
    height, width = image
    if resize_mode == "squash":
        return Geometry(image, size, (0, 0), size)
    if resize_mode == "shortest":
        if size[0] == size[1]:
            short = math.floor(size[0] / crop)
            resized = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        else:
            factor = max(math.floor(size[0] / crop) / height, math.floor(size[1] / crop) / width)
            resized = (round(height * factor), round(width * factor))
        offset = tuple(round((r - s) / 2.0) for r, s in zip(resized, size, strict=True))
    elif resize_mode == "longest":
        factor = min(size[0] / height, size[1] / width)
        resized = (round(height * factor), round(width * factor))
        offset = tuple(-((s - r) // 2) for r, s in zip(resized, size, strict=True))
    else:
        raise InputError(f"this model's resize mode {resize_mode!r} is not known; known are shortest, longest, squash")
    return Geometry(image, resized, (offset[0], offset[1]), size)


def input_size(
    wanted: ImageSize, own: tuple[int, int], image: tuple[int, int], stride: tuple[int, int]
) -> tuple[tuple[int, int], bool]:
    """The (H, W) of the model's input for an image, and whether the image is squeezed into it instead of cropped.

    wanted: None, the model's `own`; a number, for a square; (H, W); or "native", the size of the `image` itself, each
    side rounded to whole cells of `stride` pixels.

    Raises:
        InputError: another value, or sides that are not whole cells, or more cells than a model can be asked about.
    """
    if wanted is None:
        return own, False
    if wanted == "native":
        sides = [max(round(side / cell), 1) * cell for side, cell in zip(image, stride, strict=True)]
    elif isinstance(wanted, int) and not isinstance(wanted, bool):
        sides = [wanted, wanted]
    elif isinstance(wanted, (tuple, list)) and len(wanted) == 2 and all(isinstance(side, int) for side in wanted):
        sides = list(wanted)
    else:
        raise InputError(f"image_size is a number, (height, width), 'native' or None, not {wanted!r}")
    for side, cell, usual in zip(sides, stride, own, strict=True):
        if side != usual and (side < cell or side % cell):
            near = max(round(side / cell), 1) * cell
            raise InputError(f"image_size {side}: this model takes multiples of {cell}, as {near}")
    height, width = sides
    cells = (height // stride[0]) * (width // stride[1])
    if cells > MOST_CELLS:
        raise InputError(
            f"image_size {width} x {height} has {cells:,} cells, more than {MOST_CELLS:,}: choose a smaller"
        )
    return (height, width), wanted == "native"
