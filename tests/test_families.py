"""Every image tower that open_clip can build, at random weights: the right grid, gradient and patch."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from reference.towers import (
    build,
    check_alignment,
    check_gradient,
    check_same,
    direction_for,
    hooked,
    own_embedding,
    pixels_of,
    small_eva,
    tower_named,
    vision_config,
)
from reference.unchanged import unchanged
from torch import Tensor, nn

from finercam_clip import InputError
from finercam_clip.methods.gradients import gradcam, hirescam
from finercam_clip.towers import FAMILIES, Tower, Transformer, family_of_config, tower_of
from finercam_clip.towers.attention import attentions_of
from finercam_clip.towers.closed import QueryTail
from finercam_clip.towers.layers import tails_at

REPRESENTATIVES = (
    "ViT-S-32",  # class token
    "ViT-S-32-alt",
    "ViT-L-14-CLIPA",  # average pooling, no ln_pre
    "coca_ViT-B-32",  # attention pooling
    "EVA02-B-16",  # rotary positions
    "MobileCLIP-B",  # convolutional stem
    "MobileCLIP2-L-14",
    "ViT-B-16-SigLIP2",  # attention pooling, no class token
    "PE-Core-T-16-384",  # attention pooling, class token and rotary positions
    "ViTamin-S",  # hybrid
    "vit_medium_patch16_gap_256",
    "vit_relpos_medium_patch16_cls_224",
    "convnext_tiny",
    "MobileCLIP-S1",
    "MobileCLIP2-S3",
    "swin_base_patch4_window7_224",
    "RN50",
)
OTHERS = tuple(name for name in open_clip.list_models() if name not in REPRESENTATIVES)
# EVA02-E's blocks, which normalise after attention, in a tower of another width: its own is among the slow ones.
LATE_NORM = "small EVA, norm after attention"
EVERY = [*REPRESENTATIVES, LATE_NORM, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
ONE_SIZE = ("VisionTransformerRelPos", "SwinTransformer")


@pytest.fixture(scope="module", params=EVERY)
def tower(request: pytest.FixtureRequest) -> Tower:
    return small_eva(use_post_norm=True) if request.param == LATE_NORM else tower_named(request.param)


@torch.no_grad()
def test_heatmap_of_the_right_grid_and_the_models_own_embedding(tower: Tower) -> None:
    with unchanged(tower.visual):
        pixels = pixels_of(tower.size, 2)
        tails = tower.tails(pixels)
        h, w = tower.grid(tower.size)
        outputs: list[Tensor] = []
        with hooked(tower.layers()[-1], lambda output: outputs.append(output)):
            own = own_embedding(tower.visual, pixels)
        expected = tower.patches(outputs[0])
        for i, tail in enumerate(tails):
            assert tail.activations.shape == (h * w, expected.shape[-1])
            torch.testing.assert_close(tail.activations, expected[i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(tail.embedding, own[i], rtol=1e-4, atol=1e-5)
            for method in (gradcam, hirescam):
                maps = method(tail, direction_for(tail))
                assert maps.shape == (1, h * w)
                assert bool(torch.isfinite(maps).all())
                assert float(maps.abs().max()) > 0


def test_attention_is_the_towers_own(tower: Tower) -> None:
    """Rows of weights sum to 1, weights times values give the module's output (`attentions_of` checks that), and the
    embedding at the end is the tower's; with gradients at every block."""
    if not isinstance(tower, Transformer):
        return
    pixels, blocks = pixels_of(tower.size), tower.blocks()
    with unchanged(tower.visual):
        attentions = attentions_of(
            blocks,
            [tower.attention(block) for block in blocks],
            lambda: tower.visual(pixels),
            lambda tokens: tower.scored(tower.finish(tokens, "model")),
            graph=True,
        )
        with torch.no_grad():
            own = own_embedding(tower.visual, pixels)[0]
        torch.testing.assert_close(attentions.embedding.detach(), own, rtol=1e-3, atol=1e-4)
        for weights in attentions.weights:
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
        direction = torch.randn(len(attentions.embedding), generator=torch.Generator().manual_seed(2))
        for slope, weights in zip(attentions.weight_gradients(direction), attentions.weights, strict=True):
            assert slope.shape == weights.shape
            assert bool(torch.isfinite(slope).all())
            assert float(slope.abs().max()) > 0


def test_the_fast_path_is_the_plain_one(tower: Tower) -> None:
    """Closed form or graph of the last block only: gradients and maps are those of autograd through the whole tower."""
    _assert_fast_is_plain(tower, "model")


@pytest.mark.parametrize("pooling", ["token", "mean"])
@pytest.mark.parametrize("name", ["ViT-S-32", "EVA02-B-16", "MobileCLIP-B"])
def test_so_it_is_with_another_pooling(name: str, pooling: str) -> None:
    _assert_fast_is_plain(tower_named(name), pooling)


def _assert_fast_is_plain(tower: Tower, pooling: str) -> None:
    pixels = pixels_of(tower.size)
    (fast,) = tower.tails(pixels, pooling)
    (plain,) = tails_at(tower, pixels, pooling, -1)
    check_same(fast, plain)


@pytest.mark.parametrize(
    "name", ["ViT-S-32", "coca_ViT-B-32", "ViT-B-16-SigLIP2", "PE-Core-T-16-384", "RN50", "MobileCLIP-B"]
)
def test_towers_that_one_query_reads_have_the_closed_form(name: str) -> None:
    """A thousand questions must not take a thousand passes back."""
    tower = tower_named(name)
    (tail,) = tower.tails(pixels_of(tower.size))
    assert isinstance(tail, QueryTail)


def test_gradient_agrees_with_finite_differences(tower: Tower) -> None:
    pixels = pixels_of(tower.size)
    (tail,) = tower.tails(pixels)
    check_gradient(tower, tail, pixels)


def test_a_cell_of_the_grid_is_that_patch_of_the_image_square_or_not(tower: Tower) -> None:
    own = tower.size
    h = tower.grid(own)[0]
    for cell in ((1, 2), (h - 2, 1)):
        check_alignment(tower, own, cell)
    height, width = tower.stride
    other = (4 * height, 6 * width)
    with unchanged(tower.visual):
        if hasattr(tower.visual, "trunk") and type(tower.visual.trunk).__name__ in ONE_SIZE:
            with pytest.raises(InputError, match="only"), tower.ready(other):
                pass
            return
        for cell in ((1, 4), (2, 1)):
            check_alignment(tower, other, cell)
        with torch.no_grad(), tower.ready(other):
            pixels = pixels_of(other)
            (tail,) = tower.tails(pixels)
            assert tail.activations.shape[0] == 24
            torch.testing.assert_close(tail.embedding, own_embedding(tower.visual, pixels)[0], rtol=1e-4, atol=1e-5)
        # Another size in between leaves no trace: the model is the same, and so is its answer.
        with torch.no_grad():
            pixels = pixels_of(own)
            torch.testing.assert_close(
                tower.tails(pixels)[0].embedding, own_embedding(tower.visual, pixels)[0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["PE-Core-T-16-384", "convnext_tiny", "RN50", "ViT-S-32-alt", "MobileCLIP-B"])
@torch.no_grad()
def test_half_precision_gives_finite_maps_at_a_logit_scale_of_100(name: str, dtype: torch.dtype) -> None:
    tower = tower_named(name)
    pixels = pixels_of(tower.size)
    exact = own_embedding(tower.visual, pixels)[0]
    tower.visual.to(dtype)
    (tail,) = tower.tails(pixels.to(dtype))
    assert float(exact @ tail.embedding) > 0.99
    for method in (gradcam, hirescam):
        maps = method(tail, 100 * F.normalize(direction_for(tail), dim=-1))
        assert maps.dtype == torch.float32
        assert bool(torch.isfinite(maps).all())
        assert float(maps.abs().max()) > 0


def test_a_tower_of_no_family_is_an_error_that_names_them() -> None:
    with pytest.raises(InputError, match=r"type Linear .*supported families: vit, timm-vit"):
        tower_of(nn.Linear(2, 2), (2, 2))
    assert family_of_config({"timm_model_name": "resnet18"}) is None


@pytest.mark.parametrize("name", open_clip.list_models())
def test_the_table_knows_every_config_without_building_it(name: str) -> None:
    assert family_of_config(vision_config(name)) is not None


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_what_the_config_says_is_what_is_built(name: str) -> None:
    visual = build(name)
    matching = [family.family.name for family in FAMILIES if family.matches(visual)]
    assert matching == [family_of_config(vision_config(name))]
