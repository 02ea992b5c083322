"""What must be true of every explanation (DESIGN section 5)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from skimage import data

import finercam_clip
from finercam_clip import InputError, Options
from finercam_clip.aviary import demo
from finercam_clip.explainer import Explainer
from finercam_clip.methods import METHODS

RED, BLUE, GREEN = "a bird with a red crown", "a bird with a blue crown", "a bird with a green tail"
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)


def _close(one: NDArray[np.float32], two: NDArray[np.float32], tolerance: float = 1e-5) -> bool:
    return bool(np.abs(one - two).max() <= tolerance * np.abs(two).max())


@pytest.mark.parametrize("method", METHODS)
class TestOfEveryMethod:
    def test_gamma_zero_is_the_plain_method(self, tiny: Explainer, method: str) -> None:
        image = tiny.encode(NOISE)
        plain = image.explain(RED, method=method).grid
        # The same direction, multiplied in a batch of another size: equal but for the last bit.
        assert _close(image.explain(RED, [BLUE], gamma=0, method=method).grid, plain, 1e-6)
        assert _close(image.explain(RED, [BLUE], objective="similarity", method=method).grid, plain, 1e-6)

    def test_swapping_target_and_contrast_negates_the_grid(self, tiny: Explainer, method: str) -> None:
        image = tiny.encode(NOISE)
        one = image.explain(RED, [BLUE], gamma=1, method=method).grid
        assert _close(-image.explain(BLUE, [RED], gamma=1, method=method).grid, one)

    def test_several_contrasts_are_the_mean_of_each(self, tiny: Explainer, method: str) -> None:
        image = tiny.encode(NOISE)
        both = image.explain(RED, [BLUE, GREEN], method=method).grid
        assert _close(image.explain(RED, [GREEN, BLUE], method=method).grid, both)
        each = [image.explain(RED, [text], method=method).grid for text in (BLUE, GREEN)]
        assert _close(np.mean(each, axis=0), both)

    def test_the_difference_is_taken_before_relu(self, tiny: Explainer, method: str) -> None:
        found = tiny.explain(NOISE, RED, [BLUE], gamma=0.7, method=method)
        assert found.contrast_grid is not None
        assert _close(found.target_grid - 0.7 * found.contrast_grid, found.grid)
        assert (found.grid < 0).any()

    def test_many_questions_are_the_same_as_one_by_one(self, tiny: Explainer, method: str) -> None:
        """Below and above the number of dimensions (32), where the way of computing changes."""
        image = tiny.encode(NOISE)
        texts = [f"a bird with {i} feathers" for i in range(40)]
        embedded, contrast = tiny.embed(texts), tiny.embed([BLUE])
        many = image.heatmaps(texts, [BLUE], method=method)
        assert many.shape == (40, 4, 6)
        assert _close(image.heatmaps(embedded, contrast, method=method), many)
        few = np.concatenate([image.heatmaps(embedded[i : i + 8], contrast, method=method) for i in range(0, 40, 8)])
        assert _close(few, many, 1e-4)
        assert _close(image.explain(texts[7], [BLUE], method=method).grid, many[7], 1e-4)

    def test_mean_pooling_is_another_score_on_the_same_grid(self, tiny: Explainer, method: str) -> None:
        one, two = (tiny.explain(NOISE, RED, [BLUE], method=method, pooling=p) for p in ("model", "mean"))
        assert one.grid.shape == two.grid.shape
        assert one.similarities != two.similarities


def test_a_list_of_images_is_the_same_as_one_by_one(tiny: Explainer) -> None:
    images = [NOISE, NOISE[::-1].copy(), NOISE[:, ::-1].copy()]
    for together, image in zip(tiny.encode(images), images, strict=True):
        assert _close(together.explain(RED, [BLUE]).grid, tiny.explain(image, RED, [BLUE]).grid, 1e-4)
    assert tiny.encode([]) == []


def test_an_explanation_holds_together(bundled: Explainer) -> None:
    found = bundled.explain(demo.IMAGE, RED, [BLUE, GREEN])
    h, w = found.image.shape[:2]
    assert found.heatmap.shape == (h, w)
    assert found.heatmap.dtype == np.float32
    assert 0 <= found.heatmap.min() <= found.heatmap.max() <= 1
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert list(found.similarities) == [RED, BLUE, GREEN]
    assert found.peak is not None
    assert found.heatmap[found.peak[1], found.peak[0]] == found.heatmap.max()
    for x0, y0, x1, y1, score in found.boxes(0.5):
        assert 0 <= x0 < x1 <= w
        assert 0 <= y0 < y1 <= h
        assert found.heatmap[y0:y1, x0:x1].max() == pytest.approx(score)
    stored = json.loads(found.to_json())
    assert np.allclose(stored["grid"], found.grid, atol=1e-5)
    assert stored["options"]["gamma"] == Options().gamma
    assert found.overlay().shape == found.image.shape


def test_evidence_against_the_target_keeps_the_rest_faint(bundled: Explainer) -> None:
    found = bundled.explain(demo.IMAGE, BLUE, [RED], gamma=1)
    strongest = np.abs(found.grid).max()
    assert found.heatmap.max() <= max(found.grid.max(), 0) / strongest + 1e-6
    assert found.caution is not None
    assert RED in found.caution


def test_equal_concepts_leave_nothing(tiny: Explainer) -> None:
    image = tiny.encode(NOISE)
    text = tiny.embed([RED])
    assert np.abs(image.heatmaps(text, text, gamma=1.0)).max() <= 1e-4 * np.abs(image.heatmaps(text)).max()


def test_an_ensemble_is_the_mean_of_its_unit_norm_texts(tiny: Explainer) -> None:
    one, two = tiny.embed([RED, GREEN])
    torch.testing.assert_close(tiny.embed([[RED, GREEN]])[0], torch.nn.functional.normalize(one + two, dim=0))
    templated = tiny.embed(["red"], templates=["a {} bird", "the {} bird"])[0]
    torch.testing.assert_close(templated, tiny.embed([["a red bird", "the red bird"]])[0])


def test_the_nearest_concepts_of_a_vocabulary_are_the_contrasts(tiny: Explainer) -> None:
    vocabulary = [f"a {c} bird" for c in ("red", "blue", "green", "pink", "black")]
    target, others = vocabulary[0], vocabulary[1:]
    near = tiny.embed(others) @ tiny.embed([target])[0]
    expected = [others[i] for i in near.argsort(descending=True)[:2].tolist()]
    assert list(tiny.explain(NOISE, target, 2, vocabulary=vocabulary).contrasts) == expected
    with pytest.raises(InputError, match="4 concepts besides the target"):
        tiny.explain(NOISE, target, 5, vocabulary=vocabulary)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_agrees_in_rank(bundled: Explainer, precision: str) -> None:
    half = finercam_clip.load(precision=precision)
    for method in METHODS:
        exact = bundled.explain(demo.IMAGE, RED, [BLUE], method=method).grid
        found = half.explain(demo.IMAGE, RED, [BLUE], method=method).grid
        assert np.isfinite(found).all()
        assert spearmanr(exact.ravel(), found.ravel()).statistic >= 0.99, method


@pytest.mark.parametrize("photo", [data.astronaut, data.rocket, data.chelsea])
def test_real_photographs_at_their_size_and_aspect(vit_b_16: Explainer, photo: object) -> None:
    image = photo()  # type: ignore[operator]
    found = vit_b_16.explain(image, "an astronaut", ["a cat", "a rocket"])
    assert found.grid.shape == (14, 14)
    assert found.heatmap.shape == image.shape[:2]
    x0, y0, x1, y1 = found.geometry.seen
    assert min(x1 - x0, y1 - y0) == min(image.shape[:2])  # the centre square is what the model saw
    outside = np.ones(image.shape[:2], bool)
    outside[y0:y1, x0:x1] = False
    assert not found.heatmap[outside].any()
    assert found.caution == "random weights: this map means nothing"
    assert found.panel().ndim == 3


@pytest.mark.parametrize("shape", [(448, 900), (900, 448)])
def test_the_map_lands_on_the_bird_in_wide_and_tall_pictures(bundled: Explainer, shape: tuple[int, int]) -> None:
    """The drawn bird in the middle of a larger picture: the crown is found where it was put."""
    scene = demo.demo_scene()
    size = scene.image.shape[0]
    picture = np.full((*shape, 3), 150, np.uint8)
    y, x = (shape[0] - size) // 2, (shape[1] - size) // 2
    picture[y : y + size, x : x + size] = scene.image
    peak = bundled.explain(picture, RED, [BLUE]).peak
    assert peak is not None
    assert scene.masks["crown"][peak[1] - y, peak[0] - x]


def test_wrong_options_are_errors_that_list_what_there_is(tiny: Explainer) -> None:
    for wrong, hint in (
        ({"method": "cam"}, "gradcam, hirescam"),
        ({"objective": "x"}, "finer"),
        ({"gamma": -1.0}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"pooling": "max"}, "model, mean"),
        ({"alpha": 1.0}, "method, gamma"),
    ):
        with pytest.raises(InputError, match=hint):
            tiny.explain(NOISE, RED, [BLUE], **wrong)
