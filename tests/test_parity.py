"""The same numbers as the grad-cam package on the same weights, image and texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import pytorch_grad_cam as package
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM, HiResCAM
from reference import grad_cam
from reference.models import TEXTS, maps, tiny_explainer
from skimage import data

from finercam_clip.aviary import demo
from finercam_clip.explainer import Explainer

PICTURES: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "astronaut": data.astronaut,
    "chelsea": data.chelsea,
    "noise": lambda: np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8),
    "drawn bird": lambda: demo.demo_scene().image,
}
SLOW = pytest.mark.slow
KINDS = {
    "gradcam": "GradCAM",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "scorecam": "ScoreCAM",
}


def _check(explainer: Explainer, image: NDArray[np.uint8]) -> None:
    encoding, texts = explainer.encode(image), explainer.embed(TEXTS)
    largest = []
    for method, kind in (("gradcam", GradCAM), ("hirescam", HiResCAM)):
        ours = encoding.explain(TEXTS[0], method=method).grid
        theirs = grad_cam.of_texts(kind, explainer, encoding, texts, grad_cam.plain())
        largest.append(theirs.max())
        assert np.abs(grad_cam.positive(ours) - theirs).max() <= 1e-4, method
        for alpha in (0.6, 1.0):
            ours = encoding.explain(
                TEXTS[0], TEXTS[1:], method=method, gamma=alpha, objective="finer-softmax-upstream"
            ).grid
            theirs = grad_cam.of_texts(kind, explainer, encoding, texts, grad_cam.finer(0, [1, 2, 3], alpha))
            largest.append(theirs.max())
            assert np.abs(grad_cam.positive(ours) - theirs).max() <= 1e-4, (method, alpha)
    assert sum(value > 0.99 for value in largest) >= 4  # two maps without a positive value would agree, too


@pytest.mark.parametrize(
    "picture", [pytest.param("astronaut", marks=SLOW), "chelsea", pytest.param("noise", marks=SLOW)]
)
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
    """With one contrast upstream's weights cancel, so the paper's objective has the package's numbers as well.

    As long as the contrast's probability p is well above the package's own epsilon, p / (p + 1e-9). Therefore the
    contrast is the text that is true of the image: the other way round this model is so sure that p is near 1e-9.
    """
    target, contrast = TEXTS[1], TEXTS[0]
    encoding, texts = bundled.encode(demo.demo_scene().image), bundled.embed([target, contrast])
    for method, kind in (("gradcam", GradCAM), ("hirescam", HiResCAM)):
        explanation = encoding.explain(target, [contrast], method=method, objective="finer", gamma=0.6)
        assert explanation.probabilities[contrast] > 0.5
        theirs = grad_cam.of_texts(kind, bundled, encoding, texts, grad_cam.finer(0, [1], 0.6))
        assert theirs.max() > 0.99
        assert np.abs(grad_cam.positive(explanation.grid) - theirs).max() <= 1e-4, method


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("name", ["bundled", "tiny"])
def test_every_method_of_both_gives_the_same_map(method: str, name: str, request: pytest.FixtureRequest) -> None:
    explainer: Explainer = request.getfixturevalue(name)
    encoding = explainer.encode(data.astronaut())
    ours = encoding.explain(TEXTS[0], method=method).grid
    kind = getattr(package, KINDS[method])
    theirs = grad_cam.of_texts(kind, explainer, encoding, explainer.embed(TEXTS), grad_cam.plain())
    assert theirs.max() > 0.9
    candidates = [ours, -ours] if method == "eigencam" else [ours]  # a principal component has no sign
    assert min(np.abs(grad_cam.positive(one) - theirs).max() for one in candidates) <= 1e-4


@pytest.mark.parametrize("name", ["bundled", "tiny"])
def test_grad_cam_plus_plus_is_the_packages_on_the_same_gradients(name: str, request: pytest.FixtureRequest) -> None:
    """Its weights divide by what may be near zero, so the last bits of two backward passes already differ too much."""
    explainer: Explainer = request.getfixturevalue(name)
    encoding = explainer.encode(data.chelsea())
    direction = explainer.loaded.space.scale * explainer.embed(TEXTS[:1])
    tail = encoding.forward.tail
    (gradient,) = tail.gradients(direction)
    to_grid = [x.double().T.reshape(1, -1, *encoding.grid).numpy() for x in (tail.activations, gradient)]
    weights = package.GradCAMPlusPlus.get_cam_weights(None, None, None, None, *to_grid)
    theirs = np.maximum((weights[..., None, None] * to_grid[0]).sum(1)[0], 0)
    ours = np.maximum(maps(encoding, direction, "gradcam++")[0], 0)
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.max()


@pytest.mark.parametrize("layer", [0, 1, -2])
def test_another_target_layer_is_the_packages_at_that_layer(bundled: Explainer, layer: int) -> None:
    encoding = bundled.encode(data.astronaut(), layer=layer)
    ours = encoding.explain(TEXTS[0], method="gradcam", layer=layer).grid
    norm = bundled.loaded.tower.visual.transformer.resblocks[layer].ln_1
    theirs = grad_cam.of_texts(GradCAM, bundled, encoding, bundled.embed(TEXTS), grad_cam.plain(), norm)
    assert np.abs(grad_cam.positive(ours) - theirs).max() <= 1e-4
