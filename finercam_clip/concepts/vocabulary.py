"""Lists of texts: the packaged files in prompts/, the user's own files, and folders whose folders are classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from finercam_clip.errors import InputError

# In a checkout the files lie in the top-level folder prompts/, in an installed package beside this one.
_FOLDERS = (Path(__file__).parents[1] / "prompt_files", Path(__file__).parents[2] / "prompts")
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
    path = files.get(str(name)) or Path(name)
    try:
        if not path.is_file():
            raise InputError(f"there are no prompts '{name}'; packaged are {', '.join(files)}; or give a text file")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise InputError(f"{path} holds no entries (one per line)")
    return entries


def vocabulary_of(source: str | Path | Sequence[str]) -> list[str]:
    """Texts as given, or those of a file of that name, or the names of a folder's folders as words."""
    if not isinstance(source, (str, Path)):
        return list(source)
    if str(source) not in prompt_files() and Path(source).is_dir():
        return [spoken(name) for name in folder_names(source)]
    return read_prompts(source)


def class_names(source: str | Path | Sequence[str]) -> list[str]:
    """Class names in the order of a head: as given, from a text file (one per line), or those of a folder's folders.

    Raises:
        InputError: There is no such file or folder, or it holds none (see `folder_names`).
    """
    if not isinstance(source, (str, Path)):
        return list(source)
    return folder_names(source) if Path(source).is_dir() else read_prompts(source)


def folder_names(folder: str | Path) -> list[str]:
    """The names of a folder's folders, as image-folder loaders take classes from them.

    Returns:
        The names, sorted. If the folder is split into `train`, `test` and `val`, those of the first that is there.

    Raises:
        InputError: There are none.
    """
    folder = Path(folder)
    split = next((folder / name for name in SPLITS if (folder / name).is_dir()), folder)
    names = sorted(path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))
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
    templates = read_prompts(source) if isinstance(source, (str, Path)) else list(source)
    for template in templates:
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise InputError(f"the template '{template}' must hold '{{}}' once, where the concept goes")
    return templates
