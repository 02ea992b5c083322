"""Names for sets of options: the paper's three modes, and whole methods of other papers."""

from __future__ import annotations

from typing import Any

from finercam_clip.checks import choice
from finercam_clip.options import Changes

# The three modes of the paper (and of its scripts): the question's arguments besides image and target.
MODES: dict[str, dict[str, Any]] = {
    "baseline": {"contrasts": (), "gamma": 0.0},
    "finer-default": {"contrasts": 3, "gamma": 0.6, "objective": "finer"},
    "finer-compare": {"contrasts": 1, "gamma": 0.6, "objective": "finer"},
}


def preset(name: str) -> dict[str, Any]:
    """A mode of the paper as arguments: `explain(image, target, **preset("finer-default"))`.

    Args:
        name: "baseline", no contrasts, the plain method; "finer-default", the 3 most similar concepts; "finer-compare",
            only the first of them.

    Raises:
        InputError: There is no such mode.
    """
    return dict(MODES[choice(name, tuple(MODES), "preset")])


# Names that `method` takes for a set of options. Options that are given besides go before these.
PRESETS: dict[str, Changes] = {
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
