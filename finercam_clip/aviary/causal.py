"""What each part of a drawn bird truly contributes to a score: the bird is drawn again with that part's trait swapped.

A wrong map and a right map of a wrong model look alike; this tells them apart (the idea of FunnyBirds; Hesse et al.,
ICCV 2023; here with texts and contrasts). The model's own change of score is the truth, whatever a person would expect.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.aviary import drawing, world
from finercam_clip.aviary.questions import SIZE, SMALLEST, BirdQuestion
from finercam_clip.evaluation import metrics
from finercam_clip.evaluation.causes import Changed
from finercam_clip.explainer import Explainer

_STREAM = 77  # of the random numbers that swaps are drawn from


def swaps_of(explainer: Explainer, question: BirdQuestion, before: Tensor, texts: Tensor) -> Changed:
    """Draws and scores a question's first bird once per trait of its visible parts, that trait swapped for another.

    A part with two traits has two changes.

    Args:
        explainer: The model.
        question: The question.
        before: The embedding of its picture, [D].
        texts: The embeddings of target and contrast, [2, D].
    """
    bird, *others = question.scene.birds
    rng = np.random.default_rng((*question.key, _STREAM))
    visible = [part for part in world.PARTS if question.scene.masks[0][part].mean() >= SMALLEST]
    slots = [slot for slot in world.SLOTS if world.part_of(slot) in visible]
    swapped = [world.change_trait(bird, slot, rng) for slot in slots]
    images = [drawing.draw((one, *others), question.key, size=SIZE, masks=False).image for one in swapped]
    embeddings = torch.stack([encoding.embedding for encoding in explainer.encode(images)])
    scores = explainer.loaded.space.scale * embeddings @ texts.T
    after = {part: scores[[world.part_of(slot) == part for slot in slots]] for part in visible}
    return Changed(explainer.loaded.space.scale * texts @ before, after)


def agreement(heat: NDArray[np.float32], question: BirdQuestion, effects: dict[str, float]) -> dict[str, float]:
    """How a map agrees with what the parts contribute.

    Args:
        heat: 0..1, [H, W].
        question: The question.
        effects: Part -> its effect.

    Returns:
        "causal rank", Spearman's correlation over the visible parts of the mean heat with the effect; "causal hit", 1
        if the hottest part is the one with the largest effect.
    """
    heats = {part: float(heat[question.scene.masks[0][part]].mean()) for part in effects}
    return metrics.agreement(heats, effects)
