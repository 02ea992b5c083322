"""What a tower makes of many images, computed once, kept, and found again.

FOLDER/<key>/settings.json      the model and how its images were prepared; the key is a digest of it
FOLDER/<key>/00000.safetensors  the features of one batch, float32 [n, D], and the fingerprints of its images
FOLDER/<key>/.lock              there while a process works in the folder

A file is written whole when its batch is done, so that a killed process loses no more than one batch. Features belong
to the content of an image file: one that is renamed, copied or moved to another split is found again. While size and
times of a file are the same it is not even read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from finercam_clip import progress
from finercam_clip.batches import in_batches, through_model
from finercam_clip.datasets import Item
from finercam_clip.errors import InputError, UnfinishedError
from finercam_clip.explainer import Explainer
from finercam_clip.files import PART, locked, make_folder, write_whole
from finercam_clip.images import read_with_fingerprint
from finercam_clip.loaded import LoadedModel
from finercam_clip.models.classifier import pooling_of
from finercam_clip.options import ImageSize
from finercam_clip.paths import Fingerprint, check_file, entries, fingerprint, look, opened, reason
from finercam_clip.tensors import check_finite, fingerprint_of

_IMAGES = "images"  # the key of a file's metadata
_MOST_BYTES = 1 << 30  # of a file
_FILE = re.compile(r"(\d+)\.safetensors")
_KEY = 16  # hexadecimal digits


@dataclass(frozen=True)
class Features:
    """The features of the images of a data set.

    Attributes:
        rows: Image name -> float32 [D].
        digests: Image name -> SHA-256 of its file.
        computed: How many were computed in this call.
        unreadable: Image name -> why it has none.
    """

    rows: dict[str, Tensor]
    digests: dict[str, str]
    computed: int
    unreadable: dict[str, str]

    def of(self, items: Sequence[Item]) -> Tensor:
        """The features of images, [n, D]."""
        return torch.stack([self.rows[item.name] for item in items])


@dataclass
class _Store:
    """What a folder holds.

    Attributes:
        folder: The folder of one model.
        rows: SHA-256 of an image file -> its features.
        names: Image name -> the fingerprint of its file when it was read last.
        sizes: The sizes of the files.
        written: How many files of features there are.
    """

    folder: Path
    rows: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, Fingerprint] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    written: int = 0

    def keep(self, images: Sequence[tuple[str, Fingerprint]], rows: Tensor) -> None:
        for (name, source), row in zip(images, rows, strict=True):
            self.rows[source.sha256] = row
            self.names[name] = source
            self.sizes.add(source.bytes)

    def write(self, images: Sequence[tuple[str, Fingerprint]], rows: Tensor) -> None:
        """Writes the features of a batch."""
        listed = json.dumps([{"name": name} | asdict(source) for name, source in images])
        data = save({"features": rows.contiguous()}, {_IMAGES: listed})
        write_whole(self.folder / f"{self.written:05}.safetensors", data)
        self.written += 1
        self.keep(images, rows)

    def digest_of(self, item: Item) -> str | None:
        """The SHA-256 of an image whose features are here; None if they are not.

        Raises:
            InputError: The file cannot be read.
        """
        status = check_file(item.path)
        known = self.names.get(item.name)
        if known is None or not known.is_of(status):
            if status.st_size not in self.sizes:
                return None
            with opened(item.path) as file:
                known = fingerprint(file, item.path)
        return known.sha256 if known.sha256 in self.rows else None


def settings_of(loaded: LoadedModel, image_size: ImageSize) -> dict[str, Any]:
    """What features depend on besides the image: the model's weights, and how images are prepared."""
    preprocess = loaded.preprocess
    return {
        "model": loaded.name,
        "pretrained": loaded.pretrained,
        "weights": fingerprint_of(loaded.tower.visual),
        "dtype": str(loaded.dtype),
        "pooling": pooling_of(loaded),
        "unit_norm": loaded.tower.unit_norm,
        "image_size": image_size,
        "preprocess": {name: str(getattr(preprocess, name)) for name in (f.name for f in fields(preprocess))},
    }


def features_of(
    explainer: Explainer, items: Sequence[Item], folder: Path, image_size: ImageSize, batch: int
) -> Features:
    """The features of images: those that the folder holds, and the others computed and kept in it.

    Args:
        explainer: The model.
        items: The images.
        folder: Where features are kept, of any number of models.
        image_size: Size of the model's input (see `Options`).
        batch: Images per forward pass.

    Raises:
        InputError: The folder cannot be written to, or another process is computing the same.
        UnfinishedError: Work stopped in the middle. What is done stays.
    """
    text = json.dumps(settings_of(explainer.loaded, image_size), indent=1)
    place = make_folder(folder / hashlib.sha256(text.encode()).hexdigest()[:_KEY])
    with locked(place):
        try:
            return _computed(explainer, items, _opened(place, text), image_size, batch)
        except (InputError, OSError) as error:
            why = error if isinstance(error, InputError) else f"{place} cannot be written to: {reason(error)}"
            raise UnfinishedError(f"{why}; features that are done stay: run the same again to go on") from error


def _computed(
    explainer: Explainer, items: Sequence[Item], store: _Store, image_size: ImageSize, batch: int
) -> Features:
    digests: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    missing: list[Item] = []
    for item in items:
        try:
            digest = store.digest_of(item)
        except InputError as error:
            unreadable[item.name] = str(error)
            continue
        if digest is None:
            missing.append(item)
        else:
            digests[item.name] = digest
    computed = 0
    with progress.bar(len(items), initial=len(digests) + len(unreadable), desc="features", unit="image") as bar:
        for start in range(0, len(missing), batch):
            pictures = _read(explainer, missing[start : start + batch], image_size, unreadable)
            new = {p.source.sha256: p for p in pictures if p.source.sha256 not in store.rows}
            if new:
                distinct = list(new.values())
                rows = _encoded(explainer.loaded, [picture.pixels for picture in distinct], batch)
                store.write([(picture.name, picture.source) for picture in distinct], rows)
                computed += len(distinct)
            digests |= {picture.name: picture.source.sha256 for picture in pictures}
            bar.update(len(missing[start : start + batch]))
    return Features({name: store.rows[digest] for name, digest in digests.items()}, digests, computed, unreadable)


def _opened(place: Path, text: str) -> _Store:
    """The features that a folder holds of a model. What was not written whole is removed, and computed anew."""
    store = _Store(place)
    if look(place / "settings.json") is None:
        write_whole(place / "settings.json", (text + "\n").encode())
    for entry in entries(place):
        number = _FILE.fullmatch(entry.name)
        if number is not None:
            content = _content(Path(entry.path))
            if content is None:
                Path(entry.path).unlink()
                continue
            store.keep(*content)
            store.written = int(number[1]) + 1
        elif entry.name.endswith(PART):
            Path(entry.path).unlink()
    return store


def _content(path: Path) -> tuple[list[tuple[str, Fingerprint]], Tensor] | None:
    """The images of a file, and their features [n, D]; None if it is damaged."""
    check_file(path, _MOST_BYTES)
    try:
        with safe_open(path, framework="pt") as file:
            listed = json.loads(file.metadata()[_IMAGES])
            rows: Tensor = file.get_tensor("features")
        images = [(str(image.pop("name")), Fingerprint(**image)) for image in listed]
    except Exception:  # of a damaged file, safetensors and JSON have their own dozen
        return None
    whole = rows.ndim == 2 and len(rows) == len(images) and rows.dtype == torch.float32 and bool(rows.isfinite().all())
    return (images, rows) if whole else None


@dataclass(frozen=True)
class _Picture:
    """An image that was read: its name, the fingerprint of its file, and the model's input [3, H, W]."""

    name: str
    source: Fingerprint
    pixels: Tensor


def _read(
    explainer: Explainer, items: Sequence[Item], image_size: ImageSize, unreadable: dict[str, str]
) -> list[_Picture]:
    """Images as the model's input. Those that cannot be read are listed instead: image name -> why."""
    loaded = explainer.loaded
    pictures = []
    for item in items:
        try:
            image, source = read_with_fingerprint(item.path)
            size, squeeze = loaded.preprocess.input_size(image_size, (image.height, image.width), loaded.tower.stride)
        except InputError as error:
            unreadable[item.name] = str(error)
            continue
        pixels, _ = loaded.preprocess(image, size, squeeze=squeeze)
        pictures.append(_Picture(item.name, source, pixels))
    return pictures


def _encoded(loaded: LoadedModel, pixels: list[Tensor], batch: int) -> Tensor:
    """The features of a batch, float32 [n, D] on the CPU: those of `Explainer.encode`, without a graph, and no 1."""
    tower = loaded.tower

    def run(chunk: list[Tensor]) -> list[Tensor]:
        stacked = torch.stack(chunk).to(loaded.device, loaded.dtype)
        with tower.ready((stacked.shape[2], stacked.shape[3])):
            return through_model(embed, stacked, hooked=tower.listens("model"))

    @torch.no_grad()  # holds for the thread that it is called in
    def embed(part: Tensor) -> list[Tensor]:
        features = tower.scored(tower.features(part))
        return list((features if tower.unit_norm else features[:, :-1]).cpu())

    rows: dict[int, Tensor] = {}
    for shape in dict.fromkeys(tensor.shape for tensor in pixels):  # images of one size go through the tower together
        members = [i for i, tensor in enumerate(pixels) if tensor.shape == shape]
        rows |= zip(members, in_batches(run, [pixels[i] for i in members], batch), strict=True)
    features = torch.stack([rows[i] for i in range(len(pixels))])
    check_finite({"features": features}, "these images", " by this model: try --precision fp32")
    return features
