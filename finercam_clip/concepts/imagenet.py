"""ImageNet's classes as timm ships them: names, WordNet ids and definitions. Nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from timm.data.imagenet_info import ImageNetInfo

from finercam_clip.concepts.words import normalised, words_of

PHOTOGRAPHS = "imagenet-1k"
_ID = re.compile(r"(n\d{8})(?![^\W_])", re.IGNORECASE | re.ASCII)


@cache
def _info(subset: str) -> Any:
    return ImageNetInfo(subset)


def classes_of(subset: str) -> tuple[list[str], tuple[str, ...]]:
    """The names and the WordNet ids of timm's "imagenet-1k", "imagenet-22k" and the like, in the order of heads."""
    info = _info(subset)
    return list(info.label_descriptions()), tuple(info.label_names())


def wordnet_id(name: str) -> str:
    """The WordNet id that a name is, or begins with, as in "n02085620-Chihuahua"; "" if there is none."""
    match = _ID.match(name.strip())
    return match[1].lower() if match else ""


def synonyms(id: str) -> str:
    """What a WordNet id is called: "tench, Tinca tinca"; "" where timm has no such id."""
    try:
        return str(_info(PHOTOGRAPHS).label_name_to_description(id))
    except KeyError:
        return ""


def definition(id: str) -> str:
    """What WordNet says that it is, in a few words; "" where timm has no such id."""
    try:
        text = str(_info(PHOTOGRAPHS).label_name_to_description(id, detailed=True))
    except KeyError:
        return ""
    return text.removeprefix(f"{synonyms(id)}: ")


def ids_of(names: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of a list of names that is ImageNet's 1,000, under whatever names; () for any other list.

    Every name must be, or begin with, a name of ImageNet's class at the same place: "crane bird" for "crane".
    """
    own, ids = classes_of(PHOTOGRAPHS) if len(names) == 1000 else ([], ())
    return ids if ids and all(map(_agree, names, own)) else ()


def _agree(name: str, synonyms: str) -> bool:
    words = words_of(re.sub(r" #\d+$", "", name))
    beginnings = ("".join(words[: i + 1]) for i in range(len(words)))
    return bool({normalised(part) for part in synonyms.split(",")} & set(beginnings))
