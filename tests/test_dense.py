"""Methods that give each patch an embedding of its own, where the tower pools by attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference.hub import hub_model
from reference.models import NOISE, RED, tiny_explainer
from reference.towers import hooked, pixels_of, small_vit, tower_named
from reference.unchanged import unchanged
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn

import finercam_clip
from finercam_clip import InputError
from finercam_clip.methods import maps_of
from finercam_clip.methods.dense import maskclip
from finercam_clip.towers import Tower
from finercam_clip.towers.forward import ForwardPass, run
from finercam_clip.towers.passes import embedded_patches, patches_of, tokens_after, transformer_of

DENSE = ("maskclip", "sclip", "clip-surgery")


def _pooled_by_timm(heads: int = 4, **settings: Any) -> Tower:
    """A small ViT of timm whose attention pool ends in an MLP."""

    def change(trunk: Any) -> None:
        trunk.attn_pool = AttentionPoolLatent(48, num_heads=heads, mlp_ratio=2, norm_layer=nn.LayerNorm)
        trunk.pool_include_prefix = settings.get("reads_class_token", True)

    return small_vit(change, global_pool="map", class_token="reads_class_token" in settings)


def _coca(heads: int = 4) -> Tower:
    return tiny_explainer(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=heads).loaded.tower


TOWERS: dict[str, Callable[[], Tower]] = {
    "timm's pool": _pooled_by_timm,
    "timm's pool, a class token among what it reads": lambda: _pooled_by_timm(reads_class_token=True),
    "timm's pool, which does not read the class token": lambda: _pooled_by_timm(reads_class_token=False),
    "one of CoCa's queries": _coca,
}


@pytest.fixture(params=TOWERS)
def forward(request: pytest.FixtureRequest) -> ForwardPass:
    """One image seen by a small transformer with an attention pool."""
    tower = TOWERS[request.param]()
    return run(tower, pixels_of(tower.size))[0]


@torch.no_grad()
def test_a_patch_by_itself_is_embedded_as_an_image_of_nothing_else(forward: ForwardPass) -> None:
    """If all tokens were one patch's, whatever its attention, the pool would give that patch's embedding."""
    tower = transformer_of(forward)
    tokens = tokens_after(forward)
    for i in (0, 7, 23):
        patch = patches_of(forward, tokens.T).T[i]
        same = patch.expand(1, len(tokens), -1)
        expected = tower.scored(tower.finish(same, "model"))[0]
        torch.testing.assert_close(embedded_patches(forward, tokens)[i], expected, rtol=1e-4, atol=1e-5)
    with unchanged(tower.visual):
        embedded_patches(forward, tokens)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["timm", "CoCa"])
def test_weighed_as_the_pool_weighs_the_patches_features_are_the_images(kind: str) -> None:
    """Exactly so where the way from values to the embedding is linear: one head, no MLP, no norm behind the pool."""
    tower: Any = _pooled_by_timm(heads=1) if kind == "timm" else _coca(heads=1)
    pixels = pixels_of(tower.size)
    weights: list[Tensor] = []
    if kind == "timm":
        pool = tower.trunk.attn_pool
        pool.mlp, pool.fused_attn = None, False
        pool.q.weight.mul_(20)  # attention that is far from even
        original = torch.Tensor.softmax
        handle = pool.kv.register_forward_hook(
            lambda module, inputs, output: weights.append(
                original(pool.q(pool.latent)[0] @ output[0].chunk(2, -1)[0].T * pool.scale, -1)[0]
            )
        )
    else:
        pool = tower.visual.attn_pool
        tower.visual.ln_post = nn.Identity()
        pool.attn.q_proj_weight.mul_(20)
        handle = pool.attn.register_forward_hook(lambda _, inputs, output: weights.append(output[1][0][0]))
        pool.attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, kwargs | {"need_weights": True}), with_kwargs=True
        )
    with tower.ready(tower.size):
        features = tower.features(pixels)[0]
        handle.remove()
        forward = run(tower, pixels)[0]
        alone = tower.project(tokens_after(forward))
    assert float(weights[0].max()) > 2 / len(alone)
    torch.testing.assert_close(weights[0] @ alone, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", DENSE)
def test_maps_are_linear_in_the_direction_and_not_nothing(forward: ForwardPass, method: str) -> None:
    one, two = torch.randn(2, len(forward.embedding), generator=torch.Generator().manual_seed(0))
    maps = maps_of(forward, torch.stack([one, two, 0.3 * one - two]), method)
    torch.testing.assert_close(maps[2], 0.3 * maps[0] - maps[1], rtol=1e-4, atol=1e-5)
    assert float(maps.std(1).min()) > 1e-3


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "PE-Core-T-16-384", "coca_ViT-B-32"])
def test_towers_as_they_are_trained(name: str) -> None:
    """A square of another picture changes the patches that it covers most."""
    tower = tower_named(name)
    height, width = tower.stride
    pixels = pixels_of(tower.size)
    changed = pixels.clone()
    changed[:, :, height : 3 * height, 2 * width : 4 * width] += 3
    (before,), (after,) = run(tower, pixels), run(tower, changed)
    directions = torch.randn(8, len(before.embedding), generator=torch.Generator().manual_seed(0))
    for method in DENSE:
        moved = (maps_of(after, directions, method) - maps_of(before, directions, method)).norm(dim=0)
        inside = torch.zeros(before.grid, dtype=torch.bool)
        inside[1:3, 2:4] = True
        moved = moved.view(before.grid)
        assert float(moved[inside].mean()) > 2 * float(moved[~inside].mean()), method


def test_models_of_hugging_face(processors: dict[str, Any]) -> None:
    explainer = finercam_clip.wrap(hub_model("siglip"), processors["siglip"])
    encoding = explainer.encode(NOISE)
    forward = encoding.forward
    tokens: list[Tensor] = []
    tower = transformer_of(forward)
    with hooked(tower.blocks()[-1], lambda output: tokens.append(tower.tokens_of(output)[0])), torch.no_grad():
        tower.visual(forward.pixels)
        patch = tower.scored(tower.finish(tokens[0][4].expand(1, 9, -1), "model"))[0]
    direction = explainer.embed([RED])
    expected = float(patch @ direction[0])
    assert float(maskclip(forward, direction)[0, 4]) == pytest.approx(expected, abs=1e-5)


def test_a_pool_that_adds_positions_reads_no_token_by_itself() -> None:
    def change(trunk: Any) -> None:
        trunk.attn_pool = AttentionPoolLatent(48, num_heads=4, pos_embed="abs", feat_size=24)

    tower = small_vit(change, global_pool="map", class_token=False)
    forward = run(tower, pixels_of(tower.size))[0]
    with pytest.raises(InputError, match="adds positions"):
        maps_of(forward, torch.ones(1, 48), "maskclip")
