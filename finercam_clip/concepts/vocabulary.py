"""Lists of texts: the packaged files in prompts/, the user's own files, and folders whose folders are classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from finercam_clip import checks
from finercam_clip.errors import InputError, shown
from finercam_clip.files import holds_run
from finercam_clip.paths import entries, is_folder, is_folder_entry, look, place, read_text, text_of

# In a checkout the files lie in the top-level folder prompts/, in an installed package beside this one.
_FOLDERS = (Path(__file__).parents[1] / "prompt_files", Path(__file__).parents[2] / "prompts")
MOST_PROMPTS = 1 << 26  # bytes of a text file: a million texts
SPLITS = ("train", "test", "valid", "val")


def prompt_files(kind: str = ".txt") -> dict[str, Path]:
    """The packaged templates and vocabularies, name -> file; with the kind ".yaml" the tables of traits."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob(f"*{kind}"))} if folder else {}


def read_prompts(name: str | Path) -> list[str]:
    """The entries of a text file: one per line, # comments.

    Args:
        name: A packaged file's name without ".txt", or the path of the user's own file.

    Raises:
        InputError: There is no such name or file, or nothing in it.
    """
    files = prompt_files()
    path = files.get(str(name)) or place(name, "the file of prompts")
    if look(path) is None or is_folder(path):
        raise InputError(f"there are no prompts '{name}'; packaged are {', '.join(files)}; or give a text file")
    lines = [line.strip() for line in read_text(path, MOST_PROMPTS).splitlines()]
    texts = [line for line in lines if line and not line.startswith("#")]
    if not texts:
        raise InputError(f"{path} holds no entries (one per line)")
    return texts


def vocabulary_of(source: str | Path | Sequence[str]) -> list[str]:
    """Texts as given, or those of a file of that name, or the names of a folder's folders as words."""
    if not isinstance(source, (str, Path)):
        texts = checks.items(source, "these are texts, or the name of a file of texts")
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"a list of texts holds texts, not {shown(text)}")
        return texts
    if str(source) not in prompt_files() and is_folder(place(source, "the vocabulary")):
        return [spoken(name) for name in folder_names(source)]
    return read_prompts(source)


def class_names(source: str | Path | Sequence[str]) -> list[str]:
    """Class names in the order of a head: as given, from a text file (one per line), or those of a folder's folders.

    Raises:
        InputError: There is no such file or folder, or it holds none (see `folder_names`).
    """
    if not isinstance(source, (str, Path)):
        names = checks.items(source, "classes are names, or a file or a folder of them")
        for name in names:
            if not isinstance(name, str):
                raise InputError(f"the name of a class is a text, not {shown(name)}")
        return names
    return folder_names(source) if is_folder(place(source, "the list of classes")) else read_prompts(source)


def folder_names(folder: str | Path) -> list[str]:
    """The names of a folder's folders, as image-folder loaders take classes from them.

    Returns:
        The names, sorted. If the folder is split into `train`, `test` and `val`, those of the first that is there.

    Raises:
        InputError: There are none, or the folder cannot be read.
    """
    folder = Path(folder)
    split = next((folder / name for name in SPLITS if is_folder(folder / name)), folder)
    folders = [entry.name for entry in entries(split) if is_folder_entry(entry) and not entry.name.startswith(".")]
    names = sorted(text_of(name) for name in folders if not holds_run(split / name))
    if not names:
        raise InputError(f"{split} holds no folders to take class names from")
    return names


def spoken(name: str) -> str:
    """A class's folder name as words: "001.Black_footed_Albatross" -> "Black footed Albatross"."""
    return " ".join(re.sub(r"^\s*\d+\s*\.", "", name).replace("_", " ").split())


def templates_of(source: str | Path | Sequence[str] | None) -> list[str]:
    """Ways to write a concept, each with one "{}": as given, or from the file of that name; None is the text itself.

    Raises:
        InputError: A template does not hold "{}" once, or the file cannot be read.
    """
    if source is None:
        return ["{}"]
    if isinstance(source, (str, Path)):
        templates = read_prompts(source)
    else:
        templates = checks.items(source, "templates are texts, or the name of a file of texts")
    if not templates:
        raise InputError("there are no templates: give at least one, or None for the text itself")
    for template in templates:
        if not isinstance(template, str):
            raise InputError(f"a template is a text with '{{}}' in it, not {shown(template)}")
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise InputError(f"the template {shown(template)} must hold '{{}}' once, where the concept goes")
    return templates
