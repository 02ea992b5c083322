"""What training draws: pictures with the traits of their birds, and texts about them.

Every sample is a function of its seed, and nothing here says where a part is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from finercam_clip.aviary import drawing, world
from finercam_clip.aviary.losses import trait_indices


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Sample i: a normalised picture [3, S, S] and the values of its two birds, [2, slots]; see `losses`.

    A picture of one bird gives its values twice.
    """

    def __init__(
        self, size: int, seeds: range, mean: list[float], std: list[float], *, pairs: float = 0.0, seen: bool = True
    ) -> None:
        """Pictures that are drawn when they are asked for.

        Args:
            size: S, pixels along each side.
            seeds: One per picture.
            mean: What normalising subtracts, per channel, of colours in 0..1.
            std: What normalising divides by then.
            pairs: The share of pictures with two birds, 0..1.
            seen: Draw birds of training, without the combinations that it must not see.
        """
        self.size, self.seeds, self.pairs = size, seeds, pairs
        self.sample = world.sample_training_bird if seen else world.sample_bird
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        seed = self.seeds[i]
        rng = np.random.default_rng(seed)
        birds = tuple(self.sample(rng) for _ in range(1 + (rng.random() < self.pairs)))
        image = drawing.draw(birds, (seed, 1), size=self.size, masks=False).image
        pixels = ((image.astype(np.float32) / 255 - self.mean) / self.std).transpose(2, 0, 1)
        values = [[world.SLOTS[slot].index(value) for slot, value in bird.traits] for bird in (birds[0], birds[-1])]
        return torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(values)


@dataclass(frozen=True, eq=False)
class Captions:
    """Two captions per picture of a batch. Each says one to four traits of the picture's first bird.

    Attributes:
        texts: 2B texts. Text i < B is true of picture i; text B + i is the same with one trait changed, and false.
        true: bool [B, 2B], whether a text is true of a bird of a picture.
        swaps: The changed trait of each picture, before and after: indices into `world.TRAITS`, [2, B].
    """

    texts: list[str]
    true: Tensor
    swaps: Tensor


def draw_captions(values: Tensor, rng: np.random.Generator) -> Captions:
    """Captions for the pictures of a batch.

    Args:
        values: [B, 2 birds, slots].
        rng: Draws the traits and the words.
    """
    options = list(world.SLOTS.values())
    count = len(values)
    texts: list[str] = []
    changed_texts: list[str] = []
    claims = np.full((2 * count, len(options)), -1)  # the value that each text gives each slot; -1: it says nothing
    changed_slots = []
    for i, (bird, neighbour) in enumerate(values.numpy()):
        slots = rng.permutation(len(options))[: rng.integers(1, 5)]
        changed = rng.choice(slots)
        changed_slots.append(int(changed))
        claims[i, slots] = claims[count + i, slots] = bird[slots]
        # Another value, false of both birds. If it makes a combination that training must not see, the next one.
        others = [v for v in range(len(options[changed])) if v not in (bird[changed], neighbour[changed])]
        for other in rng.permutation(others):
            claims[count + i, changed] = other
            if not world.is_unseen(_traits(claims[count + i], slots)):
                break
        words = rng.integers(1 << 32)  # the same for both captions
        for claim, into in ((claims[i], texts), (claims[count + i], changed_texts)):
            into.append(world.describe(_traits(claim, slots), np.random.default_rng(words)))
    claimed = torch.from_numpy(claims)
    true = ((claimed == values[:, :, None]) | (claimed < 0)).all(-1).any(1)
    swaps = trait_indices(claimed).view(2, count, -1)[:, torch.arange(count), changed_slots]
    return Captions(texts + changed_texts, true, swaps)


def _traits(claim: np.ndarray, slots: np.ndarray) -> tuple[world.Trait, ...]:
    """What a text says, in the order of its slots."""
    names, options = list(world.SLOTS), list(world.SLOTS.values())
    return tuple((names[slot], options[slot][claim[slot]]) for slot in slots)
