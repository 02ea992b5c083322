"""Every method against its paper's formula, written out on a tower whose attention is written out, too; and what must
hold for all of them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from reference.models import NOISE, TEXTS, maps, model_of, timm_explainer, tiny_explainer, tokenizer_of
from reference.papers import FORMULAS, score, spelt_out
from reference.unchanged import unchanged
from scipy.stats import spearmanr
from torch.nn.attention import SDPBackend, sdpa_kernel

import finercam_clip
from finercam_clip import InputError
from finercam_clip.aviary import demo
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.methods import METHODS, method_named, perturbation

AGNOSTIC = ("eigencam", "rollout")  # their maps ask nothing


def _grid(encoding: ImageEncoding, method: str) -> NDArray[np.float32]:
    return encoding.explain(TEXTS[0], TEXTS[1:], method=method).grid


@pytest.fixture(autouse=True)
def _few_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation, "RISE_MASKS", 100)


# ------------------------------------------------------------------------- against the papers' formulas, spelt out


@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize("pool_type", ["tok", "avg"])
def test_the_papers_formula_gives_the_same_map(method: str, pool_type: str) -> None:
    if (method, pool_type) == ("grad-eclip", "avg"):
        pytest.skip("reads the class token")
    explainer = tiny_explainer(seed=1, layers=5, pool_type=pool_type)
    encoding = explainer.encode(NOISE)
    d = torch.randn(32, generator=torch.Generator().manual_seed(0))
    ours = maps(encoding, d[None], method)[0].ravel()
    blocks = spelt_out(explainer, encoding.forward.pixels)
    assert score(explainer, blocks[-1].after, d).item() == pytest.approx(
        float(encoding.forward.tail.embedding @ d), abs=1e-5
    )
    theirs = FORMULAS[method](explainer, blocks, d).detach().numpy()
    assert np.abs(theirs).max() > 0
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_grad_eclip_without_the_closed_form(deep: Explainer) -> None:
    """On the recorded graph of another layer's tail the cotangents come from autograd."""
    one, two = deep.encode(NOISE), deep.encode(NOISE, layer=-1)
    d = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert type(one.forward.tail) is not type(two.forward.tail)
    first, second = (METHODS["grad-eclip"].maps(encoding.forward, d) for encoding in (one, two))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_occlusion_is_the_mean_fall_of_the_score_under_the_squares_that_cover_a_cell(tiny: Explainer) -> None:
    encoding = tiny.encode(NOISE)
    (rows, columns), d = encoding.grid, torch.randn(32, generator=torch.Generator().manual_seed(0))
    total = np.zeros(encoding.grid)
    with torch.no_grad():
        whole = F.normalize(model_of(tiny).encode_image(encoding.forward.pixels)[0], dim=-1) @ d
        for top in range(-1, rows):
            for left in range(-1, columns):
                covered = encoding.forward.pixels.clone()
                window = slice(max(top, 0), top + 2), slice(max(left, 0), left + 2)
                for y in range(rows)[window[0]]:
                    for x in range(columns)[window[1]]:
                        covered[:, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0
                part = F.normalize(model_of(tiny).encode_image(covered)[0], dim=-1) @ d
                total[window] += float(whole - part)
    ours = maps(encoding, d[None], "occlusion")[0]
    assert np.abs(ours - total / 4).max() <= 1e-4 * np.abs(total).max()


def test_rise_is_the_mean_of_masks_weighed_by_the_score_seen_through_them(tiny: Explainer) -> None:
    encoding = tiny.encode(NOISE)
    d = torch.randn(32, generator=torch.Generator().manual_seed(0))
    masks = perturbation.rise_masks(100, (32, 48))(torch.arange(100))
    with torch.no_grad():
        scores = F.normalize(model_of(tiny).encode_image(encoding.forward.pixels * masks), dim=-1) @ d
    cells = masks.view(100, 4, 8, 6, 8).mean((2, 4))
    expected = (scores[:, None, None] * cells).sum(0) / cells.sum(0)
    assert np.abs(maps(encoding, d[None], "rise")[0] - expected.numpy()).max() <= 1e-5


def test_rise_masks_are_half_open_everywhere_and_smooth() -> None:
    masks = perturbation.rise_masks(3000, (64, 96))(torch.arange(3000))
    assert masks.shape == (3000, 1, 64, 96)
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1 + 1e-6
    assert float((masks.mean(0) - 0.5).abs().max()) < 0.05
    assert float(masks.diff(dim=2).abs().max()) <= 8 / 64 + 1e-5  # over one cell at most from 0 to 1
    assert float(masks.diff(dim=3).abs().max()) <= 8 / 96 + 1e-5


# ----------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_linear_in_the_direction_if_and_only_if_it_says_so(deep: Explainer, name: str) -> None:
    encoding, generator = deep.encode(NOISE), torch.Generator().manual_seed(2)
    one, two = 5 * torch.randn(2, 32, generator=generator)
    parts = maps(encoding, torch.stack([one, two]), name)
    (whole,) = maps(encoding, (one - 0.6 * two)[None], name)
    same = np.abs(whole - (parts[0] - 0.6 * parts[1])).max() <= 1e-4 * np.abs(parts).max()
    assert same == METHODS[name].linear


@pytest.mark.parametrize("name", METHODS)
def test_the_difference_is_of_signed_maps(deep: Explainer, name: str) -> None:
    """The grid is the target's map minus gamma times the mean of the contrasts' maps, before any ReLU or scaling."""
    encoding = deep.encode(NOISE)
    explanation = encoding.explain(TEXTS[0], TEXTS[1:], method=name, objective="finer", gamma=0.7)
    target, *contrasts = encoding.heatmaps(TEXTS, method=name)
    scale = max(np.abs(grid).max() for grid in (target, *contrasts))
    assert explanation.contrast_grid is not None
    assert np.abs(explanation.target_grid - target).max() <= 1e-4 * scale
    assert np.abs(explanation.contrast_grid - np.mean(contrasts, axis=0)).max() <= 1e-4 * scale
    expected = target - 0.7 * np.mean(contrasts, axis=0)
    assert np.abs(explanation.grid - expected).max() <= 1e-4 * scale
    (alone,) = encoding.heatmaps([TEXTS[0]], TEXTS[1:], method=name, objective="finer", gamma=0.7)
    assert np.abs(alone - explanation.grid).max() <= 1e-4 * scale


@pytest.mark.parametrize("name", METHODS)
def test_the_scores_are_the_models_own_whatever_the_method(deep: Explainer, name: str) -> None:
    with torch.no_grad():
        pixels = deep.encode(NOISE).forward.pixels
        texts = model_of(deep).encode_text(tokenizer_of(deep)(TEXTS), normalize=True)
        cosines = model_of(deep).encode_image(pixels, normalize=True)[0] @ texts.T
    explanation = deep.explain(NOISE, TEXTS[0], TEXTS[1:], method=name)
    assert list(explanation.similarities.values()) == pytest.approx(cosines.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", AGNOSTIC)
def test_a_method_that_asks_nothing_gives_every_text_one_map(deep: Explainer, name: str) -> None:
    one, two = deep.encode(NOISE).heatmaps(TEXTS[:2], method=name)
    assert np.array_equal(one, two)
    (nothing,) = deep.encode(NOISE).heatmaps(TEXTS[:1], TEXTS[1:2], method=name)
    assert nothing.max() <= 1e-6 * np.abs(one).max()


def test_many_questions_are_the_single_ones(deep: Explainer) -> None:
    """Linear methods go through the map of every axis then: 33 questions in 32 dimensions."""
    encoding = deep.encode(NOISE)
    directions = torch.randn(33, 32, generator=torch.Generator().manual_seed(0))
    for name, method in METHODS.items():
        if method.linear:
            many = maps(encoding, directions, name)
            few = np.concatenate([maps(encoding, part, name) for part in torch.split(directions, 11)])
            assert np.abs(many - few).max() <= 1e-4 * np.abs(few).max(), name


def test_the_pictures_seen_through_masks_serve_every_question(deep: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = deep.encode(NOISE)
    for name in ("rise", "scorecam", "occlusion"):
        encoding.heatmaps(TEXTS[:1], method=name)
    monkeypatch.setattr(deep.loaded.tower.visual, "forward", None)
    for name in ("rise", "scorecam", "occlusion"):
        assert np.isfinite(encoding.heatmaps(TEXTS, method=name)).all()


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_every_method_works_on_towers_of_timm_or_says_why_not(pool: str) -> None:
    explainer = timm_explainer(pool)
    encoding = explainer.encode(NOISE)
    for name in METHODS:
        if (name, pool) == ("grad-eclip", "avg"):
            with pytest.raises(InputError, match="needs a tower that pools the class token"):
                encoding.explain(TEXTS[0], method=name)
            continue
        grid = encoding.explain(TEXTS[0], TEXTS[1:2], method=name, objective="finer", gamma=0.6).grid
        assert grid.shape == (6, 6)
        assert np.isfinite(grid).all()
        assert np.abs(grid).max() > 0, name


@pytest.mark.parametrize("part", ["visual", "model", "blocks"])
def test_a_compiled_model_gives_the_same_maps(tiny: Explainer, part: str) -> None:
    explainer = tiny_explainer()
    model = model_of(explainer)
    for module in {"visual": [model.visual], "model": [model]}.get(part, model.visual.transformer.resblocks):
        module.compile(backend="aot_eager")
    compiled, plain = explainer.encode(NOISE), tiny.encode(NOISE)
    for name in METHODS:
        grid, expected = _grid(compiled, name), _grid(plain, name)
        assert np.abs(grid - expected).max() <= 1e-4 * np.abs(expected).max(), name


@pytest.mark.parametrize("kernel", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_any_kernel_of_scaled_dot_product_attention(tiny: Explainer, kernel: SDPBackend) -> None:
    encoding = tiny.encode(NOISE)
    expected = {name: _grid(encoding, name) for name in METHODS}
    with sdpa_kernel(kernel):
        encoding = tiny.encode(NOISE)
        for name, grid in expected.items():
            assert np.abs(_grid(encoding, name) - grid).max() <= 1e-4 * np.abs(grid).max(), name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_agrees_in_rank_and_is_finite(bundled: Explainer, precision: str) -> None:
    half = finercam_clip.load(precision=precision)
    image = demo.demo_scene().image
    encodings = bundled.encode(image), half.encode(image)
    for name, method in METHODS.items():
        if method.slow:
            continue
        exact, rounded = (encoding.explain(TEXTS[0], TEXTS[1:2], method=name) for encoding in encodings)
        assert rounded.grid.dtype == np.float32
        assert np.isfinite(rounded.grid).all(), name
        if name not in ("gradcam++", "xgradcam"):  # they divide by what may be near zero
            assert spearmanr(exact.target_grid.ravel(), rounded.target_grid.ravel()).statistic >= 0.98, name


@pytest.mark.parametrize("name", [name for name in METHODS if name != "eigencam"])
def test_another_size_of_input(tiny: Explainer, name: str) -> None:
    """Passes that a method needs besides are run at the image's size, too, and the model is left as it was."""
    own = _grid(tiny.encode(NOISE), name)
    with unchanged(model_of(tiny)):
        larger = _grid(tiny.encode(NOISE, image_size=(48, 40)), name)
    assert larger.shape == (6, 5)
    assert np.isfinite(larger).all()
    assert np.array_equal(_grid(tiny.encode(NOISE), name), own)


# --------------------------------------------------------------------------------------------------- what is refused


def test_errors_say_what_there_is(tiny: Explainer) -> None:
    with pytest.raises(InputError, match=r"there is no method 'gradcam2'; there are hirescam, gradcam, .*clip-es"):
        method_named("gradcam2")
    with pytest.raises(InputError, match="'legrad' has no target layer"):
        tiny.explain(NOISE, TEXTS[0], layer=-2, method="legrad")


# ------------------------------------------------------------------------------------------------ rectified contrasts


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("objective", ["finer-rectified", "finer-strongest"])
def test_a_contrast_subtracts_its_positive_evidence_alone(
    deep: Explainer, objective: Literal["finer-rectified", "finer-strongest"], name: str
) -> None:
    """gamma times relu(M_contrast), its mean or its largest, of the maps of each text alone; never above the target."""
    together = {"finer-rectified": np.mean, "finer-strongest": np.max}[objective]
    encoding = deep.encode(NOISE)
    alone = encoding.heatmaps(TEXTS, method=name)
    for gamma in (0.0, 0.6, 1.0):
        explanation = encoding.explain(TEXTS[0], TEXTS[1:], method=name, objective=objective, gamma=gamma)
        expected = alone[0] - gamma * together(np.maximum(alone[1:], 0), axis=0)
        bound = 1e-5 * np.abs(alone).max()
        np.testing.assert_allclose(explanation.grid, expected, rtol=0, atol=bound)
        assert (explanation.grid <= alone[0] + bound).all()
        np.testing.assert_allclose(explanation.target_grid, alone[0], rtol=0, atol=bound)
        assert explanation.contrast_grid is not None
        np.testing.assert_allclose(explanation.contrast_grid, together(alone[1:], axis=0), rtol=0, atol=bound)
        batch = encoding.heatmaps(TEXTS[:1], TEXTS[1:], method=name, objective=objective, gamma=gamma)
        np.testing.assert_allclose(batch[0], expected, rtol=0, atol=bound)


def test_where_contrasts_are_nowhere_negative_rectified_is_linear(deep: Explainer) -> None:
    encoding = deep.encode(NOISE)
    alone = encoding.heatmaps(TEXTS)
    linear, rectified = (
        encoding.explain(TEXTS[0], TEXTS[1:2], objective=objective, gamma=0.8).grid
        for objective in ("finer", "finer-rectified")
    )
    positive = alone[1] >= 0
    assert positive.any()
    assert not positive.all()
    bound = 1e-5 * np.abs(alone).max()
    np.testing.assert_allclose(rectified[positive], linear[positive], rtol=0, atol=bound)
    assert (rectified[~positive] < linear[~positive]).all()
