"""What must be true of every explanation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from reference.models import model_of, tokenizer_of
from scipy.stats import spearmanr
from skimage import data

import finercam_clip
from finercam_clip import InputError, Options
from finercam_clip.aviary import demo
from finercam_clip.evaluation.metrics import distance_to
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.objectives import unit_norm
from finercam_clip.options import Pooling

RED, BLUE, GREEN = "a bird with a red crown", "a bird with a blue crown", "a bird with a green tail"
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)


def _close(one: NDArray[np.float32], two: NDArray[np.float32], tolerance: float = 1e-5) -> bool:
    return bool(np.abs(one - two).max() <= tolerance * np.abs(two).max())


def _close_each(one: NDArray[np.float32], two: NDArray[np.float32]) -> bool:
    """Every map by its own largest value."""
    return one.shape == two.shape and all(_close(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture(scope="module")
def photo(vit_b_16: Explainer) -> ImageEncoding:
    return vit_b_16.encode(data.chelsea())


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
class TestOfTheMethodsWithAClosedForm:  # of the others see test_methods.py
    def test_gamma_zero_is_the_plain_method(self, tiny: Explainer, method: str) -> None:
        """To the last bit."""
        image = tiny.encode(NOISE)
        plain = image.heatmaps([RED], method=method)
        assert np.array_equal(image.heatmaps([RED], [BLUE], gamma=0, method=method), plain)
        assert np.array_equal(image.heatmaps([RED], [BLUE], objective="similarity", method=method), plain)
        alone = image.explain(RED, method=method)
        assert _close(alone.grid, plain[0])
        for found in (
            image.explain(RED, [BLUE], objective="similarity", method=method),
            image.explain(RED, [BLUE, GREEN], gamma=0, method=method),
            image.explain(RED, [BLUE], gamma=0, objective="finer-softmax", method=method),
        ):
            assert _close(found.grid, alone.grid)  # the target's text is embedded in a batch of another size
            assert _close(found.grid, found.target_grid)

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
        texts = [f"a bird with {i} feathers" for i in range(600)]
        many = image.heatmaps(texts, [BLUE], method=method)
        assert many.shape == (600, 4, 6)
        embedded, contrast = tiny.embed(texts), tiny.embed([BLUE])
        for questions in (1, 31, 32, 33, 600):
            parts = [image.heatmaps(part, contrast, method=method) for part in torch.split(embedded, questions)]
            assert _close_each(np.concatenate(parts), many), questions
        for i in (0, 7, 599):
            assert _close(image.explain(texts[i], [BLUE], method=method).grid, many[i])
        assert image.heatmaps(embedded[:0], contrast, method=method).shape == (0, 4, 6)

    def test_vit_b_16_has_the_same_properties(self, photo: ImageEncoding, vit_b_16: Explainer, method: str) -> None:
        """Real size: 512 dimensions, 196 patches, a photograph."""
        one = photo.explain(RED, [BLUE], gamma=1, method=method)
        assert _close(-photo.explain(BLUE, [RED], gamma=1, method=method).grid, one.grid, 1e-4)  # of near-equal texts
        assert _close(photo.explain(RED, [BLUE], gamma=0, method=method).grid, one.target_grid)
        texts = unit_norm(torch.randn(600, 512, generator=torch.Generator().manual_seed(0)))
        many = photo.heatmaps(texts[:-2], texts[-2:], method=method)
        few = [photo.heatmaps(part, texts[-2:], method=method) for part in torch.split(texts[:96], 32)]
        assert _close_each(np.concatenate(few), many[:96])

    def test_mean_pooling_is_another_score_on_the_same_grid(self, tiny: Explainer, method: str) -> None:
        one, two = (tiny.explain(NOISE, RED, [BLUE], method=method, pooling=p) for p in ("model", "mean"))
        assert one.grid.shape == two.grid.shape
        assert one.similarities != two.similarities


@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_a_list_of_images_is_the_same_as_one_by_one(tiny: Explainer, pooling: str) -> None:
    """Of different sizes; with more images than one batch holds."""
    images = [NOISE, NOISE[::-1].copy(), NOISE[:, ::-1].copy(), data.rocket(), *[NOISE] * 31]
    encoded = tiny.encode(images, pooling=pooling)
    assert len(encoded) == len(images) == 35
    for together, image in zip(encoded[:4] + encoded[-1:], images[:4] + images[-1:], strict=True):
        alone = tiny.explain(image, RED, [BLUE], pooling=pooling)
        found = together.explain(RED, [BLUE])
        assert np.array_equal(found.image, image)
        assert _close(found.grid, alone.grid)
        assert found.heatmap.shape == alone.heatmap.shape == image.shape[:2]
    assert tiny.encode([]) == []


def test_explain_is_encode_then_explain(tiny: Explainer) -> None:
    one, two = tiny.explain(NOISE, RED, [BLUE]), tiny.encode(NOISE).explain(RED, [BLUE])
    assert np.array_equal(one.grid, two.grid)
    assert np.array_equal(one.heatmap, two.heatmap)
    assert one.to_dict() == two.to_dict()


def test_similarities_are_the_models_own_cosines(tiny: Explainer) -> None:
    """From open_clip's `encode_image` and `encode_text`, with its tokenizer and logit scale."""
    model, texts = model_of(tiny), [RED, BLUE, GREEN]
    image = model.encode_image(tiny.loaded.preprocess(Image.fromarray(NOISE))[0][None], normalize=True)[0]
    cosines = model.encode_text(tokenizer_of(tiny)(texts), normalize=True) @ image
    found = tiny.explain(NOISE, RED, [BLUE, GREEN])
    assert list(found.similarities.values()) == pytest.approx(cosines.tolist(), abs=1e-6)
    probabilities = (model.logit_scale.exp() * cosines).softmax(0)
    assert list(found.probabilities.values()) == pytest.approx(probabilities.tolist(), abs=1e-5)


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


def test_where_everything_is_against_the_target_there_is_no_heat_and_a_caution(tiny: Explainer) -> None:
    found = tiny.explain(NOISE, RED, [BLUE])
    against = replace(found, grid=-np.abs(found.grid) - 1)
    assert not against.heatmap.any()
    assert against.peak is None
    assert against.boxes() == []
    assert against.caution == "nothing in the image speaks for the target"
    assert json.loads(against.to_json())["peak"] is None
    faint = against.grid.copy()
    faint[2, 3] = 0.1 * np.abs(faint).max()
    assert replace(found, grid=faint).heatmap.max() == pytest.approx(0.1, rel=0.1)  # not stretched to 1


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
    texts = unit_norm(torch.randn(300, 256, generator=torch.Generator().manual_seed(0)))
    assert np.isfinite(half.encode(demo.IMAGE).heatmaps(texts)).all()
    for pooling in get_args(Pooling):
        exact, found = (explainer.encode(demo.IMAGE, pooling=pooling) for explainer in (bundled, half))
        for method in ("gradcam", "hirescam"):
            one, two = (image.explain(RED, [BLUE], method=method).grid.ravel() for image in (exact, found))
            assert two.dtype == np.float32
            assert np.isfinite(two).all()
            assert spearmanr(one, two).statistic >= 0.99, (pooling, method)


@pytest.mark.parametrize("picture", [data.astronaut, data.rocket, data.chelsea])
def test_real_photographs_at_their_size_and_aspect(
    vit_b_16: Explainer, picture: Callable[[], NDArray[np.uint8]]
) -> None:
    image = picture()
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


@pytest.mark.parametrize(("row", "column"), [(1, 2), (7, 12), (12, 5)])
def test_a_change_in_a_photograph_moves_the_activations_there(photo: ImageEncoding, row: int, column: int) -> None:
    """Alignment on a wide photograph (300 x 451), from its own pixels to the grid and back through `Geometry`."""
    side, left = 300 / 14, (451 - 300) / 2  # of a cell, in the photograph's pixels; of the centre square
    y, x = (row + 0.5) * side, left + (column + 0.5) * side
    changed = photo.image.copy()
    changed[round(y - side / 2) : round(y + side / 2), round(x - side / 2) : round(x + side / 2)] ^= 255
    moved = (photo.explainer.encode(changed).forward.tail.activations - photo.forward.tail.activations).norm(dim=1)
    hottest = photo.geometry.to_image(moved.reshape(photo.grid).numpy()).argmax()
    found_y, found_x = np.unravel_index(int(hottest), photo.image.shape[:2])
    assert abs(found_y - y) <= side / 2
    assert abs(found_x - x) <= side / 2


@pytest.mark.parametrize("shape", [(448, 900), (900, 448)])
def test_the_map_lands_on_the_bird_in_wide_and_tall_pictures(bundled: Explainer, shape: tuple[int, int]) -> None:
    """The drawn bird in the middle of a larger picture: the crown is found where it was put, to half a cell."""
    scene = demo.demo_scene()
    size = scene.image.shape[0]
    picture = np.full((*shape, 3), 150, np.uint8)
    y, x = (shape[0] - size) // 2, (shape[1] - size) // 2
    picture[y : y + size, x : x + size] = scene.image
    peak = bundled.explain(picture, RED, [BLUE]).peak
    assert peak is not None
    off = distance_to(scene.masks[0]["crown"], (peak[0] - x, peak[1] - y))
    assert off <= size / 20 / 2  # half a cell: the grid lies elsewhere on the bird than in the picture by itself


def test_wrong_options_are_errors_that_list_what_there_is(tiny: Explainer) -> None:
    for wrong, hint in (
        ({"method": "cam"}, "hirescam, gradcam"),
        ({"objective": "x"}, "finer"),
        ({"gamma": -1.0}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"pooling": "max"}, "model, mean"),
        ({"alpha": 1.0}, "method, gamma"),
    ):
        with pytest.raises(InputError, match=hint):
            tiny.explain(NOISE, RED, [BLUE], **wrong)
