"""Self-attention as a tower computes it, and the further passes over an image that methods ask for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference.models import NOISE, maps, model_of, timm_explainer, tiny_explainer
from reference.papers import spelt_out
from reference.towers import hooked, own_embedding, pixels_of, small_convnext, small_eva, small_vit
from reference.unchanged import unchanged
from timm.layers.attention import Attention
from torch import Tensor, nn

from finercam_clip import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.towers import Tower
from finercam_clip.towers.attention import attention_of, mixed
from finercam_clip.towers.forward import ForwardPass, run
from finercam_clip.towers.passes import (
    attentions,
    embed_changed,
    embedded_patches,
    patches_of,
    pooled_tokens,
    pools_of,
    tokens_before,
    tokens_with,
    transformer_of,
)

TOWERS: dict[str, Callable[[], Tower]] = {
    "open_clip": lambda: tiny_explainer().loaded.tower,
    "timm": lambda: small_vit(reg_tokens=2),
    "timm with norms": lambda: small_vit(qk_norm=True, scale_attn_norm=True),
    "EVA": small_eva,
    "EVA, layers of their own": lambda: small_eva(qkv_fused=False),
}


@pytest.fixture(params=TOWERS)
def forward(request: pytest.FixtureRequest) -> ForwardPass:
    """One image seen by a small transformer."""
    tower = TOWERS[request.param]()
    return run(tower, pixels_of(tower.size))[0]


def _direction(forward: ForwardPass) -> Tensor:
    return torch.randn(len(forward.embedding), generator=torch.Generator().manual_seed(0))


# ----------------------------------------------------------------------------------------------------------- attention


def test_weights_times_values_are_what_the_module_gives(forward: ForwardPass) -> None:
    blocks, recorded = transformer_of(forward).blocks(), attentions(forward)
    assert len(recorded.modules) == len(blocks)
    for i, (module, weights) in enumerate(zip(recorded.modules, recorded.weights, strict=True)):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
        output = mixed(module, weights, recorded.projected(i)[2])
        torch.testing.assert_close(output, recorded.outputs[i][0], rtol=1e-4, atol=1e-5)


def test_queries_and_keys_are_those_that_the_weights_come_from(forward: ForwardPass) -> None:
    recorded = attentions(forward)
    for i, weights in enumerate(recorded.weights):
        query, key, _ = recorded.projected(i)
        torch.testing.assert_close((query @ key.mT * key.shape[-1] ** -0.5).softmax(-1), weights, rtol=1e-4, atol=1e-6)


def test_gradients_at_the_weights_are_finite_differences_of_the_score() -> None:
    """timm's own weights are moved, in the first of three blocks."""
    explainer = timm_explainer()
    forward = explainer.encode(NOISE).forward
    recorded = attentions(forward, graph=True)
    for weights in recorded.weights:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    d, module = _direction(forward), explainer.loaded.tower.visual.trunk.blocks[0].attn
    slopes = recorded.weight_gradients(d)
    move = torch.randn(recorded.weights[0].shape, generator=torch.Generator().manual_seed(1))

    def moved(step: float) -> float:
        module.fused_attn = False
        try:
            with torch.no_grad(), hooked(module.attn_drop, lambda output: output + step * move):
                return float(own_embedding(forward.tower.visual, forward.pixels)[0] @ d)
        finally:
            module.fused_attn = True

    difference = (moved(1e-3) - moved(-1e-3)) / 2e-3
    assert difference == pytest.approx(float((slopes[0] * move).sum()), rel=1e-2)


def test_gradients_at_the_weights_are_those_of_attention_written_out(tiny: Explainer) -> None:
    forward = tiny.encode(NOISE).forward
    blocks, d = spelt_out(tiny, forward.pixels), _direction(forward)
    recorded = attentions(forward, graph=True)
    visual = tiny.loaded.tower.visual
    score = F.normalize(visual.ln_post(blocks[-1].after)[0] @ visual.proj, dim=-1) @ d
    of_weights = torch.autograd.grad(score, [block.attention for block in blocks], retain_graph=True)
    of_heads = torch.autograd.grad(score, [block.heads for block in blocks])
    for gradients, expected in ((recorded.weight_gradients(d), of_weights), (recorded.head_gradients(d), of_heads)):
        for gradient, slope in zip(gradients, expected, strict=True):
            assert float((gradient - slope).abs().max()) <= 1e-4 * float(slope.abs().max())


class _AddsMean(Attention):
    def forward(self, x: Tensor, *args: Any, **settings: Any) -> Tensor:
        output: Tensor = super().forward(x, *args, **settings)
        return output + x.mean(1, keepdim=True)


def _adds_mean(trunk: Any) -> None:
    trunk.blocks[-1].attn.__class__ = _AddsMean


def test_attention_that_does_more_than_weigh_values_is_an_error() -> None:
    """Its weights would not be what the output comes from."""
    tower = small_vit(_adds_mean)
    (forward,) = run(tower, pixels_of(tower.size))
    with unchanged(tower.visual), pytest.raises(InputError, match="_AddsMean does more than weigh values"):
        attentions(forward)


def test_attention_whose_weights_cannot_be_had_is_an_error_that_names_it() -> None:
    with pytest.raises(InputError, match="attention weights of Linear cannot be had"):
        attention_of(nn.Linear(2, 2))


# -------------------------------------------------------------------------------------------------------------- passes


def test_a_part_of_the_blocks_is_that_part_of_all(forward: ForwardPass) -> None:
    every, last, first = (
        attentions(forward, count, end=end, graph=True) for count, end in ((None, None), (1, None), (1, 0))
    )
    torch.testing.assert_close(last.weights[0], every.weights[-1])
    torch.testing.assert_close(first.weights[0], every.weights[0])
    torch.testing.assert_close(every.embedding, last.embedding)
    torch.testing.assert_close(every.embedding.detach(), forward.embedding, rtol=1e-4, atol=1e-5)
    tower = transformer_of(forward)
    pooled = tower.scored(tower.finish(tokens_before(forward, tower.blocks()[1])[None], "model"))[0]
    torch.testing.assert_close(first.embedding.detach(), pooled, rtol=1e-4, atol=1e-5)


def test_tokens_with_a_blocks_own_attention_are_its_own(forward: ForwardPass) -> None:
    tower, outputs = transformer_of(forward), list[Tensor]()
    with torch.no_grad(), hooked(tower.blocks()[-1], lambda output: outputs.append(output)):
        tower.visual(forward.pixels)
    attended = attentions(forward, 1).outputs[-1][0]
    torch.testing.assert_close(tokens_with(forward, attended), outputs[0][0], rtol=1e-4, atol=1e-5)
    moved = tokens_with(forward, attended + 1)
    assert float((moved - outputs[0][0]).abs().max()) > 0.01


def test_patches_come_after_the_other_tokens(forward: ForwardPass) -> None:
    """A class token, and registers where there are some."""
    tokens = attentions(forward).weights[0].shape[-1]
    values = torch.arange(float(tokens))
    assert patches_of(forward, values).tolist() == list(range(tokens - 24, tokens))


def test_what_is_pooled_is_the_class_token_or_every_patch_alike() -> None:
    tower = small_vit(reg_tokens=2)
    of_token, of_mean = (run(tower, pixels_of(tower.size), pooling)[0] for pooling in ("model", "mean"))
    assert (pools_of(of_token), pools_of(of_mean)) == ("token", "mean")
    weights = torch.rand(4, 27, 27)
    assert pooled_tokens(of_token, weights).tolist() == [1] + 26 * [0]
    torch.testing.assert_close(pooled_tokens(of_mean, weights), torch.tensor([0.0] * 3 + 24 * [1 / 24]))
    pooled_by_attention = small_vit(global_pool="map")
    with pytest.raises(InputError, match="this one pools by attention"):
        pooled_tokens(run(pooled_by_attention, pixels_of(tower.size))[0], weights)


@torch.no_grad()
def test_every_patch_by_itself_is_embedded_as_the_class_token_is(forward: ForwardPass) -> None:
    """If all tokens were the class token's, every patch would have the image's embedding."""
    tower, outputs = transformer_of(forward), list[Tensor]()
    with hooked(tower.blocks()[-1], lambda output: outputs.append(output)):
        tower.visual(forward.pixels)
    token = outputs[0][0, :1].expand(outputs[0].shape[1], -1)
    embeddings = embedded_patches(forward, token)
    torch.testing.assert_close(embeddings, forward.embedding.expand(24, -1), rtol=1e-4, atol=1e-5)


def test_changed_images_are_embedded_by_the_models_own_pass() -> None:
    """For any tower, at any size: without a change it is the image's own embedding."""
    for tower in (small_vit(), small_convnext()):
        size = (4 * tower.stride[0], 6 * tower.stride[1])
        (forward,) = run(tower, pixels_of(size))
        (same,) = embed_changed(forward, forward.pixels)
        torch.testing.assert_close(same, forward.embedding, rtol=1e-4, atol=1e-5)


def test_a_tower_without_attention_is_an_error_that_names_methods_which_need_none() -> None:
    tower = small_convnext()
    with pytest.raises(InputError, match=r"this method is for transformers; .* family timm-maps: use hirescam"):
        attentions(run(tower, pixels_of(tower.size))[0])


# ------------------------------------------------------------------------------------------------------ what it costs


@contextmanager
def _counted(explainer: Explainer) -> Iterator[list[int]]:
    """Counts how often the image tower is run, in the one number of a list."""
    count = [0]

    def note(*_: Any) -> None:
        count[0] += 1

    handle = model_of(explainer).visual.register_forward_pre_hook(note)
    try:
        yield count
    finally:
        handle.remove()


PASSES = {"rollout": 1, "legrad": 2, "chefer": 1}  # per image, however many questions


@pytest.mark.parametrize("name", PASSES)
def test_32_questions_cost_the_passes_of_one_and_give_the_maps_of_each(deep: Explainer, name: str) -> None:
    directions = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    encoding = deep.encode(NOISE)
    with _counted(deep) as passes:
        many = maps(encoding, directions, name)
        assert passes == [PASSES[name]]
        assert np.array_equal(maps(encoding, directions[:3], name), many[:3])
        assert passes == [PASSES[name]]  # nor do further questions cost any
    each = [maps(deep.encode(NOISE), d[None], name)[0] for d in directions]
    assert np.array_equal(many, np.stack(each))


@pytest.mark.parametrize("name", PASSES)
def test_another_image_in_between_changes_nothing(deep: Explainer, name: str) -> None:
    """What is kept is of the last image only; it is never taken for another's."""
    directions = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    images = [NOISE, NOISE[::-1].copy()]
    alone = [maps(deep.encode(image), directions, name) for image in images]
    assert not np.allclose(*alone)
    encodings = deep.encode(images)
    for i in (0, 1, 0, 0, 1):
        grids = maps(encodings[i], directions, name)
        assert np.abs(grids - alone[i]).max() <= 1e-5 * np.abs(alone[i]).max()


def test_passes_of_one_image_at_most_are_kept(deep: Explainer) -> None:
    """All attention of a large tower takes hundreds of MB."""
    directions = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    encodings = deep.encode([NOISE, NOISE[::-1].copy(), NOISE[:, ::-1].copy()])
    lately, before = deep.loaded.tower.lately, list[weakref.ref[Any]]()
    for encoding in encodings:
        for name in PASSES:
            maps(encoding, directions, name)
            assert {forward for forward, _ in lately} <= {encoding.forward}
        gc.collect()
        assert not any(reference() for reference in before)  # the memory of those of the other images is free
        before = [weakref.ref(recorded) for recorded in lately.values()]
        assert len(before) >= 2
