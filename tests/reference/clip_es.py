"""CLIP-ES's affinity (Lin et al., CVPR 2023, eq. 4-6) written out in NumPy: boxes by flooding, sums by loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.explainer import Explainer


def refined(attention: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The refined map [h, w] of a map [h, w], given the attention [N, N] between patches."""
    h, w = grid.shape
    positive = np.where(grid > 0, grid, 0.0)
    if not positive.any():
        return positive
    mask = _boxes(positive).ravel()
    return ((_affinity(attention) * mask[None, :]) @ positive.ravel()).reshape(h, w)


def _affinity(attention: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns and rows normalised three times in turn, made symmetric, squared."""
    d = attention.copy()
    for _ in range(3):
        for j in range(len(d)):
            d[:, j] /= d[:, j].sum()
        for i in range(len(d)):
            d[i] /= d[i].sum()
    s = (d + d.T) / 2
    return s @ s


def _boxes(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 inside the bounding box of each connected region of at least 0.4 of the maximum, else 0."""
    h, w = grid.shape
    mask = np.zeros((h, w))
    left = {(y, x) for y in range(h) for x in range(w) if grid[y, x] >= 0.4 * grid.max()}
    while left:
        region, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            region.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            front += near
        ys, xs = [y for y, _ in region], [x for _, x in region]
        mask[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1] = 1
    return mask


@torch.no_grad()
def attention(explainer: Explainer, pixels: Tensor, blocks: int = 8) -> NDArray[np.float64]:
    """The mean attention between patches of the last blocks (all, if there are fewer), [N, N].

    It is from torch's own module, asked for its weights, in open_clip's own ViT.
    """
    visual: Any = explainer.loaded.tower.visual
    x = visual._embeds(pixels)
    weights = []
    for block in visual.transformer.resblocks:
        normed = block.ln_1(x)
        weights.append(block.attn(normed, normed, normed, need_weights=True)[1][0, 1:, 1:])
        x = block(x)
    return np.asarray(torch.stack(weights[-blocks:]).mean(0).double())
