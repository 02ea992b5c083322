"""What a data set is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from finercam_clip.errors import InputError
from finercam_clip.images import image_in, read_image
from finercam_clip.paths import is_folder, path_of


@dataclass(frozen=True, slots=True)
class Item:
    """One image and its question. There can be ten million of them: what they share is there once.

    Attributes:
        folder: What its file is relative to.
        name: The image's name within its data set: unique, in UTF-8 (see `paths.text_of`), its folders separated by
            "/". It never leads out of a folder.
        target: A class or a concept; None if the data set does not say.
        contrasts: What to compare with; None if they are to be chosen.
        split: "train", "test" and the like; "" if there are no splits.
        data: Gives the bytes of an image that is no file of its own (in a tar, a table, an object store); None for a
            file. It raises InputError if they cannot be had.
        file: Its file within the folder, where it is not the name's (`paths.path_of`); "" for the folder itself.
    """

    folder: Path
    name: str
    target: str | None = None
    contrasts: tuple[str, ...] | None = None
    split: str = ""
    data: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    file: str | None = None

    @property
    def path(self) -> Path:
        """The image file; where images are streamed, what they are streamed from."""
        return self.folder / (path_of(self.name) if self.file is None else self.file)

    def read(self) -> Image.Image:
        """The picture (`images.read_image`). Raises InputError where it cannot be read."""
        return read_image(self.path) if self.data is None else image_in(self.data(), self.name)


@dataclass(frozen=True)
class DataSet:
    """Images, their questions, and what else is known about them.

    Attributes:
        source: The folder or the file that was opened.
        kind: What kind of data set it is, in words.
        items: The images.
        classes: The names of the classes in the order in which classifiers' heads have them; empty if there are none.
        parts: Of CUB-200-2011: image name -> part -> (x, y) in pixels, visible parts only.
        attributes: Of CUB-200-2011: image name -> the attributes that it has.
        left_out: The name of a folder, with "/" behind it -> why what is in it is not among the images.
        made: What finercam_clip has written into the data set itself, which is no part of it: runs, and pictures.
        part: The split that was chosen; "" if all images are here.
        above: A folder that all images lie in, where that is not the folder of `source`.
        address: Where images come from, if that is no path (s3://bucket/photos); else "".
    """

    source: Path
    kind: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    parts: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    made: tuple[str, ...] = ()
    part: str = ""
    above: Path | None = None
    address: str = ""

    @property
    def root(self) -> Path:
        """The folder that the images' paths are relative to: every image lies somewhere in it."""
        if self.above is not None:
            return self.above
        return self.source if is_folder(self.source) else self.source.parent

    def split(self, name: str | None) -> DataSet:
        """The same data set with the images of one split only.

        Args:
            name: The split; None keeps all images.

        Raises:
            InputError: There is no such split.
        """
        if name is None:
            return self
        items = tuple(item for item in self.items if item.split == name)
        if not items or not name:
            splits = ", ".join(sorted({item.split for item in self.items if item.split})) or "none"
            raise InputError(f"{self.source} has no split '{name}'; its splits: {splits}")
        return replace(self, items=items, part=name)
