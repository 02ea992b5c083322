"""Image towers: where A is, and the way from A to the embedding and back. The one table of families.

To add a family, write one subclass of `Tower` and put it into `FAMILIES`: the first that matches counts.
"""

from __future__ import annotations

from typing import Any

from finercam_clip.errors import InputError
from finercam_clip.towers.clip_resnet import ClipResNet
from finercam_clip.towers.hub_vit import HubViT
from finercam_clip.towers.native_vit import NativeViT
from finercam_clip.towers.timm_maps import TimmMaps
from finercam_clip.towers.timm_vit import TimmViT
from finercam_clip.towers.tower import Family, Tower, Transformer

FAMILIES: list[type[Tower]] = [NativeViT, TimmViT, TimmMaps, ClipResNet, HubViT]


def tower_of(visual: Any, size: tuple[int, int], *, unit_norm: bool = True) -> Tower:
    """An image tower as its family knows it.

    Args:
        visual: open_clip's `model.visual`, or a module with the same attributes.
        size: (H, W) of its input, pixels.
        unit_norm: Whether scores are taken from features of unit norm.

    Raises:
        InputError: No family knows it.
    """
    for family in FAMILIES:
        if family.matches(visual):
            return family(visual, size, unit_norm=unit_norm)
    inner = f" around {type(visual.trunk).__name__}" if hasattr(visual, "trunk") else ""
    raise unsupported(f"an image tower of type {type(visual).__name__}{inner}")


def family_of_config(config: dict[str, Any]) -> str | None:
    """The name of the family that a "vision_cfg" of open_clip describes, or None."""
    return next((family.family.name for family in FAMILIES if family.matches_config(config)), None)


def unsupported(what: str) -> InputError:
    """The error for a tower of no family."""
    names = ", ".join(family.family.name for family in FAMILIES)
    return InputError(f"{what} is not supported yet; supported families: {names} (finercam-clip models lists models)")


__all__ = ["FAMILIES", "Family", "Tower", "Transformer", "family_of_config", "tower_of", "unsupported"]
