"""From images and texts to maps: what must be true of every answer, at any size, alone and in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import resize_pos_embed
from PIL import Image
from reference.models import BLUE, GREEN, NOISE, RED, model_of, tiny_explainer, tokenizer_of
from reference.papers import embedded, spelt_out
from reference.unchanged import unchanged
from scipy.stats import spearmanr
from skimage import data
from torch import Tensor

import finercam_clip
from finercam_clip import InputError
from finercam_clip.aviary import demo
from finercam_clip.evaluation.metrics import distance_to
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.options import Pooling
from finercam_clip.tensors import unit_norm

rng = np.random.default_rng(0)
WIDE = rng.integers(0, 255, (70, 130, 3)).astype(np.uint8)
TALL = rng.integers(0, 255, (120, 50, 3)).astype(np.uint8)


def _close(one: NDArray[np.float32], two: NDArray[np.float32], tolerance: float = 1e-5) -> bool:
    return bool(np.abs(one - two).max() <= tolerance * np.abs(two).max())


def _close_each(one: NDArray[np.float32], two: NDArray[np.float32]) -> bool:
    """Every map by its own largest value."""
    return one.shape == two.shape and all(_close(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture(scope="module")
def photo(vit_b_16: Explainer) -> ImageEncoding:
    return vit_b_16.encode(data.chelsea())


@pytest.fixture(params=["gradcam", "hirescam"])
def method(request: pytest.FixtureRequest) -> str:
    """The methods with a closed form; the others are in test_methods.py."""
    name: str = request.param
    return name


# ------------------------------------------------------------------------------------------------- target and contrasts


def test_gamma_zero_is_the_plain_method(tiny: Explainer, method: str) -> None:
    """To the last bit, for questions of the same kind."""
    image = tiny.encode(NOISE)
    plain = image.heatmaps([RED], method=method)
    assert np.array_equal(image.heatmaps([RED], [BLUE], gamma=0, method=method), plain)
    assert np.array_equal(image.heatmaps([RED], [BLUE], objective="similarity", method=method), plain)
    alone = image.explain(RED, method=method)
    assert _close(alone.grid, plain[0])
    for explanation in (
        image.explain(RED, [BLUE], objective="similarity", method=method),
        image.explain(RED, [BLUE, GREEN], gamma=0, method=method),
        image.explain(RED, [BLUE], gamma=0, objective="finer-softmax", method=method),
    ):
        assert _close(explanation.grid, alone.grid)
        assert _close(explanation.grid, explanation.target_grid)


def test_swapping_target_and_contrast_negates_the_grid(tiny: Explainer, method: str) -> None:
    image = tiny.encode(NOISE)
    grid = image.explain(RED, [BLUE], gamma=1, objective="finer", method=method).grid
    assert _close(-image.explain(BLUE, [RED], gamma=1, objective="finer", method=method).grid, grid)


@pytest.mark.parametrize(
    ("objective", "together"), [("finer", np.mean), ("finer-rectified", np.mean), ("finer-strongest", np.min)]
)
def test_several_contrasts_are_the_mean_of_each_or_the_strongest(
    tiny: Explainer, method: str, objective: Literal["finer", "finer-rectified", "finer-strongest"], together: Any
) -> None:
    image = tiny.encode(NOISE)
    both = image.explain(RED, [BLUE, GREEN], objective=objective, method=method).grid
    assert _close(image.explain(RED, [GREEN, BLUE], objective=objective, method=method).grid, both)
    each = [image.explain(RED, [text], objective=objective, method=method).grid for text in (BLUE, GREEN)]
    assert not _close(each[0], each[1], 0.01)
    assert _close(together(each, axis=0), both)


def test_the_difference_is_taken_before_relu(tiny: Explainer, method: str) -> None:
    explanation = tiny.explain(NOISE, RED, [BLUE], objective="finer", gamma=0.7, method=method)
    assert explanation.contrast_grid is not None
    assert _close(explanation.target_grid - 0.7 * explanation.contrast_grid, explanation.grid)
    assert (explanation.grid < 0).any()


def test_equal_concepts_leave_nothing(tiny: Explainer) -> None:
    image = tiny.encode(NOISE)
    text = tiny.embed([RED])
    bound = 1e-4 * np.abs(image.heatmaps(text)).max()
    assert image.heatmaps(text, text).max() <= bound
    assert np.abs(image.heatmaps(text, text, objective="finer")).max() <= bound


# ------------------------------------------------------------------------------------------------------- many questions


def test_many_questions_are_the_same_as_one_by_one(tiny: Explainer, method: str) -> None:
    """Below and above the number of dimensions (32), where the way of computing changes."""
    image = tiny.encode(NOISE)
    texts = [f"a bird with {i} feathers" for i in range(600)]
    many = image.heatmaps(texts, [BLUE], method=method)
    assert many.shape == (600, 4, 6)
    embeddings, contrast = tiny.embed(texts), tiny.embed([BLUE])
    for questions in (1, 31, 32, 33, 600):
        parts = [image.heatmaps(part, contrast, method=method) for part in torch.split(embeddings, questions)]
        assert _close_each(np.concatenate(parts), many), questions
    for i in (0, 7, 599):
        assert _close(image.explain(texts[i], [BLUE], method=method).grid, many[i])
    assert image.heatmaps(embeddings[:0], contrast, method=method).shape == (0, 4, 6)


def test_vit_b_16_has_the_same_properties(photo: ImageEncoding, method: str) -> None:
    """Real size: 512 dimensions, 196 patches, a photograph."""
    explanation = photo.explain(RED, [BLUE], gamma=1, objective="finer", method=method)
    swapped = photo.explain(BLUE, [RED], gamma=1, objective="finer", method=method)
    assert _close(-swapped.grid, explanation.grid, 1e-4)  # of near-equal texts
    assert _close(photo.explain(RED, [BLUE], gamma=0, method=method).grid, explanation.target_grid)
    texts = unit_norm(torch.randn(600, 512, generator=torch.Generator().manual_seed(0)))
    many = photo.heatmaps(texts[:-2], texts[-2:], method=method)
    few = [photo.heatmaps(part, texts[-2:], method=method) for part in torch.split(texts[:96], 32)]
    assert _close_each(np.concatenate(few), many[:96])


# --------------------------------------------------------------------------------------------------------------- scores


def test_similarities_are_the_models_own_cosines(tiny: Explainer) -> None:
    """From open_clip's `encode_image` and `encode_text`, with its tokenizer and logit scale."""
    model, texts = model_of(tiny), [RED, BLUE, GREEN]
    image = model.encode_image(tiny.loaded.preprocess(Image.fromarray(NOISE))[0][None], normalize=True)[0]
    cosines = model.encode_text(tokenizer_of(tiny)(texts), normalize=True) @ image
    explanation = tiny.explain(NOISE, RED, [BLUE, GREEN])
    assert list(explanation.similarities.values()) == pytest.approx(cosines.tolist(), abs=1e-6)
    probabilities = (model.logit_scale.exp() * cosines).softmax(0)
    assert list(explanation.probabilities.values()) == pytest.approx(probabilities.tolist(), abs=1e-5)


@pytest.mark.parametrize(("pooling", "pool_type"), [("model", "tok"), ("token", "tok"), ("mean", "avg")])
@torch.no_grad()
def test_a_pooling_is_the_cosine_with_what_it_pools(tiny: Explainer, pooling: Pooling, pool_type: str) -> None:
    """The tower written out block by block: the class token, or the mean of the patches, normed and projected."""
    encoding = tiny.encode(NOISE, pooling=pooling)
    with torch.enable_grad():
        tokens = spelt_out(tiny, encoding.forward.pixels)[-1].after
    embedding = embedded(tiny, tokens.detach(), pool_type)
    cosines = model_of(tiny).encode_text(tokenizer_of(tiny)([RED, BLUE]), normalize=True) @ embedding
    torch.testing.assert_close(encoding.embedding, embedding, rtol=1e-4, atol=1e-5)
    explanation = encoding.explain(RED, [BLUE])
    assert list(explanation.similarities.values()) == pytest.approx(cosines.tolist(), abs=1e-5)
    assert explanation.grid.shape == (4, 6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_agrees_in_rank(bundled: Explainer, precision: str) -> None:
    half = finercam_clip.load(precision=precision)
    texts = unit_norm(torch.randn(300, 256, generator=torch.Generator().manual_seed(0)))
    assert np.isfinite(half.encode(demo.IMAGE).heatmaps(texts)).all()
    paper: dict[str, Any] = {"objective": "finer", "gamma": 0.6}  # at gamma 1 hardly more than rounding is left
    for pooling in get_args(Pooling):
        encodings = [explainer.encode(demo.IMAGE, pooling=pooling) for explainer in (bundled, half)]
        for name in ("gradcam", "hirescam"):
            exact, rounded = (
                encoding.explain(RED, [BLUE], method=name, **paper).grid.ravel() for encoding in encodings
            )
            assert rounded.dtype == np.float32
            assert np.isfinite(rounded).all()
            assert spearmanr(exact, rounded).statistic >= 0.99, (pooling, name)


# ----------------------------------------------------------------------------------------- images, alone and in batches


def test_explain_is_encode_then_explain(tiny: Explainer) -> None:
    one, two = tiny.explain(NOISE, RED, [BLUE]), tiny.encode(NOISE).explain(RED, [BLUE])
    assert np.array_equal(one.grid, two.grid)
    assert np.array_equal(one.heatmap, two.heatmap)
    assert one.to_dict() == two.to_dict()


@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_a_list_of_images_is_the_same_as_one_by_one(tiny: Explainer, pooling: str) -> None:
    """Of different sizes; with more images than one batch holds."""
    images = [NOISE, NOISE[::-1].copy(), NOISE[:, ::-1].copy(), data.rocket(), *[NOISE] * 31]
    encoded = tiny.encode(images, pooling=pooling)
    assert len(encoded) == len(images) == 35
    for together, image in zip(encoded[:4] + encoded[-1:], images[:4] + images[-1:], strict=True):
        alone = tiny.explain(image, RED, [BLUE], pooling=pooling)
        explanation = together.explain(RED, [BLUE])
        assert np.array_equal(explanation.image, image)
        assert _close(explanation.grid, alone.grid)
        assert explanation.heatmap.shape == alone.heatmap.shape == image.shape[:2]
    assert tiny.encode([]) == []


def test_a_batch_of_images_of_different_shapes_is_each_alone(tiny: Explainer) -> None:
    images = [WIDE, TALL, WIDE[::-1].copy()]
    questions = [(RED, [BLUE]), (BLUE, [RED]), (RED, [])]
    for image_size in (None, "native"):
        answers = tiny.explain_batch(images, questions, image_size=image_size)
        assert [len(row) for row in answers] == [3, 3, 3]
        for image, row in zip(images, answers, strict=True):
            for (target, contrasts), answer in zip(questions, row, strict=True):
                alone = tiny.explain(image, target, contrasts, image_size=image_size)
                np.testing.assert_allclose(answer.grid, alone.grid, rtol=1e-3, atol=1e-5)
                assert answer.similarities == pytest.approx(alone.similarities, abs=1e-5)


def test_one_image_or_many_is_said_not_guessed(tiny: Explainer) -> None:
    with pytest.raises(InputError, match="explain_batch"):
        tiny.explain([WIDE, TALL], RED, [BLUE])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="list of images"):
        tiny.explain_batch("bird.jpg", [(RED, [BLUE])])
    wrong: Any
    for wrong in (RED, [RED, BLUE]):
        with pytest.raises(InputError, match="list of"):
            tiny.explain_batch([WIDE], wrong)


def test_what_was_settled_in_encoding_cannot_be_changed_in_asking(tiny: Explainer) -> None:
    encoding = tiny.encode(WIDE, pooling="mean", image_size=64)
    assert encoding.explain(RED, [BLUE]).options.pooling == "mean"
    assert encoding.explain(RED, [BLUE], pooling="mean").options.image_size == 64
    changes: list[dict[str, Any]] = [{"pooling": "model"}, {"image_size": 32}, {"image_size": None}]
    for change in changes:
        with pytest.raises(InputError, match="encode"):
            encoding.explain(RED, [BLUE], **change)


def test_out_of_memory_halves_the_batch_and_says_so(tiny: Explainer) -> None:
    tried: list[int] = []

    def scarce(_: Any, args: tuple[Tensor, ...]) -> None:
        tried.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.cuda.OutOfMemoryError("no room")

    expected = tiny.encode([WIDE] * 10)
    with unchanged(model_of(tiny)):
        handle = model_of(tiny).visual.register_forward_pre_hook(scarce)
        try:
            with pytest.warns(UserWarning, match="out of memory") as caught:
                encodings = tiny.encode([WIDE] * 10)
        finally:
            handle.remove()
    assert tried == [10, 5, *[2] * 5]
    assert "batches of 2" in str(caught[-1].message)
    for encoding, alone in zip(encodings, expected, strict=True):
        torch.testing.assert_close(encoding.embedding, alone.embedding, rtol=1e-4, atol=1e-6)


# ----------------------------------------------------------------------------------------------------- sizes and places


def test_a_larger_size_is_a_finer_grid_and_leaves_no_trace(tiny: Explainer) -> None:
    fresh = tiny.explain(WIDE, RED, [BLUE])
    own = tiny.explain(WIDE, RED, [BLUE], image_size=tiny.loaded.preprocess.size)
    h, w = fresh.grid.shape
    with unchanged(model_of(tiny)):
        larger = tiny.explain(WIDE, RED, [BLUE], image_size=(16 * h, 16 * w))
        native = tiny.explain(WIDE, RED, [BLUE], image_size="native")
    again = tiny.explain(WIDE, RED, [BLUE])
    assert larger.grid.shape == (2 * h, 2 * w)
    assert native.grid.shape == (9, 16)
    assert native.geometry.seen == (0, 0, 130, 70)  # nothing is cropped away
    assert np.array_equal(fresh.grid, again.grid)
    assert np.array_equal(fresh.grid, own.grid)
    assert native.heatmap.shape == larger.heatmap.shape == (70, 130)


def test_interpolated_positions_are_those_of_a_model_built_at_that_size() -> None:
    """open_clip's own way to a larger model: build it and load the state with resized position embeddings."""
    small, larger = tiny_explainer(image_size=32), tiny_explainer(image_size=64)
    state = model_of(small).state_dict()
    resize_pos_embed(state, model_of(larger))
    model_of(larger).load_state_dict(state)
    expected = larger.explain(WIDE, RED, [BLUE])
    resized = small.explain(WIDE, RED, [BLUE], image_size=64)
    np.testing.assert_allclose(resized.grid, expected.grid, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("picture", [data.astronaut, data.rocket, data.chelsea])
def test_real_photographs_at_their_size_and_aspect(
    vit_b_16: Explainer, picture: Callable[[], NDArray[np.uint8]]
) -> None:
    image = picture()
    explanation = vit_b_16.explain(image, "an astronaut", ["a cat", "a rocket"])
    assert explanation.grid.shape == (14, 14)
    assert explanation.heatmap.shape == image.shape[:2]
    x0, y0, x1, y1 = explanation.geometry.seen
    assert min(x1 - x0, y1 - y0) == min(image.shape[:2])  # the centre square is what the model saw
    outside = np.ones(image.shape[:2], bool)
    outside[y0:y1, x0:x1] = False
    assert not explanation.heatmap[outside].any()
    assert explanation.caution == "random weights: this map means nothing"
    assert explanation.panel().ndim == 3


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
