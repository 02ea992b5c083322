"""Another target layer than a family's own: named, checked, averaged, and on the grid of its stage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference.models import NOISE, TEXTS, tiny_explainer
from reference.towers import (
    check_alignment,
    check_same,
    pixels_of,
    small_convnext,
    small_eva,
    small_swin,
    small_vit,
    tower_named,
)
from reference.unchanged import unchanged
from torch import nn

from finercam_clip import InputError, preset
from finercam_clip.explainer import Explainer
from finercam_clip.methods import maps_of
from finercam_clip.options import Layer
from finercam_clip.towers import Tower
from finercam_clip.towers.closed import MeanTail
from finercam_clip.towers.forward import run
from finercam_clip.towers.layers import layer_named

# --------------------------------------------------------------------------------------------------------------- names


def test_a_layer_has_an_index_among_those_that_can_be_asked_or_a_modules_name(tiny: Explainer) -> None:
    tower = tiny.loaded.tower
    blocks = tower.visual.transformer.resblocks
    assert layer_named(tower, 0) is blocks[0].ln_1
    assert layer_named(tower, -1) is blocks[2].ln_1
    assert layer_named(tower, "transformer.resblocks.1.ln_2") is blocks[1].ln_2


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (7, r"no layer 7; layers that can be asked: transformer.resblocks.0.ln_1"),
        ("stages.3", r"there is no layer stages.3"),
        ("transformer.resblocks.1.attn", r"gives no grid of patches; layers that can be asked"),
        ((), r"layer is an index \(-1 is the last\), a name, or several of these, not \(\)"),
    ],
)
def test_a_layer_that_is_not_there_is_an_error_that_lists_those_that_are(
    tiny: Explainer, layer: Layer, message: str
) -> None:
    with unchanged(tiny.loaded.tower.visual), pytest.raises(InputError, match=message):
        tiny.encode(NOISE, layer=layer)


def test_the_layer_is_settled_in_encoding(tiny: Explainer) -> None:
    with pytest.raises(InputError, match="encoded with layer=None: give layer=-2 to encode"):
        tiny.encode(NOISE).explain(TEXTS[0], layer=-2)


@pytest.mark.parametrize("layer", ["transformer.resblocks.2.ln_2", "ln_post", "transformer.resblocks.2"])
def test_a_layer_whose_patches_get_no_gradient_is_an_error(tiny: Explainer, layer: str) -> None:
    """After the last block's attention, with class-token pooling."""
    with pytest.raises(InputError, match=f"no gradient reaches the patches at layer {layer}.*resblocks.2.ln_1"):
        tiny.encode(NOISE, layer=layer)
    averaging = tiny_explainer(pool_type="avg")
    assert np.abs(averaging.explain(NOISE, TEXTS[0], layer=layer).grid).max() > 0


# ---------------------------------------------------------------------------------------------------------------- maps


def test_several_layers_are_averaged(tiny: Explainer) -> None:
    paper = preset("finer-default") | {"contrasts": TEXTS[1:]}  # linear, as the mean of maps is
    first, last, both = (tiny.explain(NOISE, TEXTS[0], layer=layer, **paper).grid for layer in (0, 2, (0, 2)))
    assert np.abs(first - last).max() > 0.01 * np.abs(last).max()
    assert np.abs(both - (first + last) / 2).max() <= 1e-5 * np.abs(both).max()
    by_name = tiny.explain(NOISE, TEXTS[0], layer="transformer.resblocks.0.ln_1", **paper).grid
    assert np.array_equal(by_name, first)


def test_the_last_layer_is_the_default(tiny: Explainer) -> None:
    for pooling in ("model", "mean"):
        own = tiny.explain(NOISE, TEXTS[0], TEXTS[1:], pooling=pooling).grid
        last = tiny.explain(NOISE, TEXTS[0], TEXTS[1:], pooling=pooling, layer=-1).grid
        assert np.abs(own - last).max() <= 1e-4 * np.abs(own).max()


# ------------------------------------------------------------------------------------------------------ earlier stages

STAGES = {-2: 32, -3: 16, -4: 8, -5: 4}  # an index, and how many pixels its cells are apart


@pytest.fixture(scope="module", params=[small_convnext, small_swin])
def staged(request: pytest.FixtureRequest) -> Tower:
    """A network of four stages and a last norm, on images of 128 x 192 pixels."""
    tower: Tower = request.param()
    return tower


@pytest.mark.parametrize("layer", STAGES)
def test_an_earlier_stage_of_a_network_has_a_finer_grid_on_its_place(staged: Tower, layer: int) -> None:
    """Half the stride from stage to stage, each cell where its pixels are."""
    tower, side = staged, STAGES[layer]
    pixels = pixels_of(tower.size)
    with unchanged(tower.visual):
        (forward,) = run(tower, pixels, layer=layer)
        assert forward.stride == (side, side)
        assert forward.grid == (128 // side, 192 // side)
        assert len(forward.tail.activations) == forward.grid[0] * forward.grid[1]
        for cell in ((1, 2), (forward.grid[0] - 2, 1)):
            check_alignment(tower, tower.size, cell, layer, forward.stride)


def test_an_earlier_stage_at_another_size() -> None:
    tower = small_convnext()
    (forward,) = run(tower, pixels_of((96, 160)), layer=-3)
    assert (forward.grid, forward.stride) == ((6, 10), (16, 16))
    check_alignment(tower, (96, 160), (4, 7), -3, forward.stride)


def test_layers_of_different_grids_are_not_averaged() -> None:
    tower = small_convnext()
    with pytest.raises(InputError, match="grids of different sizes"):
        run(tower, pixels_of(tower.size), layer=(-2, -3))
    (forward,) = run(tower, pixels_of(tower.size), layer=(-1, -2))
    assert len(forward.tails) == 2


@pytest.mark.parametrize("name", ["RN50", "MobileCLIP-S1"])
def test_where_fields_are_off_their_blocks_an_earlier_stage_is_refused(name: str) -> None:
    """How far off they are is known of the last stage only: the map would lie beside its place."""
    tower = tower_named(name)
    assert tower.shift != (0.0, 0.0)
    with pytest.raises(InputError, match="where the cells of this layer lie on the image is not known"):
        run(tower, pixels_of(tower.size), layer=-3)


# ------------------------------------------------------------------------------------------------------ the last layer

AVERAGES: dict[str, tuple[Callable[[], Tower], str, str]] = {  # the tower, its pooling, and what is averaged
    "open_clip": (lambda: tiny_explainer(pool_type="avg").loaded.tower, "model", "ln_post"),
    "open_clip, norm after the pool": (
        lambda: tiny_explainer(pool_type="avg", final_ln_after_pool=True).loaded.tower,
        "model",
        "transformer",
    ),
    "open_clip's patches": (lambda: tiny_explainer().loaded.tower, "mean", "ln_post"),
    "timm, norm after the pool": (lambda: small_vit(global_pool="avg", reg_tokens=2), "model", "trunk.norm"),
    "timm, norm before": (lambda: small_vit(global_pool="avg", fc_norm=False), "model", "trunk.norm"),
    "timm's patches": (small_vit, "mean", "trunk.norm"),
    "EVA": (lambda: small_eva(global_pool="avg"), "model", "trunk.norm"),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_the_last_layer_is_what_is_averaged_by_the_graph_as_well(name: str) -> None:
    make, pooling, module = AVERAGES[name]
    tower = make()
    pixels = pixels_of(tower.size, 2)
    with unchanged(tower.visual):
        last = run(tower, pixels, pooling, "last")
    for one, recorded in zip(last, run(tower, pixels, pooling, module), strict=True):
        assert isinstance(one.tail, MeanTail)
        torch.testing.assert_close(one.tail.activations, recorded.tail.activations, rtol=1e-4, atol=1e-5)
        check_same(one.tail, recorded.tail)


def test_the_map_at_the_last_layer_sums_up_to_the_logit() -> None:
    """The class activation map of a linear head on averaged patches (Zhou et al., CVPR 2016, eq. 2)."""
    tower = small_vit(global_pool="avg", fc_norm=False)
    tower.visual.head = nn.Identity()  # a bias stands in no map
    classifier = type(tower)(tower.visual, tower.size, unit_norm=False)
    forward = run(classifier, pixels_of(tower.size), layer="last")[0]
    weights = torch.randn(5, len(forward.embedding), generator=torch.Generator().manual_seed(0))
    for method in ("gradcam", "hirescam"):
        torch.testing.assert_close(maps_of(forward, weights, method).sum(1), weights @ forward.embedding)


def test_the_last_layer_of_a_network_of_feature_maps_is_its_own() -> None:
    for tower in (small_convnext(), small_swin()):
        own, last = (run(tower, pixels_of(tower.size), layer=layer)[0] for layer in (None, "last"))
        check_same(last.tail, own.tail)


@pytest.mark.parametrize("pool", ["token", "map"])
def test_where_no_patches_are_averaged_there_is_no_last_layer(pool: str) -> None:
    tower = small_vit(global_pool=pool)
    by = "attention" if pool == "map" else "token"
    with pytest.raises(InputError, match=f"'last' is for towers that average their patches; this one pools by {by}"):
        run(tower, pixels_of(tower.size), layer="last")


def test_other_pools_than_the_mean_of_the_patches_have_no_last_layer() -> None:
    tower = small_vit(global_pool="avgmax")
    with pytest.raises(InputError, match="does not average its patches alone"):
        run(tower, pixels_of(tower.size), layer="last")
