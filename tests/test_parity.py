"""The same numbers as the grad-cam package on the same weights, image and texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_explainer
from numpy.typing import NDArray
from pytorch_grad_cam import FinerCAM, GradCAM, HiResCAM
from skimage import data

from finercam_clip.aviary import demo
from finercam_clip.bench import Similarities
from finercam_clip.explainer import Explainer, ImageEncoding

PICTURES: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "astronaut": data.astronaut,
    "chelsea": data.chelsea,
    "noise": lambda: np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8),
    "drawn bird": lambda: demo.demo_scene().image,
}


def _normalised(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the package does, grid by grid: ReLU, minus the minimum, over the maximum.

    The package adds 1e-7 to the maximum, but scales twice: the second time the maximum is 1 and the 1e-7 is all that
    stays of it, however small the map was.
    """
    positive = np.maximum(grid, 0)
    positive = positive - positive.min()
    return np.asarray(positive / positive.max() if positive.any() else positive, np.float32)


def _package(
    explainer: Explainer, encoding: ImageEncoding, pixels: torch.Tensor, texts: torch.Tensor, make: Callable[..., Any]
) -> NDArray[np.float32]:
    """The package's map on the grid: at the size it has before it is scaled up to the input."""
    family, visual = explainer.family, explainer.loaded.model.visual
    h, w = encoding.grid
    size: list[tuple[int, int]] = []

    def to_grid(tokens: torch.Tensor) -> torch.Tensor:
        patches = family.patches(visual, tokens)
        return patches.reshape(-1, h, w, patches.shape[-1]).permute(0, 3, 1, 2)

    model = Similarities(visual, texts, explainer.scale)
    visual.requires_grad_(True)
    try:
        cam, ask = make(model, [family.target_layer(visual)], to_grid)
        base = getattr(cam, "base_cam", cam)
        base.get_target_width_height = lambda tensor: size.append((w, h)) or (w, h)
        with cam:
            result = ask(cam, pixels)
    finally:
        visual.zero_grad(set_to_none=True)
        visual.requires_grad_(False)
    assert size
    return np.asarray(result[0], np.float32)


def _plain(kind: type) -> Callable[..., Any]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def make(model: Any, layers: Any, to_grid: Any) -> Any:
        cam = kind(model, layers, reshape_transform=to_grid)
        return cam, lambda cam, pixels: cam(input_tensor=pixels, targets=[ClassifierOutputTarget(0)])

    return make


def _finer(kind: type, contrasts: int, alpha: float) -> Callable[..., Any]:
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    def make(model: Any, layers: Any, to_grid: Any) -> Any:
        cam = FinerCAM(model, layers, reshape_transform=to_grid, base_method=kind)
        target = FinerWeightedTarget(0, list(range(1, contrasts + 1)), alpha)
        return cam, lambda cam, pixels: cam(input_tensor=pixels, targets=[target])

    return make


def _question(explainer: Explainer, image: NDArray[np.uint8], texts: list[str]) -> tuple[Any, ...]:
    from PIL import Image

    return (
        explainer.encode(image),
        explainer.loaded.preprocess(Image.fromarray(image))[None],
        explainer.embed(texts),
    )


TEXTS = ["a bird with a red crown", "a bird with a blue crown", "a bird with a red tail", "a bird with a black wing"]


def _check(explainer: Explainer, image: NDArray[np.uint8]) -> None:
    encoding, pixels, texts = _question(explainer, image, TEXTS)
    found = []
    for method, kind in (("gradcam", GradCAM), ("hirescam", HiResCAM)):
        ours = encoding.explain(TEXTS[0], method=method).grid
        theirs = _package(explainer, encoding, pixels, texts, _plain(kind))
        found.append(theirs)
        assert np.abs(_normalised(ours) - theirs).max() <= 1e-4, method
    for method, kind in (("gradcam", GradCAM), ("hirescam", HiResCAM)):
        for alpha in (0.6, 1.0):
            ours = encoding.explain(
                TEXTS[0], TEXTS[1:], method=method, gamma=alpha, objective="finer-softmax-upstream"
            ).grid
            theirs = _package(explainer, encoding, pixels, texts, _finer(kind, 3, alpha))
            found.append(theirs)
            assert np.abs(_normalised(ours) - theirs).max() <= 1e-4, (method, alpha)
    assert sum(theirs.max() > 0.99 for theirs in found) >= 4  # two maps without a positive value would agree, too


@pytest.mark.parametrize("picture", ["astronaut", "chelsea", "noise"])
def test_vit_b_16_random(vit_b_16: Explainer, picture: str) -> None:
    _check(vit_b_16, PICTURES[picture]())


@pytest.mark.parametrize("picture", PICTURES)
def test_the_bundled_model(bundled: Explainer, picture: str) -> None:
    _check(bundled, PICTURES[picture]())


def test_a_grid_that_is_not_square() -> None:
    explainer = tiny_explainer()
    assert explainer.encode(data.astronaut()).grid == (4, 6)
    _check(explainer, data.astronaut())


def test_one_contrast_is_the_papers_mean_in_the_package_too(bundled: Explainer) -> None:
    """With one contrast upstream's weights cancel, so the default objective has the package's numbers as well.

    As long as the contrast's probability p is well above the package's own epsilon, p / (p + 1e-9). Therefore the
    contrast is the text that is true of the image: the other way round this model is so sure that p is near 1e-9.
    """
    image = demo.demo_scene().image
    target, contrast = TEXTS[1], TEXTS[0]
    encoding, pixels, texts = _question(bundled, image, [target, contrast])
    for method, kind in (("gradcam", GradCAM), ("hirescam", HiResCAM)):
        found = encoding.explain(target, [contrast], method=method, gamma=0.6)
        assert found.probabilities[contrast] > 0.5
        theirs = _package(bundled, encoding, pixels, texts, _finer(kind, 1, 0.6))
        assert theirs.max() > 0.99
        assert np.abs(_normalised(found.grid) - theirs).max() <= 1e-4, method
