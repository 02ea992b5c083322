"""A question's map beside those of its null: the same question with other targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.methods import method_named
from finercam_clip.options import Options
from finercam_clip.question import Question
from finercam_clip.significance import Significance, significance_of

Signed = Callable[[Tensor, Tensor, Options], NDArray[np.float32]]


def standing(question: Question, maps: NDArray[np.float32], weight: float, signed: Signed) -> Significance | None:
    """How a question's map stands among those of its null; None if it has none.

    For a method that is linear in the direction the null costs a matrix product. Any other method makes each map anew,
    and a warning tells the price before.

    Args:
        question: About one image (`Question.about`).
        maps: Its map, and the map of its target alone, float32 [2 or more, h, w].
        weight: What the target counts for in the difference.
        signed: Targets [K, D], contrasts [M, D] and options -> signed maps [K, h, w] (`ImageEncoding`).
    """
    null, options = question.null, question.options
    if null is None:
        return None
    if not method_named(options.method).linear:
        count = len(null.concepts)
        warnings.warn(
            f"'{options.method}' makes every map of the null by itself: it takes {count} times as long as one map, per "
            "question and image; hirescam, the default, costs one matrix product",
            stacklevel=4,
        )
    others = signed(null.directions, question.directions[1:], options)
    return significance_of(maps[0], others, maps[1], weight=weight, level=null.level)
