"""Refinements, which can follow a method: from maps on the grid to better maps on the grid."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.opencv import cv2
from finercam_clip.options import Refinement
from finercam_clip.towers.forward import ForwardPass
from finercam_clip.towers.passes import attentions, patches_of, transformer_of

_BLOCKS = 8
_BOX_THRESHOLD = 0.4


def affinity(forward: ForwardPass, maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """CLIP-ES's class-aware attention-based affinity (Lin et al., CVPR 2023, eq. 4-6): R^2 masked, times the map.

    R is the mean attention between patches over the last eight blocks. Its columns and rows are normalised in turn,
    three times. Then it is made symmetric. The mask keeps patches inside the boxes of the map's regions at 0.4 of its
    maximum, so that heat spreads from these only.

    Args:
        forward: The image.
        maps: [K, h, w], of which the positive part is refined.

    Returns:
        [K, h, w], 0 and above.
    """
    spread = forward.once("affinity", lambda: _spread(forward)).cpu().numpy()
    refined = np.zeros_like(maps)
    for i, grid in enumerate(np.maximum(maps, 0)):
        if grid.any():
            inside = np.where(boxed(grid), grid, 0)
            refined[i] = (spread @ inside.ravel()).reshape(grid.shape)
    return refined


def boxed(grid: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which cells [h, w] lie in the bounding box of a connected region of at least 0.4 of the maximum."""
    regions = (grid >= _BOX_THRESHOLD * grid.max()).astype(np.uint8)
    inside = np.zeros(grid.shape, bool)
    for x, y, w, h, _ in cv2.connectedComponentsWithStats(regions, connectivity=8)[2][1:]:
        inside[y : y + h, x : x + w] = True
    return inside


def _spread(forward: ForwardPass) -> Tensor:
    """R^2, float32 [N, N]."""
    count = min(_BLOCKS, len(transformer_of(forward).blocks()))
    weights = torch.stack([w.mean(0) for w in attentions(forward, count).weights]).mean(0)
    return affinity_matrix(patches_of(forward, patches_of(forward, weights).T).T)


def affinity_matrix(attention: Tensor) -> Tensor:
    """Attention between patches [N, N] -> R^2 (eq. 4-5)."""
    for _ in range(3):
        attention = attention / attention.sum(0, keepdim=True)
        attention = attention / attention.sum(1, keepdim=True)
    symmetric = (attention + attention.T) / 2
    return symmetric @ symmetric


def check_refinement(name: str | None) -> None:
    """Raises InputError for a refinement that does not exist."""
    if name is not None and str(name) not in get_args(Refinement):
        raise InputError(f"there is no refinement '{name}'; there is {', '.join(get_args(Refinement))}, or None")
