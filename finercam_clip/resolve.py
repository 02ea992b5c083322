"""Options as a user gives them: checked, and presets by their parts."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real
from typing import Any, get_args

from finercam_clip.errors import InputError
from finercam_clip.methods import method_named
from finercam_clip.methods.refine import check_refinement
from finercam_clip.objectives import objective_named
from finercam_clip.options import Changes, Options, Pooling, SimilarBy
from finercam_clip.presets import PRESETS


def resolve_options(changes: Changes | dict[str, Any], options: Options | None = None) -> Options:
    """Options with some of them replaced, and presets by their parts.

    Args:
        changes: Fields of `Options`.
        options: What the others are, by default the defaults.

    Raises:
        InputError: There is no such option, or its value cannot be used.
    """
    names = list(Options.__dataclass_fields__)
    for name in changes:
        if name not in names:
            raise InputError(f"there is no option '{name}'; there are {', '.join(names)}")
    preset = changes.get("method")
    if isinstance(preset, str) and preset in PRESETS:
        changes = {**PRESETS[preset], **changes, "method": PRESETS[preset]["method"]}
    resolved = replace(options or Options(), **changes)
    gamma: Any = resolved.gamma
    if isinstance(gamma, bool) or not isinstance(gamma, Real) or not math.isfinite(gamma) or gamma < 0:
        raise InputError(f"gamma is a number from 0 (the plain method) up, as 0.6; not {gamma!r}")
    method = method_named(resolved.method)
    if resolved.layer is not None and not method.layered:
        raise InputError(f"the method '{resolved.method}' has no target layer: leave layer out")
    check_refinement(resolved.refine)
    objective_named(resolved.objective)
    check_pooling(resolved.pooling)
    if resolved.similar_by not in (None, *get_args(SimilarBy)):
        raise InputError(f"contrasts are similar by {' or '.join(get_args(SimilarBy))}, not by '{resolved.similar_by}'")
    return replace(resolved, gamma=float(gamma))


def check_pooling(pooling: str) -> None:
    """Raises InputError for a pooling that does not exist."""
    if pooling not in get_args(Pooling):
        raise InputError(f"there is no pooling '{pooling}'; there are {', '.join(get_args(Pooling))}")


def check_encoded(options: Options, encoded: Options) -> None:
    """Raises InputError if a question asks for something that was settled differently when the image was encoded."""
    for name, value in encoded.encoding().items():
        if getattr(options, name) != value:
            raise InputError(
                f"this image was encoded with {name}={value!r}: give {name}={getattr(options, name)!r} to encode(...) "
                "instead"
            )
