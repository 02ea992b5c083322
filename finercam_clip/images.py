"""Reading pictures of any kind: upright, 8 bit, RGB. A file is read once, and nothing of it but pixels is kept."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from finercam_clip.errors import InputError
from finercam_clip.paths import Fingerprint, fingerprint, opened, place

ImageInput = str | Path | Image.Image | NDArray[np.uint8]

MAX_PIXELS = 175_000_000  # a little under Pillow's own limit
MAX_ASPECT = 50  # beyond this a centre crop would show less than a fiftieth of the picture
MAX_BYTES = 2 << 30  # of a file: 175 million pixels of 12 bytes
_STRIP = 1 << 22  # pixels that are converted at a time
_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {  # its value -> how to turn the stored picture
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)  # the values that swap width and height


def read_image(source: ImageInput) -> Image.Image:
    """The picture as a person sees it: upright (EXIF), 8 bit RGB, alpha over white, the first frame of an animation.

    Metadata that is damaged does no harm to pixels that are not.

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
        path = place(source, "the image")
        with _open(path) as file:
            return _check_shape(_decoded(file, str(path)), str(path))
    raise InputError(f"an image is a path, a PIL image or a uint8 array [H, W, 3], not {type(source).__name__}")


def read_with_fingerprint(path: Path) -> tuple[Image.Image, Fingerprint]:
    """A picture from a file, and the fingerprint of just the bytes that it was decoded from.

    Raises:
        InputError: As `read_image`, or the file is written to meanwhile.
    """
    with _open(path) as file:
        image = _check_shape(_decoded(file, str(path)), str(path))
        return image, fingerprint(file, path)


def image_in(data: bytes, name: str) -> Image.Image:
    """A picture from the bytes of its file, as `read_image` gives it.

    Args:
        data: All of them.
        name: What errors call it.
    """
    if not data:
        raise InputError(f"{name} is empty (0 bytes)")
    return _check_shape(_decoded(io.BytesIO(data), name), name)


def upright_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as a person sees it, from its header. Raises InputError where that cannot be read."""
    with _open(path) as file, _decoding_errors(str(path)), Image.open(file) as image:
        turned = _orientation(image) in _SIDEWAYS
        return (image.width, image.height) if turned else (image.height, image.width)


def _open(path: Path) -> BinaryIO:
    file = opened(path, MAX_BYTES)
    if not file.seek(0, io.SEEK_END):
        file.close()
        raise InputError(f"{path} is empty (0 bytes)")
    file.seek(0)
    return file


def _decoded(file: BinaryIO, name: str) -> Image.Image:
    """The picture in an open file. Where its metadata gets in the way, it is read without them."""
    with _decoding_errors(name):
        try:
            return _picture(file, name)
        except (InputError, MemoryError, Image.DecompressionBombError):
            raise
        except Exception:  # each decoder has its own dozen
            file.seek(0)
            bare = without_metadata(file.read())
            if bare is None:
                raise
            try:
                return _picture(io.BytesIO(bare), name)
            except UnidentifiedImageError:
                pass
            raise


def _picture(file: BinaryIO, name: str) -> Image.Image:
    with Image.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{name} has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}: scale it down"
            )
        return _to_rgb(image, name)


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
        raise InputError(f"{name} is damaged or cut short: {str(error) or type(error).__name__}") from error


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


def _to_rgb(source: Image.Image, name: str) -> Image.Image:
    """The picture upright and in RGB: the same object where it is that already."""
    if 0 in source.size:
        raise InputError(f"{name} is {source.width} x {source.height}: it has no pixels")
    source.load()
    orientation = _orientation(source)
    image = source.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else source
    if image.mode == "F":
        raise InputError(
            f"{name} holds floating-point values, which have no one right picture; convert it to 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        image = _in_strips(image, lambda strip: _from_16_bits(strip, name))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _in_strips(image, _over_white)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if image is not source:
        image.info = {}  # or the orientation in it would be obeyed again
    return image


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An RGB picture, made of a few rows at a time: what is in between needs several times the memory."""
    result = Image.new("RGB", image.size)
    rows = max(_STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        result.paste(convert(image.crop((0, top, image.width, bottom))), (0, top))
    return result


def _over_white(strip: Image.Image) -> Image.Image:
    strip = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", strip.size, (255, 255, 255, 255)), strip).convert("RGB")


def _from_16_bits(strip: Image.Image, name: str) -> Image.Image:
    """16 bits (or 16 bits in 32) scaled to 8; Pillow's own conversion would clip at 255."""
    values = np.asarray(strip).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name} has values outside 0..65535; convert it to 8 or 16 bits")
    return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> object:
    """What EXIF says of how the picture was stored; None where it cannot be read."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # of metadata, each format has its own dozen
        return None


# ------------------------------------------------------------------------------------------------------------- metadata

_JPEG_METADATA = {0xE1, 0xE2, *range(0xE3, 0xEE), 0xEF, 0xFE}  # APP1 .. APP13, APP15, comments; not JFIF, not Adobe's
_PNG_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}


def without_metadata(data: bytes) -> bytes | None:
    """A JPEG, PNG or WebP file with what its pixels need, and nothing else; None of any other file.

    From where its parts cannot be told from each other, the rest is kept as it is: pixels that are cut short stay so.
    """
    if data.startswith(b"\xff\xd8"):
        return _bare_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data[:8] + b"".join(_bare_png(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        body = b"".join(_bare_webp(data))
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return None


def _bare_jpeg(data: bytes) -> bytes:
    parts, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data) and data[at + 1] != 0xDA:  # up to the start of the scan
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        if data[at + 1] not in _JPEG_METADATA:
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])


def _bare_png(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
        if data[at + 4 : at + 8] in _PNG_PIXELS:
            yield data[at:end]
        at = end


def _bare_webp(data: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(data):
        length = struct.unpack("<I", data[at + 4 : at + 8])[0]
        end = at + 8 + length + length % 2
        chunk = data[at:end]
        if chunk[:4] == b"VP8X":  # its flags announce an ICC profile, EXIF and XMP, which are gone
            chunk = chunk[:8] + bytes([chunk[8] & ~0b101100 if len(chunk) > 8 else 0]) + chunk[9:]
        if chunk[:4] in _WEBP_PIXELS:
            yield chunk
        at = end
