"""Any resolution and aspect, batches, and what is settled when an image is encoded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import resize_pos_embed
from reference.models import model_of, tiny_explainer

from finercam_clip import InputError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.geometry import Geometry
from finercam_clip.preprocess import input_size

RED, BLUE = "a red bird", "a blue bird"
rng = np.random.default_rng(0)
WIDE = rng.integers(0, 255, (70, 130, 3)).astype(np.uint8)
TALL = rng.integers(0, 255, (120, 50, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, ((32, 32), False)),
        (48, ((48, 48), False)),
        ((16, 64), ((16, 64), False)),
        ("native", ((72, 128), True)),
    ],
)
def test_sizes_are_whole_cells(wanted: Any, expected: Any) -> None:
    assert input_size(wanted, (32, 32), (70, 130), (8, 8)) == expected


def test_the_models_own_size_needs_no_whole_cells() -> None:
    assert input_size(384, (384, 384), (10, 10), (14, 14)) == ((384, 384), False)


@pytest.mark.parametrize("wanted", [0, -8, 47, 3.5, "big", (8,), (8, 9), True, ("a", "b")])
def test_other_sizes_are_errors(wanted: Any) -> None:
    with pytest.raises(InputError, match="image_size"):
        input_size(wanted, (32, 32), (70, 130), (8, 8))


def test_a_larger_size_is_a_finer_grid_and_leaves_no_trace(tiny: Explainer) -> None:
    before = {name: tensor.clone() for name, tensor in model_of(tiny).state_dict().items()}
    fresh = tiny.explain(WIDE, RED, [BLUE])
    own = tiny.explain(WIDE, RED, [BLUE], image_size=tiny.loaded.preprocess.size)
    h, w = fresh.grid.shape
    larger = tiny.explain(WIDE, RED, [BLUE], image_size=(16 * h, 16 * w))
    native = tiny.explain(WIDE, RED, [BLUE], image_size="native")
    again = tiny.explain(WIDE, RED, [BLUE])
    assert larger.grid.shape == (2 * h, 2 * w)
    assert native.grid.shape == (9, 16)
    assert native.geometry.seen == (0, 0, 130, 70)  # nothing is cropped away
    assert np.array_equal(fresh.grid, again.grid)
    assert np.array_equal(fresh.grid, own.grid)
    assert all(bool((model_of(tiny).state_dict()[n] == t).all()) for n, t in before.items())
    assert native.heatmap.shape == larger.heatmap.shape == (70, 130)


def test_interpolated_positions_are_those_of_a_model_built_at_that_size() -> None:
    """open_clip's own way to a larger model: build it and load the state with resized position embeddings."""
    small, larger = tiny_explainer(image_size=32), tiny_explainer(image_size=64)
    state = model_of(small).state_dict()
    resize_pos_embed(state, model_of(larger))
    model_of(larger).load_state_dict(state)
    expected = larger.explain(WIDE, RED, [BLUE])
    found = small.explain(WIDE, RED, [BLUE], image_size=64)
    np.testing.assert_allclose(found.grid, expected.grid, rtol=1e-4, atol=1e-6)


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


def test_out_of_memory_halves_the_batch_and_says_so(tiny: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Explainer._encode_batch
    tried: list[int] = []

    def scarce(self: Explainer, images: Sequence[Any], *settings: Any) -> list[ImageEncoding]:
        tried.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("no room")
        return original(self, images, *settings)

    expected = tiny.encode([WIDE] * 10)
    monkeypatch.setattr(Explainer, "_encode_batch", scarce)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = tiny.encode([WIDE] * 10)
    assert [len(found), tried[0], tried[-1]] == [10, 10, 2]
    assert "batches of 2" in str(said[-1].message)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.forward.tail.embedding, two.forward.tail.embedding, rtol=1e-4, atol=1e-6)


def test_a_shifted_receptive_field_shifts_the_map() -> None:
    """A cell whose field is centred 4 pixels up and left of its block is drawn there."""
    grid = np.zeros((5, 5), np.float32)
    grid[2, 2] = 1
    size = (40, 40)
    plain = Geometry(size, size, (0, 0), size, stride=(8, 8)).to_image(grid)
    shifted = Geometry(size, size, (0, 0), size, stride=(8, 8), shift=(-4.0, -4.0)).to_image(grid)
    np.testing.assert_allclose(shifted[:36, :36], plain[4:, 4:], atol=1e-6)


def test_cells_that_do_not_fill_the_input_stay_at_their_stride() -> None:
    """27 patches of 14 pixels in 384: the last 6 pixels belong to no patch; the others are not stretched over them."""
    grid = np.zeros((27, 27), np.float32)
    grid[26, 26] = 1
    size = (384, 384)
    heat = Geometry(size, size, (0, 0), size, stride=(14, 14)).to_image(grid)
    y, x = np.unravel_index(int(heat[:378, :378].argmax()), (378, 378))
    assert (abs(y - 370.5) <= 1, abs(x - 370.5) <= 1) == (True, True)
