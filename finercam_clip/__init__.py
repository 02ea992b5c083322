"""finercam_clip: which pixels speak for one concept and not for others? Zero-shot contrastive heatmaps for CLIP.

    import finercam_clip
    explainer = finercam_clip.load()
    explanation = explainer.explain("bird.jpg", target="a red crown", contrasts=["a blue crown"])
    explanation.save("crown.png")

Names are imported when first used, so that `finercam-clip --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finercam_clip.version import __version__

_HOMES = {
    "load": "models",
    "load_classifier": "models",
    "wrap": "models",
    "differ": "differences",
    "fit": "fitting",
    "preset": "presets",
    "Explainer": "explainer",
    "ImageEncoding": "explainer",
    "Options": "options",
    "Question": "question",
    "Explanation": "explanation",
    "InputError": "errors",
}
__all__ = [
    "Explainer",
    "Explanation",
    "ImageEncoding",
    "InputError",
    "Options",
    "Question",
    "__version__",
    "differ",
    "fit",
    "load",
    "load_classifier",
    "preset",
    "wrap",
]

if TYPE_CHECKING:
    from finercam_clip.differences import differ
    from finercam_clip.errors import InputError
    from finercam_clip.explainer import Explainer, ImageEncoding
    from finercam_clip.explanation import Explanation
    from finercam_clip.fitting import fit
    from finercam_clip.models import load, load_classifier, wrap
    from finercam_clip.options import Options
    from finercam_clip.presets import preset
    from finercam_clip.question import Question


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'finercam_clip' has no attribute {name!r}")
    return getattr(import_module(f"finercam_clip.{_HOMES[name]}"), name)
