"""A trial before the work: what a model cannot do is refused before any image is read."""

from __future__ import annotations

from PIL import Image

from finercam_clip.explainer import Explainer
from finercam_clip.methods import method_named
from finercam_clip.options import Options


def try_out(explainer: Explainer, options: Options) -> None:
    """Encodes a grey picture and asks about it.

    Args:
        explainer: The model.
        options: How it is to be asked.

    Raises:
        InputError: The model cannot be asked in that way.
    """
    height, width = explainer.loaded.preprocess.size
    encoding = explainer.encode(Image.new("RGB", (width, height), "grey"), **options.encoding())
    if not method_named(options.method).slow:  # those work on any model
        encoding.heatmaps(encoding.embedding[None], method=options.method, refine=options.refine)
