"""Affinity refinement against CLIP-ES's published formulas, written out in NumPy, and the preset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import clip_es
from reference.models import BLUE, NOISE, RED, tiny_explainer

from finercam_clip import InputError
from finercam_clip.aviary import demo
from finercam_clip.concepts.vocabulary import read_prompts
from finercam_clip.explainer import Explainer
from finercam_clip.methods.refine import affinity, affinity_matrix, boxed


@pytest.mark.parametrize("layers", [3, 10])
def test_affinity_is_the_published_formula(layers: int) -> None:
    """Of the last eight blocks, or of all if there are fewer."""
    explainer = tiny_explainer(seed=4, layers=layers)
    encoding = explainer.encode(NOISE)
    attention = clip_es.attention(explainer, encoding.forward.pixels)
    plain = encoding.explain(RED, [BLUE])
    refined = encoding.explain(RED, [BLUE], refine="affinity")
    expected = clip_es.refined(attention, plain.grid.astype(float))
    assert expected.max() > 0
    assert np.abs(refined.grid - expected).max() <= 1e-5 * expected.max()
    (alone,) = encoding.heatmaps([RED], [BLUE], refine="affinity")
    assert np.abs(alone - expected).max() <= 1e-5 * expected.max()


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "grad-eclip", "maskclip", "chefer"])
def test_it_follows_any_method(bundled: Explainer, method: str) -> None:
    """The difference is refined, and what is shown of target and contrasts alone, each by the same formula."""
    encoding = bundled.encode(demo.demo_scene().image)
    attention = clip_es.attention(bundled, encoding.forward.pixels)
    plain = encoding.explain(RED, [BLUE], method=method)
    refined = encoding.explain(RED, [BLUE], method=method, refine="affinity")
    assert plain.contrast_grid is not None
    assert refined.contrast_grid is not None
    for grid, before in (
        (refined.grid, plain.grid),
        (refined.target_grid, plain.target_grid),
        (refined.contrast_grid, plain.contrast_grid),
    ):
        expected = clip_es.refined(attention, before.astype(float))
        assert expected.max() > 0
        assert np.abs(grid - expected).max() <= 1e-4 * expected.max()
    assert refined.similarities == plain.similarities


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


def test_the_preset_is_its_parts(tiny: Explainer) -> None:
    """Grad-CAM of the softmax over target, contrasts and scenery, patches mean-pooled, then affinity."""
    preset = tiny.explain(NOISE, "a cat", ["a dog"], method="clip-es")
    contrasts = ["a dog", *read_prompts("background")]
    parts = tiny.explain(
        NOISE, "a cat", contrasts, method="gradcam", objective="probability", pooling="mean", refine="affinity"
    )
    assert preset.contrasts == tuple(contrasts)
    assert np.array_equal(preset.grid, parts.grid)
    assert sum(preset.probabilities.values()) == pytest.approx(1)
    kept = tiny.explain(NOISE, "a cat", ["a dog"], method="clip-es", refine=None)
    attention = clip_es.attention(tiny, tiny.encode(NOISE).forward.pixels)
    expected = clip_es.refined(attention, kept.grid.astype(float))
    assert np.abs(preset.grid - expected).max() <= 1e-5 * expected.max()


def test_scenery_that_the_model_does_not_know_or_that_is_asked_for_is_left_out(bundled: Explainer) -> None:
    scenery = ["a bird", "A Wing", "a railway", "a red tail"]
    explanation = bundled.explain(NOISE, "a wing", ["a bird"], background=scenery)
    assert explanation.contrasts == ("a bird", "a red tail")


def test_errors(tiny: Explainer) -> None:
    encoding = tiny.encode(NOISE)
    with pytest.raises(InputError, match="there is no refinement 'crf'; there is affinity, or None"):
        encoding.explain("a cat", refine="crf")
    with pytest.raises(InputError, match="encoded with pooling='model': give pooling='mean' to encode"):
        encoding.explain("a cat", method="clip-es")
