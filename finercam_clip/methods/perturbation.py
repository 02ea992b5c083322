"""Methods that change the picture and look what becomes of the embedding: hundreds of forward passes an image.

The embeddings of the changed pictures serve every question about that image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip.passes import embed_changed

if TYPE_CHECKING:
    from finercam_clip.explainer import ImageEncoding

RISE_MASKS = 1000
RISE_CELLS = 8  # a mask is drawn on so many cells a side
OCCLUDED = 2  # side of the square that is covered, in cells


def scorecam(encoding: ImageEncoding, directions: Tensor) -> Tensor:
    """Score-CAM (Wang et al., CVPRW 2020, alg. 1): A w, w the softmax over channels of the score of the picture seen
    through that channel, scaled to 0..1. As many forward passes as channels."""
    weights = (directions @ encoding.once(_channel_embeddings).T).softmax(-1)
    return weights @ encoding.tail.activations.T


def occlusion(encoding: ImageEncoding, directions: Tensor) -> Tensor:
    """Occlusion (Zeiler and Fergus, ECCV 2014, sec. 4.2): how much the score falls when a square of 2 x 2 cells is
    covered in the mean colour; a patch has the mean of the squares that cover it. Linear."""
    return directions @ encoding.once(_occlusion_features).T


def rise(encoding: ImageEncoding, directions: Tensor) -> Tensor:
    """RISE (Petsiuk et al., BMVC 2018, eq. 6): the mean of random masks weighed by the score of the picture seen
    through them, over the mean mask; 1,000 masks of 8 x 8 cells, half of them open. Linear."""
    return directions @ encoding.once(_rise_features).T


@torch.no_grad()
def _channel_embeddings(encoding: ImageEncoding) -> Tensor:
    """[C, D]."""
    channels = encoding.tail.activations.T.reshape(-1, 1, *encoding.grid)
    height, width = encoding.pixels.shape[-2:]

    def seen_through(chunk: Tensor) -> Tensor:
        masks = F.interpolate(chunk, (height, width), mode="bilinear", align_corners=True)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        return encoding.pixels * ((masks - low) / (high - low + 1e-8)).to(encoding.pixels.dtype)

    return embed_changed(encoding, channels, seen_through, "scorecam")


@torch.no_grad()
def _occlusion_features(encoding: ImageEncoding) -> Tensor:
    """[N, D]."""
    rows, columns = encoding.grid
    corners = torch.cartesian_prod(torch.arange(1 - OCCLUDED, rows), torch.arange(1 - OCCLUDED, columns))
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    offset = grid[None] - corners[:, None, None]
    covered = ((offset >= 0) & (offset < OCCLUDED)).all(-1).float()[:, None].to(encoding.pixels.device)
    height, width = encoding.pixels.shape[-2:]

    def without(chunk: Tensor) -> Tensor:
        return encoding.pixels * (1 - F.interpolate(chunk, (height, width))).to(encoding.pixels.dtype)

    lost = encoding.tail.embedding - embed_changed(encoding, covered, without, "occlusion")
    return covered.flatten(1).T @ lost / OCCLUDED**2


@torch.no_grad()
def _rise_features(encoding: ImageEncoding) -> Tensor:
    """[N, D]."""
    pixels = encoding.pixels
    masks = rise_masks(RISE_MASKS, (pixels.shape[-2], pixels.shape[-1]))
    numbers = torch.arange(RISE_MASKS)

    def seen_through(chunk: Tensor) -> Tensor:
        return pixels * masks(chunk).to(pixels)

    embeddings = embed_changed(encoding, numbers, seen_through, "rise")
    chunks = [F.adaptive_avg_pool2d(masks(chunk), encoding.grid).flatten(1) for chunk in torch.split(numbers, 64)]
    cells = torch.cat(chunks).to(embeddings)
    return cells.T @ embeddings / cells.sum(0)[:, None]


def rise_masks(count: int, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """The masks of RISE, the same ones every time: from numbers [M] in 0 .. count - 1 to masks [M, 1, *size] in 0..1.

    Each is drawn at random on cells, one more a side than the picture has, enlarged bilinearly, and looked at through
    a window that lies at random on it (appendix of the paper).
    """
    generator = torch.Generator().manual_seed(0)
    coarse = (torch.rand(count, 1, RISE_CELLS + 1, RISE_CELLS + 1, generator=generator) < 0.5).float()
    shifts = torch.rand(count, 2, generator=generator)
    side = 2 / (RISE_CELLS + 1)  # of a cell, where grid_sample counts from -1 to 1
    rows, columns = ((torch.arange(n) + 0.5) / n * RISE_CELLS * side - 1 for n in size)
    window = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)

    def masks(numbers: Tensor) -> Tensor:
        places = window + shifts[numbers, None, None] * side
        return F.grid_sample(coarse[numbers], places, padding_mode="border", align_corners=False)

    return masks
