"""The only source of defaults, for the Python API and the command line alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

Pooling = Literal["model", "mean", "token"]
_Finer = Literal["finer-strongest", "finer-rectified", "finer", "finer-softmax", "finer-softmax-upstream"]
Objective = Literal[_Finer, "similarity", "probability"]
Refinement = Literal["affinity"]
SimilarBy = Literal["logits", "concepts"]
Score = Literal["cosine", "logit"]
Precision = Literal["fp32", "fp16", "bf16"]
ImageSize = int | tuple[int, int] | Literal["native"] | None
Layer = int | str | tuple[int | str, ...] | None
Texts = str | Path | Sequence[str] | None
TEXTS = ("vocabulary", "templates", "background", "null")  # the options that are `Texts`


@dataclass(frozen=True)
class Options:
    """How a question is answered.

    Attributes:
        method: How the map is made: a name in `methods.METHODS`, or a preset of several options in `PRESETS`.
        gamma: Comparison strength, 0 and up. 0 is the plain method, 1 leaves nothing shared (the paper: 0.6).
        objective: What is explained, a name in `objectives.OBJECTIVES`.
        pooling: "model", as the image tower pools; "mean", the mean of the patch tokens (CLIP-ES); "token", the class
            token.
        image_size: Size of the model's input: None, the model's own; a number, for a square; (height, width); or
            "native", the image's own size in whole patches. Position embeddings are interpolated; the model is not
            changed.
        layer: Target layer of the methods that have one: None, the family's own; its index among the layers that can
            be asked (-1 is the last); a module's name; or several of these, whose maps are averaged.
        refine: What follows the method: "affinity" (CLIP-ES), or None.
        background: Further contrasts, of scenery: a name in prompts/, a text file, or texts; None for none. Entries
            with words that the model does not know are left out.
        templates: Ways to write a concept: a name in prompts/, a text file, or texts with "{}"; None: the text itself.
        vocabulary: Concepts to take contrasts from: a name in prompts/, a text file, a folder of folders (their names),
            or texts; None: a classifier's classes.
        similar_by: How contrasts=n chooses. "logits" takes the concepts whose scores on this image are nearest to the
            target's (the paper); "concepts" takes those whose directions are nearest, on any image. None is "logits"
            for a classifier and "concepts" for CLIP.
        null: Concepts whose maps the target's is compared with (`Explanation.p_value`): a name in prompts/, as
            "everyday" or "traits", a text file, or texts; for a classifier "classes" or "nearest"; None for no
            comparison.
    """

    method: str = "hirescam"
    gamma: float = 1.0
    objective: Objective = "finer-strongest"
    pooling: Pooling = "model"
    image_size: ImageSize = None
    layer: Layer = None
    refine: Refinement | None = None
    background: Texts = None
    templates: Texts = None
    vocabulary: Texts = None
    similar_by: SimilarBy | None = None
    null: Texts = None

    def encoding(self) -> Encoding:
        """What is settled when an image is encoded."""
        return {"pooling": self.pooling, "image_size": self.image_size, "layer": self.layer}

    def plain(self) -> dict[str, Any]:
        """Every option, ready for JSON."""
        return {name: _plain(value) for name, value in vars(self).items()}


class Encoding(TypedDict, total=False):
    """The options of encoding an image, not of a question about it."""

    pooling: Pooling
    image_size: ImageSize
    layer: Layer


class Changes(Encoding, total=False):
    """The fields of `Options` as keyword arguments: a misspelt option is a type error."""

    method: str
    gamma: float
    objective: Objective
    refine: Refinement | None
    background: Texts
    templates: Texts
    vocabulary: Texts
    similar_by: SimilarBy | None
    null: Texts


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, (tuple, list)) else value
