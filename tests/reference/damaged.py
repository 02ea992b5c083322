"""Image files that are damaged, each in another way, and files whose pixels are whole all the same."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of soft colours, (width, height) pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def encoded(kind: str, image: Image.Image | None = None, **settings: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **settings)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("bird.jpg", encoded("JPEG"))
    return buffer.getvalue()


def _cut(kind: str, share: float = 0.5) -> Callable[[], bytes]:
    return lambda: (data := encoded(kind))[: int(share * len(data))]


UNREADABLE: dict[str, Callable[[], bytes]] = {
    "cut.jpg": _cut("JPEG"),
    "cut.png": _cut("PNG"),
    "cut.webp": _cut("WEBP"),
    "cut.gif": _cut("GIF", 0.3),
    "cut.bmp": _cut("BMP"),
    "cut.tif": _cut("TIFF"),
    "head.jpg": lambda: encoded("JPEG")[:30],
    "head.png": lambda: encoded("PNG")[:30],
    "empty.jpg": lambda: b"",
    "zeros.jpg": lambda: bytes(5000),
    "text.jpg": lambda: b"a bird\n",
    "page.png": lambda: b"<html>404 Not Found</html>",
    "archive.jpg": _archive,
    "garbage.png": lambda: _png(64, 48, b"no deflated pixels"),
    "nothing.png": lambda: _png(0, 0),
    "bomb.png": lambda: _png(200_000, 200_000, zlib.compress(bytes(1000))),
    "thin.png": lambda: encoded("PNG", picture(size=(4000, 8))),
    "float.tif": lambda: encoded("TIFF", Image.fromarray(np.zeros((8, 8), np.float32))),
    "range.tif": lambda: encoded("TIFF", Image.fromarray(np.full((8, 8), -5, np.int32))),
    "code.jpg": lambda: b"#!/bin/sh\nexit 1\n" * 100,
}

_EXIF = {  # blocks that no reader of EXIF can make sense of
    "cut": b"Exif\x00\x00MM\x00*",
    "offset": b"Exif\x00\x00MM\x00*\xff\xff\xff\xff",
    "endless": b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + b"\xff\xff" + b"\x12\x01\x03\x00\xff\xff\xff\xff" * 20,
    "type": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x63\x00\x00\x00\x01\x00\x06" + bytes(6),
    "text": b"Exif\x00\x00no TIFF header, just words" * 5,
    "order": b"Exif\x00\x00XX\x00*\x00\x00\x00\x08",
    "rational": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x05\x00\x00\x00\x01\x00\x00\x00\x1a\x00\x00"
    b"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00",
}


def _with_exif(kind: str, block: bytes) -> bytes:
    if kind == "JPEG":
        return (data := encoded("JPEG"))[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    if kind == "PNG":
        data = encoded("PNG")
        return data[:33] + _chunk(b"eXIf", block.removeprefix(b"Exif\x00\x00")) + data[33:]
    return encoded("WEBP", exif=block)


READABLE: dict[str, Callable[[], bytes]] = (
    {
        f"exif-{name}.{kind.lower()}": (lambda kind=kind, block=block: _with_exif(kind, block))  # type: ignore[misc]
        for name, block in _EXIF.items()
        for kind in ("JPEG", "PNG", "WEBP")
    }
    | {
        "xmp.png": lambda: (
            (data := encoded("PNG"))[:33] + _chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00<x") + data[33:]
        ),
        "profile.png": lambda: (data := encoded("PNG"))[:33] + _chunk(b"iCCP", b"x\x00\x00not deflated") + data[33:],
        "text.png": lambda: (data := encoded("PNG"))[:33] + _chunk(b"zTXt", b"x\x00\x00not deflated") + data[33:],
        "profile.jpeg": lambda: encoded("JPEG", icc_profile=b"no profile"),
    }
)


def write(folder: Path, files: dict[str, Callable[[], bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data())
