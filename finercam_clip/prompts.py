"""Texts: concepts, templates and vocabularies, and tokens that are never cut off in silence."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finercam_clip.errors import InputError

# In a checkout the files lie in the top-level folder prompts/, in an installed package beside this module.
_FOLDERS = (Path(__file__).parent / "prompt_files", Path(__file__).parents[1] / "prompts")

Text = str | Sequence[str]  # one text, or several that are an ensemble for one concept
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Concept:
    """Something described in words: one text, or several whose embeddings are averaged (CLIP's prompt ensembling)."""

    texts: tuple[str, ...]

    @property
    def label(self) -> str:
        return " / ".join(self.texts)

    def written_as(self, templates: Sequence[str]) -> Concept:
        """The concept in every template."""
        return Concept(tuple(template.format(text) for text in self.texts for template in templates))


def concept(text: Text, role: str) -> Concept:
    """Checks and wraps what the user calls a target or a contrast.

    Raises:
        InputError: a text is empty or not a text.
    """
    texts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, Sequence) else (text,)
    for one in texts:
        if not isinstance(one, str):
            raise InputError(f"the {role} must be a text or several texts, not {type(one).__name__}")
    if not texts or any(not one.strip() for one in texts):
        raise InputError(f"the {role} is an empty text; describe it in words, as in 'a bird with a red crown'")
    return Concept(tuple(one.strip() for one in texts))


def check_question(target: Concept, contrasts: Sequence[Concept]) -> None:
    """Raises InputError when a contrast is the target itself, or stands there twice."""
    seen = {target.label.lower()}
    for contrast in contrasts:
        if contrast.label.lower() == target.label.lower():
            raise InputError(f"the contrast '{contrast.label}' is the target itself; their difference would be empty")
        if contrast.label.lower() in seen:
            raise InputError(f"the contrast '{contrast.label}' is given twice")
        seen.add(contrast.label.lower())


def prompt_files(kind: str = ".txt") -> dict[str, Path]:
    """The packaged templates and vocabularies, name -> file; of the kind ".yaml" the tables of traits."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob(f"*{kind}"))} if folder else {}


def read_prompts(name: str | Path) -> list[str]:
    """The entries of a packaged file (its name without ".txt") or of the user's own text file: one a line, # comments.

    Raises:
        InputError: no such name or file, or nothing in it.
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
        raise InputError(f"{path} holds no entries (one a line)")
    return entries


def vocabulary_of(source: str | Path | Sequence[str]) -> list[str]:
    """A list of concepts as given, or read from the file of that name, or the names of a folder's folders as words."""
    if not isinstance(source, (str, Path)):
        return list(source)
    if str(source) not in prompt_files() and Path(source).is_dir():
        return [spoken(name) for name in folder_names(source)]
    return read_prompts(source)


def folder_names(folder: str | Path) -> list[str]:
    """The names of a folder's folders, as image-folder loaders take classes from them: sorted; of `train`, `test` and
    `val` in it, those in the first that is there.

    Raises:
        InputError: there are none.
    """
    folder = Path(folder)
    split = next((folder / name for name in ("train", "test", "valid", "val") if (folder / name).is_dir()), folder)
    found = sorted(path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise InputError(f"{split} holds no folders to take class names from")
    return found


def spoken(name: str) -> str:
    """A class's folder name as words: "001.Black_footed_Albatross" -> "Black footed Albatross"."""
    return " ".join(re.sub(r"^\s*\d+\s*\.", "", name).replace("_", " ").split())


def templates_of(source: str | Path | Sequence[str] | None) -> list[str]:
    """Templates as given or from the file of that name; None is the text itself. Every one has one "{}"."""
    if source is None:
        return ["{}"]
    found = read_prompts(source) if isinstance(source, (str, Path)) else list(source)
    for template in found:
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise InputError(f"the template '{template}' must hold '{{}}' once, where the concept goes")
    return found


def tokenize(texts: Sequence[str], tokenizer: Tokenizer, known: Tensor | None = None) -> Tensor:
    """Token ids [K, context length].

    `known`: bool [vocabulary], which rows of the token table were ever trained; a word that needs another one is an
    error, since the model would answer all the same and mean nothing by it.

    Raises:
        InputError: a text does not fit the model's context (open_clip itself would cut it off), or holds a word that
            the model has never seen.
    """
    limit = int(getattr(tokenizer, "context_length", None) or 77)
    for text in texts:
        length = _token_count(text, tokenizer)
        if length > limit:
            raise InputError(f"the text '{_shortened(text)}' has {length} tokens; this model reads {limit}: shorten it")
    tokens = tokenizer(list(texts))
    if known is not None:
        _check_known(texts, tokens, tokenizer, known)
    return tokens


def all_known(text: str, tokenizer: Any, known: Tensor) -> bool:
    """Whether every word of a text is one that the model was trained on (see `tokenize`)."""
    return bool(known.cpu()[tokenizer.encode(text.lower())].all())


def _token_count(text: str, tokenizer: Any) -> int:
    """How many tokens the whole text needs, start and end included."""
    if hasattr(tokenizer, "encode"):  # open_clip's SimpleTokenizer
        clean = getattr(tokenizer, "clean_fn", lambda t: t)
        return len(tokenizer.encode(clean(text))) + 2
    inner = tokenizer.tokenizer  # open_clip's HFTokenizer
    clean = getattr(tokenizer, "clean_fn", lambda t: t)
    return len(inner(clean(text))["input_ids"])


def _check_known(texts: Sequence[str], tokens: Tensor, tokenizer: Any, known: Tensor) -> None:
    strange = (~known.cpu()[tokens]) & (tokens != 0)
    if not bool(strange.any()):
        return
    text = texts[int(torch.nonzero(strange.any(1))[0])]
    words = [word for word in text.split() if not all_known(word, tokenizer, known)]
    unknown = ", ".join(f"'{word}'" for word in words) or f"a word in '{_shortened(text)}'"
    raise InputError(
        f"this model does not know {unknown}: it was trained on a world of its own (see the README's model card); "
        "use words of that world, or load a model trained on photographs, as in --model ViT-B-16 --pretrained openai"
    )


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
