"""Options as a user gives them: checked, and presets by their parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from finercam_clip import checks
from finercam_clip.errors import InputError
from finercam_clip.methods import method_named
from finercam_clip.methods.refine import check_refinement
from finercam_clip.objectives import objective_named
from finercam_clip.options import TEXTS, Changes, Options, Pooling, SimilarBy
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
    if not method_named(resolved.method).layered and resolved.layer is not None:
        raise InputError(f"the method '{resolved.method}' has no target layer: leave layer out")
    check_refinement(resolved.refine)
    objective_named(resolved.objective)
    checks.choice(resolved.pooling, get_args(Pooling), "pooling")
    if resolved.similar_by is not None and str(resolved.similar_by) not in get_args(SimilarBy):
        raise InputError(f"contrasts are similar by {' or '.join(get_args(SimilarBy))}, not by '{resolved.similar_by}'")
    sources = {name: checks.texts(getattr(resolved, name), name) for name in TEXTS}
    settled: Any = {"image_size": checks.size(resolved.image_size), "layer": checks.layer(resolved.layer), **sources}
    return replace(resolved, gamma=checks.gamma(resolved.gamma), **settled)


def check_encoded(options: Options, encoded: Options) -> None:
    """Raises InputError if a question asks for something that was settled differently when the image was encoded."""
    for name, value in encoded.encoding().items():
        if getattr(options, name) != value:
            raise InputError(
                f"this image was encoded with {name}={value!r}: give {name}={getattr(options, name)!r} to encode(...) "
                "instead"
            )
