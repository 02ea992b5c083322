"""The closed form of the last block: against torch's own graph, against finite differences, and when there is one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import AttentionalPooler
from reference.models import NOISE, model_of, tiny_explainer
from reference.towers import check_gradient, check_same, pixels_of, small_eva, small_vit
from reference.unchanged import unchanged
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from finercam_clip import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.methods import METHODS
from finercam_clip.methods.gradients import gradcam, hirescam
from finercam_clip.towers import Tower
from finercam_clip.towers.closed import QueryTail
from finercam_clip.towers.forward import run
from finercam_clip.towers.layers import tails_at
from finercam_clip.towers.tails import AutogradTail, Tail

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "square": {"image_size": 32},
    "two layers": {"layers": 2},
    "norm after pooling": {"final_ln_after_pool": True},
    "layer scale": {"ls_init_value": 0.3},
    "quick gelu": {"quick_gelu": True},
}


def _pixels(explainer: Explainer, count: int = 2) -> Tensor:
    h, w = explainer.loaded.tower.visual.image_size
    return torch.randn(count, 3, h, w, generator=torch.Generator().manual_seed(1))


def _forward_from_patches(visual: Any, pixels: Tensor, change: Callable[[Tensor], Tensor], pooling: str) -> Tensor:
    """f, unit norm, with the patch tokens of the last block's ln_1 changed: the model itself, by a hook."""

    def swap(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], change(output[:, 1:])], 1)

    kept = {}
    handles = [
        visual.transformer.resblocks[-1].ln_1.register_forward_hook(swap),
        visual.transformer.register_forward_hook(lambda m, i, o: kept.update(tokens=o)),
    ]
    try:
        with torch.no_grad():
            f = visual(pixels)
    finally:
        for handle in handles:
            handle.remove()
    if pooling == "mean":
        f = visual.ln_post(kept["tokens"])[:, 1:].mean(1) @ visual.proj
    return F.normalize(f, dim=-1)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_closed_form_is_the_recorded_graph(name: str) -> None:
    explainer = tiny_explainer(**VARIANTS[name])
    pixels = _pixels(explainer)
    for i, tail in enumerate(explainer.loaded.tower.tails(pixels, "model")):
        assert isinstance(tail, QueryTail)
        graph = _graph(explainer, pixels[i : i + 1])
        torch.testing.assert_close(tail.activations, graph.activations, rtol=1e-5, atol=1e-6)
        check_same(tail, graph)


def _graph(explainer: Explainer, pixels: Tensor) -> AutogradTail:
    """The plain autograd tail of the same tower."""
    tower = explainer.loaded.tower
    (tail,) = tower.recorded(tower.cut(pixels, "model"))
    return tail


@pytest.mark.parametrize("name", VARIANTS)
def test_the_closed_form_is_exact_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code with its "float32 whatever the model computes in" made float64: no rounding to hide behind."""
    explainer = tiny_explainer(**VARIANTS[name])
    explainer.loaded.tower.visual.double()
    pixels = _pixels(explainer, 1).double()
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    (closed,) = explainer.loaded.tower.tails(pixels, "model")
    graph = _graph(explainer, pixels)
    assert isinstance(closed, QueryTail)
    assert closed.embedding.dtype == torch.float64
    exact = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(closed.activations, graph.activations, **exact)
    torch.testing.assert_close(closed.embedding, graph.embedding, **exact)
    check_same(closed, graph, 1e-9)
    many = torch.randn(80, len(closed.embedding), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for method in (gradcam, hirescam):  # many directions go forwards through the rest, few go backwards
        one_by_one = torch.cat([method(closed, direction[None]) for direction in many])
        torch.testing.assert_close(method(closed, many), one_by_one, **exact)


@pytest.mark.parametrize("pooling", ["model", "mean"])
@pytest.mark.parametrize("pool_type", ["tok", "avg"])
def test_gradients_agree_with_finite_differences_in_float64(pooling: str, pool_type: str) -> None:
    explainer = tiny_explainer(pool_type=pool_type)
    visual, pixels = explainer.loaded.tower.visual, _pixels(explainer, 1)
    _check_finite_differences(explainer.loaded.tower.tails(pixels, pooling)[0], visual, pixels, pooling)


def _check_finite_differences(tail: Tail, visual: Any, pixels: Tensor, pooling: str) -> None:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(3))
    (gradient,) = tail.gradients(direction[None])
    precise = copy.deepcopy(visual).double()
    rng = np.random.default_rng(0)
    step = 1e-5
    for _ in range(12):
        n, c = int(rng.integers(gradient.shape[0])), int(rng.integers(gradient.shape[1]))
        shift = torch.zeros(gradient.shape, dtype=torch.float64)
        shift[n, c] = step
        up, down = (
            _forward_from_patches(precise, pixels.double(), lambda a, s=sign * shift: a + s, pooling)[0]
            @ direction.double()
            for sign in (1, -1)
        )
        slope = float(up - down) / (2 * step)
        assert abs(slope - float(gradient[n, c])) <= 1e-5 * float(gradient.abs().max()) + 1e-7


def test_gradcam_is_the_slope_of_a_shared_shift_and_hirescam_of_a_gate(tiny: Explainer) -> None:
    """In float64 on the model itself: what the maps of both methods mean."""
    visual, pixels = tiny.loaded.tower.visual, _pixels(tiny, 1)
    tail = tiny.loaded.tower.tails(pixels, "model")[0]
    direction = torch.randn(32, generator=torch.Generator().manual_seed(4))
    precise, step = copy.deepcopy(visual).double(), 1e-5
    activations = tail.activations.double()

    def slope(change: Callable[[Tensor, float], Tensor]) -> float:
        up, down = (
            _forward_from_patches(precise, pixels.double(), lambda a, e=e: change(a, e), "model")[0]
            @ direction.double()
            for e in (step, -step)
        )
        return float(up - down) / (2 * step)

    hires = hirescam(tail, direction[None])[0]
    grad = gradcam(tail, direction[None])[0]
    count = len(activations)
    for n in (0, 7, count - 1):
        gate = torch.zeros(count, 1, dtype=torch.float64)
        gate[n] = 1
        assert slope(lambda a, e, g=gate: a * (1 + e * g)) == pytest.approx(float(hires[n]), abs=1e-5)
        shift = activations[n] / count
        assert slope(lambda a, e, s=shift: a + e * s) == pytest.approx(float(grad[n]), abs=1e-5)


@pytest.mark.parametrize("name", [*VARIANTS, "average pooling"])
def test_embedding_and_activations_are_the_models_own(name: str) -> None:
    """What a plain `encode_image` returns, and what ln_1 of its last block puts out on the way."""
    explainer = tiny_explainer(**VARIANTS.get(name, {"pool_type": "avg"}))
    model, pixels = model_of(explainer), _pixels(explainer)
    kept: list[Tensor] = []
    handle = model.visual.transformer.resblocks[-1].ln_1.register_forward_hook(lambda m, i, o: kept.append(o))
    own = F.normalize(model.encode_image(pixels), dim=-1)
    handle.remove()
    tails = explainer.loaded.tower.tails(pixels, "model")
    for tail, f, tokens in zip(tails, own, kept[0], strict=True):
        torch.testing.assert_close(tail.embedding, f, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(tail.activations, tokens[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*VARIANTS, "average pooling"])
def test_mean_pooling_is_the_projected_mean_patch_token(name: str) -> None:
    """CLIP-ES: the last block's patch tokens, ln_post, mean, projection - written out here block by block."""
    explainer = tiny_explainer(**VARIANTS.get(name, {"pool_type": "avg"}))
    visual, pixels = explainer.loaded.tower.visual, _pixels(explainer)
    x = visual.conv1(pixels).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks:
        a = block.ln_1(x)
        x = x + block.ls_1(block.attn(a, a, a, need_weights=False)[0])
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    patches = x[:, 1:]
    if VARIANTS.get(name, {}).get("final_ln_after_pool"):
        pooled = visual.ln_post(patches.mean(1))
    else:
        pooled = visual.ln_post(patches).mean(1)
    expected = F.normalize(pooled @ visual.proj, dim=-1)
    for tail, f in zip(explainer.loaded.tower.tails(pixels, "mean"), expected, strict=True):
        torch.testing.assert_close(tail.embedding, f, rtol=1e-5, atol=1e-6)


def test_a_cell_of_the_grid_is_that_patch_of_the_image(tiny: Explainer) -> None:
    """Also on a grid that is not square: after the first block, the changed patch's own token has moved most."""
    visual, pixels = tiny.loaded.tower.visual, _pixels(tiny, 1)
    h, w = tiny.loaded.tower.grid((32, 48))
    assert (h, w) == (4, 6)
    kept: list[Tensor] = []
    handle = visual.transformer.resblocks[0].register_forward_hook(lambda m, i, o: kept.append(o))
    for i, j in ((0, 0), (1, 4), (3, 5)):
        changed = pixels.clone()
        changed[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] += 3
        with torch.no_grad():
            visual(pixels), visual(changed)
        moved = (kept[-1] - kept[-2])[0, 1:].norm(dim=1).view(h, w)
        assert divmod(int(moved.argmax()), w) == (i, j)
    handle.remove()


def test_a_cell_of_the_grid_is_that_patch_of_the_picture_end_to_end() -> None:
    """With two blocks the target layer follows the first one: from a picture's pixels to `activations` and `grid`."""
    explainer = tiny_explainer(layers=2)
    picture = np.random.default_rng(3).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    before = explainer.encode(picture)
    assert before.grid == (4, 6)
    for i, j in ((0, 5), (2, 1), (3, 0)):
        changed = picture.copy()
        changed[8 * i : 8 * i + 8, 8 * j : 8 * j + 8] ^= 255
        moved = (
            (explainer.encode(changed).forward.tail.activations - before.forward.tail.activations)
            .norm(dim=1)
            .view(before.grid)
        )
        assert divmod(int(moved.argmax()), before.grid[1]) == (i, j)


@pytest.mark.parametrize("pooling", ["model", "mean"])
@pytest.mark.parametrize("asks_for_gradients", [True, False])
def test_the_model_is_left_as_it_was(pooling: str, asks_for_gradients: bool) -> None:
    explainer = tiny_explainer()
    model = model_of(explainer).requires_grad_(asks_for_gradients)
    with unchanged(model):
        for method in METHODS:
            with suppress(InputError):  # not every method can do every pooling
                explainer.explain(NOISE, "a red bird", ["a blue bird"], pooling=pooling, method=method)


def test_a_model_in_training_answers_without_dropping_out_and_stays_in_training() -> None:
    tower = small_vit(proj_drop_rate=0.5, attn_drop_rate=0.5)
    (expected,) = run(tower, pixels_of(tower.size))
    tower.visual.trunk.blocks.train()
    with unchanged(tower.visual):
        (forward,) = run(tower, pixels_of(tower.size))
    torch.testing.assert_close(forward.embedding, expected.embedding)
    directions = torch.eye(len(forward.embedding))
    for gradient, other in zip(forward.tail.gradients(directions), expected.tail.gradients(directions), strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("pool_type", ["tok", "avg"])
@pytest.mark.parametrize("block", [0, -1])
@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_the_model_is_left_as_it_was_after_an_error(
    pool_type: str, block: int, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = tiny_explainer(pool_type=pool_type)
    model = model_of(explainer).requires_grad_(True)
    model.visual.ln_pre.register_forward_hook(lambda m, i, o: None)  # the user's own hooks stay

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    with unchanged(model), monkeypatch.context() as patch:
        patch.setattr(model.visual.transformer.resblocks[block].mlp.c_fc, "forward", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            explainer.explain(NOISE, "a red bird", ["a blue bird"], pooling=pooling)


# ------------------------------------------------------------------------------------------ when there is a closed form


def _native(change: Callable[[Any], None] = lambda visual: None, **vision: Any) -> Tower:
    """A small ViT of open_clip, changed."""
    tower = tiny_explainer(**vision).loaded.tower
    change(tower.visual)
    return tower


def _with_pool(
    kind: type = AttentionPoolLatent, also: Callable[[Any], None] = lambda trunk: None, **settings: Any
) -> Tower:
    """A small ViT of timm that pools by attention."""

    def change(trunk: Any) -> None:
        trunk.attn_pool = kind(48, num_heads=4, mlp_ratio=2, norm_layer=nn.LayerNorm, **settings)
        also(trunk)

    return small_vit(change, global_pool="map", class_token=False)


def _key_bias(trunk: Any) -> None:
    """Not 0, as a trained one may be; softmax does not see it unless it is turned."""
    for block in trunk.blocks:
        block.attn.k_bias.normal_(generator=torch.Generator().manual_seed(4))


COCA = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4}
CLOSED: dict[str, Callable[[], Tower]] = {
    "the class token of open_clip's ViT": _native,
    "the first query of its attention pool": lambda: _native(**COCA),
    "the class token of timm's ViT": small_vit,
    "the same without biases": lambda: small_vit(qkv_bias=False),
    "the same beside registers": lambda: small_vit(reg_tokens=3),
    "the same with a norm on what it attends to": lambda: small_vit(scale_attn_norm=True),
    "the class token of EVA": small_eva,
    "the same by layers of their own": lambda: small_eva(qkv_fused=False),
    "the same with rotary positions": lambda: small_eva(use_rot_pos_emb=True),
    "the same with rotary positions and a bias of the keys": lambda: small_eva(_key_bias, use_rot_pos_emb=True),
    "the same with rotary positions beside registers": lambda: small_eva(
        use_rot_pos_emb=True, num_reg_tokens=3, qkv_fused=False
    ),
    "the same with rotary positions as DINOv3 has them": lambda: small_eva(
        use_rot_pos_emb=True, rope_type="dinov3", rope_rotate_half=True, use_abs_pos_emb=False
    ),
    "the same with rotary positions of each head and depth": lambda: small_eva(use_rot_pos_emb=True, rope_type="mixed"),
    "the latent of an attention pool": _with_pool,
    "the first of three latents": lambda: _with_pool(latent_len=3),
}


@pytest.mark.parametrize("name", CLOSED)
def test_where_one_query_reads_the_patches_last_there_is_a_closed_form_and_it_is_right(name: str) -> None:
    tower = CLOSED[name]()
    pixels = pixels_of(tower.size)
    (tail,) = tower.tails(pixels)
    assert isinstance(tail, QueryTail)
    check_gradient(tower, tail, pixels)
    check_same(tail, tails_at(tower, pixels, "model", -1)[0])


# What each condition excludes: a tower that breaks it, and it alone.


def _own_key_norm(visual: Any) -> None:
    block = visual.transformer.resblocks[-1]
    block.ln_1_kv = nn.LayerNorm(block.ln_1.normalized_shape)


def _other_block(visual: Any) -> None:
    block = visual.transformer.resblocks[-1]
    block.__class__ = type("Changed", (type(block),), {})


def _own_projections(visual: Any) -> None:
    attention = visual.transformer.resblocks[-1].attn
    parts = attention.in_proj_weight.chunk(3)
    attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight = (nn.Parameter(p.clone()) for p in parts)
    attention.in_proj_weight, attention._qkv_same_embed_dim = None, False


def _key_besides(visual: Any) -> None:
    attention = visual.transformer.resblocks[-1].attn
    width = attention.embed_dim
    generator = torch.Generator().manual_seed(5)
    attention.bias_k = nn.Parameter(torch.randn(1, 1, width, generator=generator))
    attention.bias_v = nn.Parameter(torch.randn(1, 1, width, generator=generator))


def _token_besides(visual: Any) -> None:
    visual.transformer.resblocks[-1].attn.add_zero_attn = True


class _OneQuery(AttentionalPooler):
    """Its one output without the axis of queries."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = super().forward(x)[:, 0]
        return output


def _pool_behind_the_pool(visual: Any) -> None:
    """CoCa as in its paper: a second pool reads all that the first has pooled."""
    visual.pool_type = "tok"
    visual.attn_pool_contrastive.__class__ = _OneQuery


def _gate(trunk: Any) -> None:
    attention = trunk.blocks[-1].attn
    attention.gate = nn.Linear(attention.qkv.in_features, attention.proj.in_features)


class _ReadsBesides(Block):
    """The block's input is read by a path of its own, too."""

    def forward(self, x: Tensor, *args: Any, **settings: Any) -> Tensor:
        output: Tensor = super().forward(x, *args, **settings)
        return output + x.mean(1, keepdim=True)


class _AddsMean(Attention):
    """What the attention gives has the mean of what it reads added."""

    def forward(self, x: Tensor, *args: Any, **settings: Any) -> Tensor:
        output: Tensor = super().forward(x, *args, **settings)
        return output + x.mean(1, keepdim=True)


class _AddsMeanPooled(AttentionPoolLatent):
    """The same of a pool."""

    def forward(self, x: Tensor, *args: Any, **settings: Any) -> Tensor:
        output: Tensor = super().forward(x, *args, **settings)
        return output + x.mean(1)


class _Adapted(nn.Linear):
    """A layer with an adapter (LoRA): it adds to what its own weights say."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.5 * x.mean(-1, keepdim=True)


def _adapter(path: str) -> Callable[[Any], None]:
    """Puts an adapter on a layer."""

    def change(module: Any) -> None:
        module.get_submodule(path).__class__ = _Adapted

    return change


def _as(name: str, kind: type) -> Callable[[Any], None]:
    """Makes the last block, or its attention, one of another class."""

    def change(trunk: Any) -> None:
        module = trunk.blocks[-1] if name == "block" else trunk.blocks[-1].attn
        module.__class__ = kind

    return change


BREAKS: dict[str, Callable[[], Tower]] = {
    "open_clip: average pooling": lambda: _native(pool_type="avg"),
    "open_clip: a block of another class": lambda: _native(_other_block),
    "open_clip: a norm for the keys alone": lambda: _native(_own_key_norm),
    "open_clip: projections by weights of their own": lambda: _native(_own_projections),
    "open_clip: a key besides the tokens'": lambda: _native(_key_besides),
    "open_clip: a token besides": lambda: _native(_token_besides),
    "open_clip: an adapter in the MLP": lambda: _native(_adapter("transformer.resblocks.2.mlp.c_proj")),
    "open_clip: an adapter on the output": lambda: _native(_adapter("transformer.resblocks.2.attn.out_proj")),
    "open_clip's pool: the mean of its queries": lambda: _native(pool_type="avg", **COCA),
    "open_clip's pool: another pool behind it": lambda: _native(
        _pool_behind_the_pool, width=32, **COCA | {"attentional_pool": "cascade"}
    ),
    "timm: average pooling": lambda: small_vit(global_pool="avg"),
    "timm: a block of another class": lambda: small_vit(_as("block", _ReadsBesides)),
    "timm: an attention of another class": lambda: small_vit(_as("attention", _AddsMean)),
    "timm: a norm on the keys": lambda: small_vit(qk_norm=True),
    "timm: a gate": lambda: small_vit(_gate),
    "timm: an adapter on q, k and v": lambda: small_vit(_adapter("blocks.1.attn.qkv")),
    "EVA: an adapter on the keys": lambda: small_eva(_adapter("blocks.1.attn.k_proj"), qkv_fused=False),
    "EVA: a gate": lambda: small_eva(_gate),
    "EVA: a norm on the keys": lambda: small_eva(qk_norm=True),
    "EVA: a norm after the attention": lambda: small_eva(use_post_norm=True),
    "timm's pool: the mean of its latents": lambda: _with_pool(latent_len=3, pool_type="avg"),
    "timm's pool: positions added": lambda: _with_pool(pos_embed="abs", feat_size=24),
    "timm's pool: a norm on the keys": lambda: _with_pool(qk_norm=True),
    "timm's pool: one of another class": lambda: _with_pool(kind=_AddsMeanPooled),
    "timm's pool: an adapter on keys and values": lambda: _with_pool(also=_adapter("attn_pool.kv")),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_tower_that_breaks_a_condition_goes_through_the_graph_and_is_right(name: str) -> None:
    """With the closed form its maps would be wrong without a word."""
    tower = BREAKS[name]()
    pixels = pixels_of(tower.size)
    (tail,) = tower.tails(pixels)
    assert isinstance(tail, AutogradTail)
    check_gradient(tower, tail, pixels)
    check_same(tail, tails_at(tower, pixels, "model", -1)[0])
