"""Methods that change the image and watch the embedding. They take hundreds of forward passes per image.

The embeddings of the changed images serve every question about that image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam_clip import progress
from finercam_clip.batches import batch_of, in_batches
from finercam_clip.towers.forward import ForwardPass
from finercam_clip.towers.passes import embed_changed

RISE_MASKS = 1000
RISE_CELLS = 8  # a mask is drawn on so many cells a side
OCCLUDED = 2  # side of the square that is covered, in cells
_CHUNK = 64  # changed pictures that are made at a time, fewer of large ones


def scorecam(forward: ForwardPass, directions: Tensor) -> Tensor:
    """Score-CAM (Wang et al., CVPRW 2020, alg. 1): A w, w the softmax over channels of the score of the picture seen
    through that channel, scaled to 0..1. One forward pass per channel."""
    weights = (directions @ forward.once("scorecam", lambda: _channel_embeddings(forward)).T).softmax(-1)
    return weights @ forward.tail.activations.T


def occlusion(forward: ForwardPass, directions: Tensor) -> Tensor:
    """Occlusion (Zeiler and Fergus, ECCV 2014, sec. 4.2): how much the score falls when a square of 2 x 2 cells is
    covered in the mean colour; a patch has the mean of the squares that cover it. Linear."""
    return directions @ forward.once("occlusion", lambda: _occlusion_features(forward)).T


def rise(forward: ForwardPass, directions: Tensor) -> Tensor:
    """RISE (Petsiuk et al., BMVC 2018, eq. 6): the mean of random masks weighed by the score of the picture seen
    through them, over the mean mask; 1,000 masks of 8 x 8 cells, half of them open. Linear."""
    return directions @ forward.once("rise", lambda: _rise_features(forward)).T


@torch.no_grad()
def _channel_embeddings(forward: ForwardPass) -> Tensor:
    """[C, D]."""
    channels = forward.tail.activations.T.reshape(-1, 1, *forward.grid)
    height, width = forward.pixels.shape[-2:]

    def seen_through(chunk: Tensor) -> Tensor:
        masks = F.interpolate(chunk, (height, width), mode="bilinear", align_corners=True)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        return forward.pixels * ((masks - low) / (high - low + 1e-8)).to(forward.pixels.dtype)

    return _embed_changed(forward, channels, seen_through, "scorecam")


@torch.no_grad()
def _occlusion_features(forward: ForwardPass) -> Tensor:
    """[N, D]."""
    rows, columns = forward.grid
    corners = torch.cartesian_prod(torch.arange(1 - OCCLUDED, rows), torch.arange(1 - OCCLUDED, columns))
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    offset = grid[None] - corners[:, None, None]
    covered = ((offset >= 0) & (offset < OCCLUDED)).all(-1).float()[:, None].to(forward.pixels.device)
    height, width = forward.pixels.shape[-2:]

    def without(chunk: Tensor) -> Tensor:
        return forward.pixels * (1 - F.interpolate(chunk, (height, width))).to(forward.pixels.dtype)

    lost = forward.tail.embedding - _embed_changed(forward, covered, without, "occlusion")
    return covered.flatten(1).T @ lost / OCCLUDED**2


@torch.no_grad()
def _rise_features(forward: ForwardPass) -> Tensor:
    """[N, D]."""
    pixels = forward.pixels
    masks = rise_masks(RISE_MASKS, (pixels.shape[-2], pixels.shape[-1]))
    numbers = torch.arange(RISE_MASKS)

    def seen_through(chunk: Tensor) -> Tensor:
        return pixels * masks(chunk).to(pixels)

    embeddings = _embed_changed(forward, numbers, seen_through, "rise")
    chunks = [F.adaptive_avg_pool2d(masks(chunk), forward.grid).flatten(1) for chunk in torch.split(numbers, 64)]
    cells = torch.cat(chunks).to(embeddings)
    return cells.T @ embeddings / cells.sum(0)[:, None]


def _embed_changed(forward: ForwardPass, settings: Tensor, change: Callable[[Tensor], Tensor], name: str) -> Tensor:
    """The embeddings [M, D] of M changed images: `change` makes the pixels of a chunk of `settings` [M, ...]."""
    with progress.bar(len(settings), desc=name, leave=False) as bar:

        def embed(chunk: Tensor) -> list[Tensor]:
            embeddings = embed_changed(forward, change(chunk))
            bar.update(len(chunk))
            return list(embeddings)

        return torch.stack(in_batches(embed, settings, min(_CHUNK, 16 * batch_of(forward.pixels))))


def rise_masks(count: int, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """The masks of RISE, the same ones every time: from numbers [M] in 0 .. count - 1 to masks [M, 1, *size] in 0..1.

    Each mask is drawn at random on a grid with one more cell per side, enlarged bilinearly, and cut out by a window at
    a random place (appendix of the paper).
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
