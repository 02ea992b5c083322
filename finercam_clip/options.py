"""The only source of defaults, for the Python API and the command line alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How a question is answered.

    method: how the map is made, a name in `methods.METHODS`.
    gamma: comparison strength, 0 and up (the paper's default is 0.6); 0 is the plain method.
    objective: what is explained, a name in `objectives.OBJECTIVES`.
    pooling: "model", as the image tower pools, or "mean", the mean of the patch tokens (CLIP-ES).
    image_size: of the model's input: None, the model's own; a number, for a square; (height, width); or "native", the
        image's own size in whole patches. Position embeddings are interpolated; the model is not changed.
    templates: ways to write a concept: a name in prompts/, a text file, or texts with "{}"; None is the text itself.
    vocabulary: concepts to take contrasts from: a name in prompts/, a text file, or texts.
    """

    method: str = "hirescam"
    gamma: float = 0.6
    objective: str = "finer"
    pooling: str = "model"
    image_size: int | tuple[int, int] | str | None = None
    templates: str | Path | Sequence[str] | None = None
    vocabulary: str | Path | Sequence[str] | None = None
