"""What can be loaded: the architectures of open_clip, their families and their published weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from finercam_clip import tables
from finercam_clip.errors import InputError, did_you_mean
from finercam_clip.models.loading import RANDOM
from finercam_clip.paths import check_file, look
from finercam_clip.towers import FAMILIES, family_of_config, unsupported

BUNDLED = "aviary"  # what is loaded where no model is named
BIRDS = "birds"
_PACKAGE = Path(__file__).parents[1]
BUNDLED_MODELS = {name: _PACKAGE / name / "weights" for name in (BUNDLED, BIRDS)}  # name -> folder of its files


@dataclass(frozen=True)
class Listed:
    """A model that can be named.

    Attributes:
        name: Its name.
        family: The family of its image tower; None: not supported yet.
        weights: The weights that it can be had with.
    """

    name: str
    family: str | None
    weights: tuple[str, ...]


def list_models() -> list[Listed]:
    """The bundled models and every architecture of open_clip, in its order."""
    listed = [
        Listed(name, family_of_config(_vision_config(f"local-dir:{folder}")), ("bundled",))
        for name, folder in BUNDLED_MODELS.items()
    ]
    for name in open_clip.list_models():
        tags = tuple(open_clip.list_pretrained_tags_by_model(name))
        listed.append(Listed(name, family_of_config(_vision_config(name)), tags))
    return listed


def families_table() -> str:
    """The table of families in Markdown, with how many of open_clip's architectures each has."""
    names = [listed.family for listed in list_models() if listed.name not in BUNDLED_MODELS]
    rows = []
    for tower in FAMILIES:
        family = tower.family
        rows.append((f"`{family.name}`", str(names.count(family.name)), family.towers, family.layer, family.pooling))
    return tables.markdown(("family", "architectures", "towers", "target layer", "pooling"), rows, numbers=(1,))


def check_family(name: str) -> None:
    """Raises InputError for an architecture whose image tower is of no family, before anything is built."""
    config = _vision_config(name)
    if family_of_config(config) is None:
        kind = config.get("timm_model_name", "ModifiedResNet")
        raise unsupported(f"{name} (image tower {kind})")


def check_pretrained(name: str, pretrained: str | None) -> str:
    """The tag or checkpoint file, checked against what open_clip knows of an architecture.

    Raises:
        InputError: There is no such architecture, tag or file; the message lists what there is.
    """
    names = open_clip.list_models()
    if name not in names:
        raise InputError(
            f"open_clip has no architecture '{name}'{did_you_mean(name, names)} (finercam-clip models lists them)"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        listed = ", ".join(tags) if tags else "none are published"
        raise InputError(f"{name} needs weights: its pretrained tags are {listed}; or a checkpoint file, or 'random'")
    if pretrained == RANDOM or pretrained in tags:
        return pretrained
    if look(pretrained) is not None:
        check_file(pretrained)
        return pretrained
    if Path(pretrained).suffix or "/" in pretrained:
        raise InputError(f"{pretrained}: no such checkpoint file")
    raise InputError(
        f"{name} has no pretrained tag '{pretrained}'; it has {', '.join(tags) or 'none'}; or a checkpoint file"
    )


def _vision_config(name: str) -> dict[str, Any]:
    return dict(open_clip.get_model_config(name)["vision_cfg"])
