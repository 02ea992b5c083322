"""The images that a run is about, wherever they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from finercam_clip.datasets import Item, open_dataset
from finercam_clip.errors import InputError
from finercam_clip.images import image_in, read_with_fingerprint
from finercam_clip.paths import is_folder, path_of, place
from finercam_clip.runs.ledger import is_streamed, place_of, read_ledger
from finercam_clip.runs.records import Record, source_in
from finercam_clip.runs.store import store_of


@dataclass(frozen=True)
class Originals:
    """The images of a run.

    Attributes:
        root: The folder that the paths of its records start from.
        streamed: Image name -> the image, where images are no files of their own.
    """

    root: Path
    streamed: dict[str, Item]

    def path(self, record: Record) -> Path:
        """The image's file, if it is one."""
        return self.root / path_of(record["path"])

    def read(self, record: Record) -> Image.Image:
        """The image of a record.

        Raises:
            InputError: It cannot be read, or is another than the one that the map was made from.
        """
        item = self.streamed.get(record["image"])
        if item is None or item.data is None:
            name = str(self.path(record))
            image, now = read_with_fingerprint(self.path(record))
            content = now.bytes, now.sha256
        else:
            data, name = item.data(), item.name
            image, content = image_in(data, name), (len(data), hashlib.sha256(data).hexdigest())
        if content != (source_in(record) or content):
            raise InputError(f"{name} was replaced since its map was made; run finercam-clip generate again")
        return image


def originals_of(run: str | Path, dataset: str | Path | None = None) -> Originals:
    """The images of a run.

    Args:
        run: The place of the run.
        dataset: Where the images lie now, if they were moved since the run began.

    Raises:
        InputError: They are not there.
    """
    store = store_of(run)
    ledger = read_ledger(store)
    before, root = place_of(store, ledger)
    if is_streamed(ledger):
        items = open_dataset(before if dataset is None else dataset).items
        return Originals(Path(root), {item.name: item for item in items})
    if dataset is None:
        return Originals(Path(root), {})
    folder = place(dataset, "the data set")
    if not is_folder(folder):
        raise InputError(f"{folder} is no folder: name the one that the images lie in now")
    return Originals(folder, {})
