"""Another target layer than a family's own: named, checked, and run with a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finercam_clip.errors import InputError
from finercam_clip.towers.closed import MeanTail, recorded_rest
from finercam_clip.towers.tails import Cut, Tail
from finercam_clip.towers.tower import Tower, Transformer

LAST = "last"


def tails_at(tower: Tower, pixels: Tensor, pooling: str, layer: int | str) -> Sequence[Tail]:
    """One tail per image with another layer's output as A: the whole tower is run, with a graph from there on.

    The layer "last" has a closed form (`last_tails`).

    Args:
        tower: The tower.
        pixels: [B, 3, H, W].
        pooling: How the tokens are pooled.
        layer: An index among the tower's layers, or the name of any of its modules.

    Raises:
        InputError: There is no such layer, its output is no grid of patches, or no gradient reaches them.
    """
    tower.check_pooling(pooling)
    if layer == LAST:
        return last_tails(tower, pixels, pooling)
    module = layer_named(tower, layer)
    name = _names_of(tower, [module])[0]
    try:
        tails = tower.recorded(Cut(pixels, lambda x: tower.features(x, pooling), module))
        (gradient,) = tails[0].gradients(torch.ones_like(tails[0].embedding)[None])
        if gradient.ndim != 2:
            raise IndexError("the patches are no rows of channels")
    except (IndexError, AttributeError, RuntimeError) as error:
        raise InputError(f"layer {name} gives no grid of patches; {_usable_layers(tower)}") from error
    if not gradient.any():
        raise InputError(
            f"no gradient reaches the patches at layer {name}, so its maps would be empty; {_usable_layers(tower)}"
        )
    return tails


@torch.no_grad()
def last_tails(tower: Tower, pixels: Tensor, pooling: str) -> list[Tail]:
    """One tail per image at what is averaged in the end: the class activation map. Questions cost next to nothing.

    A network of feature maps is asked at its own layer, which is that already.

    Raises:
        InputError: Patches are not averaged.
    """
    if not isinstance(tower, Transformer):
        return list(tower.tails(pixels, pooling))
    pools = tower.pools if pooling == "model" else pooling
    if pools != "mean":
        raise InputError(f"layer '{LAST}' is for towers that average their patches; this one pools by {pools}")
    patches, rest = tower.averaged(tower.tokens(pixels), pooling)
    behind = [recorded_rest(tower.visual, one.mean(0), rest, tower.scored) for one in patches]
    return [MeanTail(one.float(), own.embedding, own.pull_back) for one, own in zip(patches, behind, strict=True)]


def layer_named(tower: Tower, layer: int | str) -> nn.Module:
    """One of a tower's layers by its index, or any of its modules by its name. Raises InputError if there is none."""
    try:
        module: nn.Module = tower.layers()[layer] if isinstance(layer, int) else tower.visual.get_submodule(layer)
    except (IndexError, AttributeError) as error:
        raise InputError(f"there is no layer {layer}; {_usable_layers(tower)}, or any other module's name") from error
    return module


def _usable_layers(tower: Tower) -> str:
    return f"layers that can be asked: {', '.join(_names_of(tower, tower.layers()))}, or their index from -1"


def _names_of(tower: Tower, modules: list[Any]) -> list[str]:
    names = {id(module): name for name, module in tower.visual.named_modules()}
    return [names[id(module)] for module in modules]
