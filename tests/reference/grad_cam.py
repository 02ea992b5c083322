"""The grad-cam package on the same weights: its maps at the size of the grid, before it scales them up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_grad_cam import FinerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

from finercam_clip.bench import Similarities
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.towers import Tower


def positive(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map scaled as the package does: ReLU, minus the minimum, over the maximum.

    The package adds 1e-7 to the maximum, but scales twice: the second time the maximum is 1 and the 1e-7 is all that
    stays of it, however small the map was.
    """
    relu = np.maximum(grid, 0)
    relu = relu - relu.min()
    return np.asarray(relu / relu.max() if relu.any() else relu, np.float32)


def reshape_transform(patches: Callable[[Tensor], Tensor], grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """A layer's output -> [B, C, h, w], as the package wants it."""

    def transform(output: Tensor) -> Tensor:
        rows = patches(output)
        return rows.reshape(-1, *grid, rows.shape[-1]).permute(0, 3, 1, 2)

    return transform


def map_of(
    kind: type,
    model: nn.Module,
    layer: nn.Module,
    transform: Callable[[Tensor], Tensor],
    grid: tuple[int, int],
    pixels: Tensor,
    target: Any,
) -> NDArray[np.float32]:
    """The package's map [h, w], 0..1.

    Args:
        kind: Its method's class; with a `FinerWeightedTarget` the base method of its FinerCAM.
        model: Pixels -> logits.
        layer: The target layer.
        transform: Its reshape transform.
        grid: (h, w).
        pixels: [1, 3, H, W].
        target: A target of the package.
    """
    sizes: list[tuple[int, int]] = []
    if isinstance(target, FinerWeightedTarget):
        cam = FinerCAM(model, [layer], reshape_transform=transform, base_method=kind)
    else:
        cam = kind(model, [layer], reshape_transform=transform)
    getattr(cam, "base_cam", cam).get_target_width_height = lambda tensor: sizes.append(grid) or grid[::-1]
    asking = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in asking:  # with a frozen model the package finds no graph to go back through
        parameter.requires_grad_(True)
    try:
        with cam:
            result = cam(input_tensor=pixels, targets=[target])
    finally:
        model.zero_grad(set_to_none=True)
        for parameter in asking:
            parameter.requires_grad_(False)
    assert sizes, "the package asked for another size than that of the grid"
    return np.asarray(result[0], np.float32)


def of_texts(
    kind: type, explainer: Explainer, encoding: ImageEncoding, texts: Tensor, target: Any, layer: Any = None
) -> NDArray[np.float32]:
    """The package's map of a CLIP as a classifier of texts [K, D], at the explainer's own target layer or another."""
    tower: Tower = explainer.loaded.tower
    return map_of(
        kind,
        Similarities(tower.visual, texts, explainer.loaded.space.scale),
        tower.layers()[-1] if layer is None else layer,
        reshape_transform(tower.patches, encoding.grid),
        encoding.grid,
        encoding.forward.pixels,
        target,
    )


def plain(index: int = 0) -> ClassifierOutputTarget:
    """The logit of a class, or of the text of that number."""
    return ClassifierOutputTarget(index)


def finer(target: int, contrasts: list[int], alpha: float) -> FinerWeightedTarget:
    """Upstream's difference."""
    return FinerWeightedTarget(target, contrasts, alpha)
