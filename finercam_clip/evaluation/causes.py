"""What each part of a photograph does to the scores: the part is masked, and the model is asked again.

The model's own change is the truth, wherever a person would look. It is the counterpart for photographs of
`aviary.causal`, which draws parts again. A masked disc is a sight that no photograph shows, so its effect is more
than that of the part alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.evaluation import metrics
from finercam_clip.evaluation.faithfulness import FILLS
from finercam_clip.evaluation.judging import Pair, Parts
from finercam_clip.evaluation.probing import CONTROLLED, Figures
from finercam_clip.evaluation.protocol import Setting
from finercam_clip.evaluation.stopwatch import Stopwatch
from finercam_clip.explainer import ImageEncoding
from finercam_clip.objectives import objective_named


@dataclass(frozen=True, eq=False)
class Changed:
    """The scores of an image, and of the same image with one of its parts changed.

    Attributes:
        before: Similarities to target and contrast at the model's logit scale, [2].
        after: Visible part -> the same after each of its changes, [changes, 2].
    """

    before: Tensor
    after: dict[str, Tensor]

    def effects(self, objective: str, gamma: float) -> dict[str, float]:
        """How far what is explained falls when a part is changed; of several changes, the largest fall.

        Args:
            objective: A name in `objectives.OBJECTIVES`.
            gamma: Comparison strength; at 1 it is the gap of the two scores.
        """
        explained = objective_named(objective)
        whole = explained(self.before, gamma)
        return {part: float((whole - explained(rows, gamma)).max()) for part, rows in self.after.items()}


def masked_parts(encoding: ImageEncoding, parts: Parts, radius: float, directions: Tensor, watch: Stopwatch) -> Changed:
    """Masks the parts of an image one by one, on the image itself, in its mean colour.

    Args:
        encoding: The image.
        parts: Part -> its visible points.
        radius: Of the discs about them, pixels.
        directions: Of the two classes [2, D].
        watch: Told what time is spent on.
    """
    picture = encoding.image.astype(np.float32) / 255
    filled, shape = FILLS[CONTROLLED](picture), (picture.shape[0], picture.shape[1])
    images = []
    for points in parts.values():
        changed = np.where(metrics.discs(points, radius, shape)[..., None], filled, picture)
        images.append((changed * 255).round().astype(np.uint8))
    with watch.on("masked passes"):
        embeddings = [own.embedding for own in encoding.explainer.encode(images, **encoding.options.encoding())]
    watch.passes += len(images)
    scores = encoding.explainer.loaded.space.scale * torch.stack([encoding.embedding, *embeddings]) @ directions.T
    return Changed(scores[0], dict(zip(parts, scores[1:, None], strict=True)))


def models_own(masked: Changed, pair: Pair) -> Figures:
    """Where the model itself sees the difference of two classes: by how much their gap falls when a part is masked."""
    effects = masked.effects("finer", 1.0)
    figures = {
        "differing part: rank": metrics.rank_of(pair.part, effects),
        "gap lost without the differing part": effects[pair.part],
        "gap lost without another part": float(np.mean([v for part, v in effects.items() if part != pair.part])),
    }
    if len(effects) > 2:
        truth = [pair.by_part[part] for part in effects]
        figures["differing part: rank correlation"] = metrics.rank_correlation(list(effects.values()), truth)
    return figures


def agreement(heat: NDArray[np.float32], parts: Parts, radius: float, masked: Changed, setting: Setting) -> Figures:
    """How a map agrees with what the parts do to the score that it explains."""
    heats = metrics.part_heats(heat, parts, radius)
    return metrics.agreement(heats, masked.effects(setting.objective, setting.gamma))
