"""Birds for the tests of the aviary."""

from __future__ import annotations

import numpy as np
import torch

from finercam_clip.aviary import world


def bird(seed: int) -> world.Bird:
    """A bird that is a function of its seed."""
    return world.sample_bird(np.random.default_rng(seed))


def values_of(one: world.Bird) -> torch.Tensor:
    """The index of its value in each slot, [slots], as the losses want it."""
    return torch.tensor([world.SLOTS[slot].index(value) for slot, value in one.traits])
