"""What a map must be better than: the middle of the picture, what catches the eye, a model that has learnt nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finercam_clip.errors import InputError
from finercam_clip.evaluation.faithfulness import blurred
from finercam_clip.explainer import Explainer
from finercam_clip.opencv import cv2
from finercam_clip.towers import tower_of

_SPREAD = 0.25  # standard deviation of the centre prior, as a share of each side


def centre(shape: tuple[int, int]) -> NDArray[np.float32]:
    """A Gaussian about the middle of a grid [h, w]."""
    rows, columns = (((np.arange(n) + 0.5) / n - 0.5) / _SPREAD for n in shape)
    prior: NDArray[np.float32] = np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 2).astype(np.float32)
    return prior


def saliency(picture: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """How far each cell's colour is from the picture's mean (Achanta et al., CVPR 2009, here in RGB).

    Args:
        picture: RGB, [H, W, 3].
        shape: (h, w) of the grid.
    """
    smooth = blurred(picture)
    distance = np.linalg.norm(smooth - picture.mean((0, 1)), axis=-1).astype(np.float32)
    cells: NDArray[np.float32] = cv2.resize(distance, shape[::-1], interpolation=cv2.INTER_AREA)
    return cells


def reset(layer: nn.Module) -> None:
    """Gives the parameters of a layer fresh values: N(0, 0.02) to matrices, 1 to gains, 0 to biases."""
    torch.manual_seed(0)
    for name, parameter in layer.named_parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))


def randomised(explainer: Explainer) -> Explainer | None:
    """The same model with an image tower of random weights; None where its tower is of no family that can be copied.

    Where batch norms keep the mean and variance of what they saw, they forget them and take those of a batch that they
    have not seen: 0 and 1.
    """
    own = explainer.loaded.tower
    with torch.random.fork_rng():
        try:
            visual = copy.deepcopy(own.visual)
            tower = tower_of(visual, own.size, unit_norm=own.unit_norm)
        except (InputError, RuntimeError, TypeError):
            return None
        reset(visual)
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
    return Explainer(replace(explainer.loaded, tower=tower))
