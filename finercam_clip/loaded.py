"""A model that is ready to be asked: its two sides, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from finercam_clip.concepts import ConceptSpace
from finercam_clip.preprocess import Preprocess
from finercam_clip.towers import Tower


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A CLIP or a classifier.

    Attributes:
        name: What it is called.
        pretrained: Where its weights came from.
        tower: The image side.
        preprocess: From a picture to the tower's input.
        space: The concept side.
        device: Where the tower is.
        dtype: The type of the pixels that the tower takes.
        present_above: The cosine that true texts of an image nearly always reach, if the weights' file tells it
            (safetensors metadata, as the bundled model's does). Else None.
    """

    name: str
    pretrained: str
    tower: Tower
    preprocess: Preprocess
    space: ConceptSpace
    device: torch.device
    dtype: torch.dtype = torch.float32
    present_above: float | None = None

    def described(self) -> dict[str, Any]:
        """What tells this model from others, ready for JSON."""
        own = {"name": self.name, "pretrained": self.pretrained, "dtype": str(self.dtype)}
        return own | self.space.described()
