"""Folders of images, with or without classes. What cannot be read is told, and what was made here is left out."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from finercam_clip.concepts.vocabulary import SPLITS
from finercam_clip.datasets.items import DataSet, Item
from finercam_clip.errors import InputError
from finercam_clip.files import holds_run
from finercam_clip.paths import entries, is_folder, is_folder_entry, opened, resolved, text_of
from finercam_clip.render import FORMATS

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_HEADER = 1 << 12  # bytes of a CSV file that tell whether it is a table of traits


def open_folder(root: Path) -> DataSet:
    """The images in a folder, by class where they lie in folders, in splits where there are such folders.

    Raises:
        InputError: The folder itself cannot be read. One in it is `DataSet.left_out`.
    """
    entries(root)
    splits = [name for name in SPLITS if is_folder(root / name)]
    places = [(name, root / name) for name in splits] or [("", root)]
    walk = _Walk(root)
    items: list[Item] = []
    classes: set[str] = set()
    for split, place in places:
        paths, folders = walk.images(place)
        classes |= {text_of(name) for name in folders}
        for inside in paths:
            first, below, _ = inside.partition("/")
            target = sys.intern(text_of(first)) if below else None
            items.append(Item(root, text_of(f"{split}/{inside}" if split else inside), target, split=split))
    kind = "images by class" if classes else "images without classes"
    if splits:
        kind += f", splits {', '.join(splits)}"
    return DataSet(
        root, kind, tuple(items), tuple(sorted(classes)), left_out=walk.left_out, made=tuple(sorted(walk.made))
    )


@dataclass
class _Walk:
    """A walk through a folder.

    Attributes:
        root: The data set's own folder.
        left_out: See `DataSet`.
        made: See `DataSet`.
        seen: Device and number of each folder outside the root that links led to. None is walked through twice.
    """

    root: Path
    left_out: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def images(self, place: Path) -> tuple[list[str], list[str]]:
        """Every image file at any depth, by its path within the place, sorted, and the names of the folders at the top.

        What is hidden is left out. A link to a folder is followed once, if it leads out of the data set: inside, the
        folder is walked through under its own name.
        """
        paths: list[str] = []
        top: list[str] = []
        waiting = [place]
        while waiting:
            folder = waiting.pop()
            try:
                listing = [entry for entry in entries(folder) if not entry.name.startswith(".")]
            except InputError as error:
                self.left_out[self._name(folder) + "/"] = str(error)
                continue
            names = {entry.name for entry in listing}
            within = "" if folder == place else f"{folder.relative_to(place).as_posix()}/"
            for entry in listing:
                if is_folder_entry(entry):
                    path = folder / entry.name
                    if not self._is_wanted(entry, path):
                        continue
                    waiting.append(path)
                    top += [entry.name] if folder == place else []
                elif PurePath(entry.name).suffix.lower() in IMAGE_ENDINGS:
                    if _was_made(folder, entry.name, names):
                        self.made.append(self._name(folder / entry.name))
                    else:
                        paths.append(within + entry.name)
        return sorted(paths), top

    def _is_wanted(self, entry: os.DirEntry[str], path: Path) -> bool:
        if entry.is_symlink() and not self._leads_out(path):
            return False
        if holds_run(path):
            self.made.append(self._name(path) + "/")
            return False
        return True

    def _leads_out(self, link: Path) -> bool:
        """Whether a link leads to a folder that is neither in the data set, nor around it, nor known already."""
        try:
            target, root = resolved(link), resolved(self.root)
            status = target.stat()
        except (InputError, OSError) as error:
            self.left_out[self._name(link) + "/"] = str(error)
            return False
        key = (status.st_dev, status.st_ino)
        if target.is_relative_to(root) or root.is_relative_to(target) or key in self.seen:
            return False
        self.seen.add(key)
        return True

    def _name(self, path: PurePath) -> str:
        return text_of(path.relative_to(self.root).as_posix())


def _was_made(folder: Path, name: str, names: set[str]) -> bool:
    """Whether `explain` made a picture: of an image beside it, or of a table of traits beside it."""
    path = PurePath(name)
    if path.suffix.lower() not in FORMATS:
        return False
    of = path.stem.removesuffix("-finercam")
    if of != path.stem and any(PurePath(name).stem == of and name.lower().endswith(IMAGE_ENDINGS) for name in names):
        return True
    if f"{path.stem}.csv" not in names:
        return False
    try:
        with opened(folder / f"{path.stem}.csv") as file:
            header = file.read(_HEADER).split(b"\n", 1)[0]
    except (InputError, OSError):
        return False
    return header.startswith(b"image,") and b" score" in header and b" box" in header
