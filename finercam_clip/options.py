"""The only source of defaults, for the Python API and the command line alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finercam_clip.errors import InputError


@dataclass(frozen=True)
class Options:
    """How a question is answered.

    method: how the map is made, a name in `methods.METHODS`.
    gamma: comparison strength, 0 and up (the paper's default is 0.6); 0 is the plain method.
    objective: what is explained, a name in `objectives.OBJECTIVES`.
    pooling: "model", as the image tower pools, or "mean", the mean of the patch tokens (CLIP-ES).
    image_size: of the model's input: None, the model's own; a number, for a square; (height, width); or "native", the
        image's own size in whole patches. Position embeddings are interpolated; the model is not changed.
    layer: target layer of the methods that have one: None, the family's own; its index among the layers that can be
        asked (-1 is the last); a module's name; or several of these, whose maps are averaged.
    refine: what follows the method, a name in `refine.REFINEMENTS`, or None.
    background: further contrasts, of scenery: a name in prompts/, a text file, or texts; None for none. Entries with
        words that the model does not know are left out.
    templates: ways to write a concept: a name in prompts/, a text file, or texts with "{}"; None is the text itself.
    vocabulary: concepts to take contrasts from: a name in prompts/, a text file, a folder of folders (their names), or
        texts; None: a classifier's classes.
    similar_by: how contrasts=n chooses: "logits", whose scores on this image are nearest to the target's (the paper);
        "concepts", whose own directions are, whatever the image. None: "logits" for a classifier, "concepts" for CLIP.
    """

    method: str = "hirescam"
    gamma: float = 0.6
    objective: str = "finer"
    pooling: str = "model"
    image_size: int | tuple[int, int] | str | None = None
    layer: int | str | tuple[int | str, ...] | None = None
    refine: str | None = None
    background: str | Path | Sequence[str] | None = None
    templates: str | Path | Sequence[str] | None = None
    vocabulary: str | Path | Sequence[str] | None = None
    similar_by: str | None = None


SIMILAR_BY = ("logits", "concepts")

# The three modes of the paper (and of its scripts): the question's arguments beside image and target.
MODES: dict[str, dict[str, Any]] = {
    "baseline": {"contrasts": (), "gamma": 0.0},
    "finer-default": {"contrasts": 3, "gamma": 0.6},
    "finer-compare": {"contrasts": 1, "gamma": 0.6},
}


def preset(name: str) -> dict[str, Any]:
    """A mode of the paper as arguments: `explain(image, target, **preset("finer-default"))`.

    baseline: no contrasts, the plain method; finer-default: the 3 most similar concepts; finer-compare: only the first.

    Raises:
        InputError: there is no such mode.
    """
    if name not in MODES:
        raise InputError(f"there is no preset '{name}'; there are {', '.join(MODES)}")
    return dict(MODES[name])


# Names that `method` takes for a set of options; what else is given goes before these.
PRESETS: dict[str, dict[str, Any]] = {
    # CLIP-ES (Lin et al., CVPR 2023): Grad-CAM of the softmax over target, contrasts and scenery, patches mean-pooled,
    # then affinity.
    "clip-es": {
        "method": "gradcam",
        "objective": "probability",
        "pooling": "mean",
        "refine": "affinity",
        "background": "background",
    },
}
