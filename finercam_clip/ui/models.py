"""The models of the page: their names in its list, which of them are on this machine, and which comes first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants, try_to_load_from_cache

from finercam_clip import models, progress
from finercam_clip.errors import InputError, shown
from finercam_clip.explainer import Explainer
from finercam_clip.models.catalogue import BIRDS, BUNDLED, BUNDLED_MODELS, list_models
from finercam_clip.models.classifier import PHOTOS
from finercam_clip.models.loading import RANDOM
from finercam_clip.options import Precision
from finercam_clip.towers import family_of_config

_KEPT = 2  # models besides the first: the one in use, and the last one
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # open_clip's names for them on the hub
_CONFIG = "open_clip_config.json"


def model_named(name: str, *, device: str | None = None, precision: Precision = "fp32") -> Explainer:
    """Loads the model with a name on the page.

    Args:
        name: "aviary" or "birds" (the bundled models), "photos", "hf-hub:org/repo", or an architecture of open_clip and
            its weights, with a space between them.
        device: As in `load`.
        precision: As in `load`.

    Raises:
        InputError: There is no model with that name, it is a file on this machine, or it cannot be loaded.
    """
    if not isinstance(name, str):
        raise InputError(f"a model is named by a text, not {shown(name)}")
    words = name.split(maxsplit=1)
    if not words:
        raise InputError("no model is named: choose one, or type an architecture and its weights")
    tags = [RANDOM, *open_clip.list_pretrained_tags_by_model(words[0])] if words[0] in open_clip.list_models() else None
    if words[0].startswith(("local-dir:", "hf:")) or (tags is not None and words[1:] and words[1] not in tags):
        # Whether there is such a file would tell whoever asks what lies on this machine.
        raise InputError(f"the page has no model '{name}': choose one of its list, or type hf-hub:org/repo")
    if words[0] == PHOTOS:
        return models.load_classifier(PHOTOS, device=device, precision=precision)
    return models.load(words[0], words[1] if len(words) > 1 else None, device=device, precision=precision)


def model_names() -> list[str]:
    """The names that `model_named` takes: first the models that need no download, then all others of open_clip."""
    published = [f"{row.name} {tag}" for row in list_models() if row.name not in BUNDLED_MODELS for tag in row.weights]
    return list(dict.fromkeys([*BUNDLED_MODELS, PHOTOS, *downloaded(), *published]))


def name_of(explainer: Explainer) -> str:
    """The name of a loaded model on the page."""
    loaded = explainer.loaded
    alone = loaded.name in (*BUNDLED_MODELS, PHOTOS) or loaded.name == loaded.pretrained
    return loaded.name if alone else f"{loaded.name} {loaded.pretrained}"


def keeping_models(first: Explainer) -> Callable[[str], Explainer]:
    """`model_named` for a page: keeps models in memory, the first one always and the last two others.

    Args:
        first: The model that the page begins with. The others are loaded to its device.
    """
    first_name, device = name_of(first), str(first.loaded.device)

    @lru_cache(maxsize=_KEPT)
    def other(name: str) -> Explainer:
        return model_named(name, device=device)

    return lambda name: first if name == first_name else other(name if isinstance(name, str) else "")


def first_model(*, device: str | None = None, precision: Precision = "fp32") -> Explainer:
    """The model that the page opens with where none is named.

    Visitors bring photographs, and texts. So it is the smallest CLIP that was downloaded before, else `birds`, which
    needs no download.

    Args:
        device: As in `load`.
        precision: As in `load`.

    Raises:
        InputError: The device or the precision cannot be used.
    """
    for name in (*downloaded(), BIRDS):
        try:
            with progress.waiting(f"loading {name}"):
                return model_named(name, device=device, precision=precision)
        except InputError:  # not installed, or a part of it is missing: its tokenizer, perhaps
            continue
    with progress.waiting("loading the bundled model"):
        return model_named(BUNDLED, device=device, precision=precision)


def downloaded() -> list[str]:
    """The CLIPs in the local cache of the Hugging Face hub by their names on the page, the smallest file first.

    It only looks into the cache's folder. Nothing is fetched.
    """
    sizes: dict[str, int] = {}
    for name, repository, files in (*_tagged(), *_whole()):
        paths = (try_to_load_from_cache(repository, file, cache_dir=constants.HF_HUB_CACHE) for file in files)
        path = next((path for path in paths if isinstance(path, str)), None)
        if path is not None:
            sizes.setdefault(name, Path(path).stat().st_size)
    return sorted(sizes, key=lambda name: sizes[name])


def _tagged() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Architectures of open_clip with their tags: name on the page, repository, and files that may hold the weights.

    Some weights serve two architectures, of which one has the activation that they were trained with. It comes first.
    """
    mismatched = []
    for row in list_models():
        if row.name in BUNDLED_MODELS or row.family is None:
            continue
        quick = bool(open_clip.get_model_config(row.name).get("quick_gelu"))
        for tag in row.weights:
            settings: dict[str, Any] = open_clip.get_pretrained_cfg(row.name, tag)
            repository, file = os.path.split(settings.get("hf_hub", ""))
            if repository:
                files = (str(Path(file).with_suffix(".safetensors")), file) if file else _WEIGHTS
                entry = (f"{row.name} {tag}", repository, files)
                if bool(settings.get("quick_gelu")) == quick:
                    yield entry
                else:
                    mismatched.append(entry)
    yield from mismatched


def _whole() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Repositories in the cache with a configuration of open_clip beside the weights: "hf-hub:org/repo"."""
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        config = try_to_load_from_cache(repository, _CONFIG, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(config, str) and _supported(Path(config)):
            yield f"hf-hub:{repository}", repository, _WEIGHTS


def _supported(config: Path) -> bool:
    try:
        return family_of_config(json.loads(config.read_text(encoding="utf-8"))["model_cfg"]["vision_cfg"]) is not None
    except (OSError, ValueError, KeyError, TypeError):
        return False
