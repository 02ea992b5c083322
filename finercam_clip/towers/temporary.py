"""Changes to the user's model that are taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; afterwards each asks as it did before."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, no part is in training mode (dropout, batch statistics); afterwards each is as it was."""
    parts = [part for part in module.modules() if part.training]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part in parts:
            part.training = True


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, modules that the user has compiled run as they are written: compiled ones do not see new hooks."""
    stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    return nullcontext() if stance is None else stance("force_eager")


@contextmanager
def attributes(owner: Any, **values: Any) -> Iterator[None]:
    """The attributes set inside, and as they were afterwards."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def resized_positions(owner: Any, own_grid: tuple[int, int], grid: tuple[int, int]) -> Iterator[None]:
    """`owner.positional_embedding`, a class position and a grid, resampled for another grid; then put back."""
    own = owner.positional_embedding
    resampled = resample_abs_pos_embed(
        own.detach()[None], new_size=list(grid), old_size=list(own_grid), num_prefix_tokens=1
    )[0]
    with attributes(owner, positional_embedding=nn.Parameter(resampled, requires_grad=False)):
        yield
