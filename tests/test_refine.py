"""Affinity refinement against CLIP-ES's published formulas, written out here in NumPy, and the preset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.models import tiny_explainer

from finercam_clip import InputError
from finercam_clip.aviary import demo
from finercam_clip.concepts.vocabulary import read_prompts
from finercam_clip.explainer import Explainer
from finercam_clip.methods.refine import affinity, affinity_matrix, boxed

NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)


def _reference(attention: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """attention: [n, n] between patches; grid: [h, w], not negative. Boxes by flooding, sums by loops."""
    d = attention.copy()
    for _ in range(3):
        for j in range(len(d)):
            d[:, j] /= d[:, j].sum()
        for i in range(len(d)):
            d[i] /= d[i].sum()
    s = (d + d.T) / 2
    r = s @ s
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
    return ((r * mask.ravel()[None, :]) @ grid.ravel()).reshape(h, w)


def _attention(explainer: Explainer, count: int) -> NDArray[np.float64]:
    """The mean of the last blocks' attention between patches, from torch's own module asked for its weights."""
    visual = explainer.loaded.tower.visual
    x = visual._embeds(explainer.encode(NOISE).forward.pixels)
    found = []
    with torch.no_grad():
        for block in visual.transformer.resblocks:
            normed = block.ln_1(x)
            found.append(block.attn(normed, normed, normed, need_weights=True)[1][0, 1:, 1:])
            x = block(x)
    return torch.stack(found[-count:]).mean(0).double().numpy()


@pytest.mark.parametrize("layers", [3, 10])
def test_affinity_is_the_published_formula(layers: int) -> None:
    """Of the last eight blocks, or of all if there are fewer."""
    explainer = tiny_explainer(seed=4, layers=layers)
    attention = _attention(explainer, min(layers, 8))
    encoding = explainer.encode(NOISE)
    plain = encoding.explain("a red crown", ["a blue crown"])
    refined = encoding.explain("a red crown", ["a blue crown"], refine="affinity")
    expected = _reference(attention, np.maximum(plain.grid, 0).astype(float))
    assert expected.max() > 0
    assert np.abs(refined.grid - expected).max() <= 1e-5 * expected.max()
    (alone,) = encoding.heatmaps(["a red crown"], ["a blue crown"], refine="affinity")
    assert np.abs(alone - expected).max() <= 1e-5 * expected.max()


def test_uniform_attention_spreads_what_is_in_the_boxes_evenly() -> None:
    matrix = affinity_matrix(torch.full((12, 12), 1 / 12))
    torch.testing.assert_close(matrix, torch.full((12, 12), 1 / 12))


def test_boxes_of_regions() -> None:
    grid = np.zeros((5, 6), np.float32)
    grid[0, 0], grid[1, 1], grid[3, 4], grid[4, 0] = 1.0, 0.5, 0.4, 0.39
    expected = np.zeros((5, 6), bool)
    expected[:2, :2] = expected[3, 4] = True  # diagonal neighbours are one region; 0.39 is below the threshold
    assert np.array_equal(boxed(grid), expected)


def test_nothing_positive_stays_nothing(tiny: Explainer) -> None:
    maps = np.stack([-np.ones((4, 6), np.float32), np.zeros((4, 6), np.float32)])
    assert not affinity(tiny.encode(NOISE).forward, maps).any()


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "maskclip", "chefer"])
def test_it_follows_any_method(bundled: Explainer, method: str) -> None:
    encoding = bundled.encode(demo.demo_scene().image)
    question = "a bird with a red crown", ["a bird with a blue crown"]
    plain = encoding.explain(*question, method=method).grid
    refined = encoding.explain(*question, method=method, refine="affinity").grid
    assert refined.min() >= 0
    assert refined.max() > 0
    assert not np.allclose(refined, np.maximum(plain, 0))


def test_the_preset_is_its_parts(vit_b_16: Explainer) -> None:
    """Grad-CAM of the softmax over target, contrasts and scenery, patches mean-pooled, then affinity."""
    preset = vit_b_16.explain(NOISE, "a cat", ["a dog"], method="clip-es")
    contrasts = ["a dog", *read_prompts("background")]
    parts = vit_b_16.explain(
        NOISE, "a cat", contrasts, method="gradcam", objective="probability", pooling="mean", refine="affinity"
    )
    assert preset.contrasts == tuple(contrasts)
    assert np.array_equal(preset.grid, parts.grid)
    assert sum(preset.probabilities.values()) == pytest.approx(1)
    kept = vit_b_16.explain(NOISE, "a cat", ["a dog"], method="clip-es", refine=None)
    assert not np.array_equal(kept.grid, preset.grid)


def test_scenery_that_the_model_does_not_know_or_that_is_asked_for_is_left_out(bundled: Explainer) -> None:
    found = bundled.explain(NOISE, "a wing", ["a bird"], background=["a bird", "A Wing", "a railway", "a red tail"])
    assert found.contrasts == ("a bird", "a red tail")


def test_errors(tiny: Explainer) -> None:
    encoding = tiny.encode(NOISE)
    with pytest.raises(InputError, match="there is no refinement 'crf'; there is affinity, or None"):
        encoding.explain("a cat", refine="crf")
    with pytest.raises(InputError, match="encoded with pooling='model': give pooling='mean' to encode"):
        encoding.explain("a cat", method="clip-es")
