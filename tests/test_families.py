"""Every image tower that open_clip can build, at random weights: the right grid, the right gradient, the right patch.

Depth is reduced, never the family: two blocks (or one a stage) of the true width, patches, tokens, pooling and head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.model import _build_vision_tower
from torch import Tensor, nn

from finercam_clip import InputError
from finercam_clip.attention import attentions_of
from finercam_clip.families import FAMILIES, Family, family_of, family_of_config, tails_at
from finercam_clip.methods.gradients import gradcam, hirescam
from finercam_clip.tails import QueryTail, Tail

REPRESENTATIVES = (
    "ViT-S-32",  # class token
    "ViT-S-32-alt",
    "ViT-L-14-CLIPA",  # average pooling, no ln_pre
    "coca_ViT-B-32",  # attention pooling
    "EVA02-B-16",  # rotary positions
    "EVA02-E-14",  # norm after attention
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
EVERY = [*REPRESENTATIVES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
ONE_SIZE = ("VisionTransformerRelPos", "SwinTransformer")


def _config(name: str) -> dict[str, Any]:
    return dict(open_clip.get_model_config(name)["vision_cfg"])


def build(name: str) -> Any:
    """The image tower of a config at random weights, shallow."""
    config = open_clip.get_model_config(name)
    vision = dict(config["vision_cfg"])
    if "timm_model_name" not in vision:
        vision["layers"] = [1, 1, 1, 1] if isinstance(vision.get("layers"), list) else 2
    original = timm.create_model

    def shallow(model_name: str, **kwargs: Any) -> nn.Module:
        family = family_of_config({"timm_model_name": model_name})
        if family == "timm-vit":
            kwargs["depth"] = 2
        elif "convnext" in model_name:
            kwargs["depths"] = (1, 1, 1, 1)
        elif "fastvit" in model_name:
            with torch.device("meta"):
                kwargs["layers"] = (1,) * len(original(model_name).stages)
        elif "swin" in model_name:
            kwargs["depths"] = (1, 1, 1, 1)
        return original(model_name, **kwargs)

    torch.manual_seed(0)
    timm.create_model = shallow
    try:
        visual = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    finally:
        timm.create_model = original
    return visual.eval().requires_grad_(False)


def _size(visual: Any, family: Family) -> tuple[int, int]:
    size = visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _pixels(size: tuple[int, int], count: int = 1) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def _direction(tail: Tail) -> Tensor:
    return torch.randn(1, len(tail.embedding), generator=torch.Generator().manual_seed(2))


@contextmanager
def _hooked(layer: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    handle = layer.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _embedding(visual: Any, pixels: Tensor) -> Tensor:
    output = visual(pixels)
    return F.normalize(output[0] if isinstance(output, tuple) else output, dim=-1)


@pytest.fixture(scope="module", params=EVERY)
def tower(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@torch.no_grad()
def test_heatmap_of_the_right_grid_and_the_models_own_embedding(tower: Any) -> None:
    family = family_of(tower)
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    size = _size(tower, family)
    pixels = _pixels(size, 2)
    tails = family.encode(tower, pixels, "model")
    h, w = family.grid(tower, size)
    with _hooked(family.target_layer(tower), lambda output: kept.append(output)):
        kept: list[Tensor] = []
        own = _embedding(tower, pixels)
    for i, tail in enumerate(tails):
        assert tail.activations.shape == (h * w, family.patches(tower, kept[0]).shape[-1])
        torch.testing.assert_close(tail.activations, family.patches(tower, kept[0])[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tail.embedding, own[i], rtol=1e-4, atol=1e-5)
        for method in (gradcam, hirescam):
            maps = method(tail, _direction(tail))
            assert maps.shape == (1, h * w)
            assert bool(torch.isfinite(maps).all())
            assert float(maps.abs().max()) > 0
    after = tower.state_dict()
    assert all(bool((after[name] == tensor).all()) for name, tensor in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tower.modules())


def test_attention_is_the_towers_own(tower: Any) -> None:
    """Rows of weights sum to 1, weights times values give the module's output (`attentions_of` checks that), and the
    embedding at the end is the tower's; with gradients at every block."""
    family = family_of(tower)
    if family.tokens is None:
        return
    tokens, pixels = family.tokens, _pixels(_size(tower, family))
    found = attentions_of(
        tokens.blocks(tower), lambda: tower(pixels), lambda x: tokens.finish(tower, x, "model"), graph=True
    )
    with torch.no_grad():
        embedding = F.normalize(found.embedding.detach(), dim=-1)  # `finish` ends before the norm
        torch.testing.assert_close(embedding, _embedding(tower, pixels)[0], rtol=1e-3, atol=1e-4)
    for weights in found.weights:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    direction = torch.randn(len(found.embedding), generator=torch.Generator().manual_seed(2))
    for slope, weights in zip(found.weight_gradients(direction), found.weights, strict=True):
        assert slope.shape == weights.shape
        assert bool(torch.isfinite(slope).all())
        assert float(slope.abs().max()) > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tower.modules())


def test_the_fast_path_is_the_plain_one(tower: Any) -> None:
    """Closed form or graph of the last block only: gradients and maps are those of autograd through the whole tower."""
    _assert_fast_is_plain(tower, "model")


@pytest.mark.parametrize("pooling", ["token", "mean"])
@pytest.mark.parametrize("name", ["ViT-S-32", "EVA02-B-16", "MobileCLIP-B"])
def test_so_it_is_with_another_pooling(name: str, pooling: str) -> None:
    _assert_fast_is_plain(build(name), pooling)


def _assert_fast_is_plain(tower: Any, pooling: str) -> None:
    family = family_of(tower)
    pixels = _pixels(_size(tower, family))
    (fast,) = family.encode(tower, pixels, pooling)
    (plain,) = tails_at(family, tower, pixels, pooling, family.target_layer(tower))
    directions = torch.randn(3, len(fast.embedding), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(fast.embedding, plain.embedding, rtol=1e-4, atol=1e-5)
    for one, two in zip(fast.gradients(directions), plain.gradients(directions), strict=True):
        assert float((one - two).abs().max()) <= 1e-5 * float(two.abs().max())
    for method in (gradcam, hirescam):
        one, two = method(fast, directions), method(plain, directions)
        assert float((one - two).abs().max()) <= 1e-5 * float(two.abs().max())


@pytest.mark.parametrize(
    "name", ["ViT-S-32", "coca_ViT-B-32", "ViT-B-16-SigLIP2", "PE-Core-T-16-384", "RN50", "MobileCLIP-B"]
)
def test_towers_that_one_query_reads_have_the_closed_form(name: str) -> None:
    """A thousand questions must not take a thousand passes back."""
    tower = build(name)
    family = family_of(tower)
    (tail,) = family.encode(tower, _pixels(_size(tower, family)), "model")
    assert isinstance(tail, QueryTail)


@torch.no_grad()
def test_gradient_agrees_with_finite_differences(tower: Any) -> None:
    """On A itself, in float64, on a copy that this package has no part in but for where A is."""
    family = family_of(tower)
    pixels = _pixels(_size(tower, family))
    (tail,) = family.encode(tower, pixels, "model")
    direction = _direction(tail)
    (gradient,) = tail.gradients(direction)
    precise = copy.deepcopy(tower).double()
    rng, step = np.random.default_rng(0), 1e-5
    largest = int(gradient.abs().argmax())
    coordinates = [divmod(largest, gradient.shape[1])]
    coordinates += [(int(rng.integers(gradient.shape[0])), int(rng.integers(gradient.shape[1]))) for _ in range(4)]
    for n, c in coordinates:
        values = []
        for shift in (step, -step):

            def shifted(output: Tensor, shift: float = shift, n: int = n, c: int = c) -> Tensor:
                output = output.clone()
                family.patches(precise, output)[0, n, c] += shift
                return output

            with _hooked(family.target_layer(precise), shifted):
                values.append(float(_embedding(precise, pixels.double())[0] @ direction[0].double()))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient[n, c]), abs=2e-4 * float(gradient.abs().max()) + 1e-8)


@torch.no_grad()
def _change(visual: Any, family: Family, size: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """How much each cell of A changes, [h, w], on average, when the pixels of one cell of the image change."""
    height, width = family.stride(visual)
    (i, j), (h, w) = cell, family.grid(visual, size)
    pixels = _pixels(size).expand(8, -1, -1, -1).clone()
    block = pixels[1:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
    block += 2 * torch.randn(block.shape, generator=torch.Generator().manual_seed(3))
    kept: list[Tensor] = []
    with family.sized(visual, size), _hooked(family.target_layer(visual), lambda output: kept.append(output)):
        visual(pixels)
    activations = family.patches(visual, kept[0])
    return (activations[1:] - activations[:1]).square().sum(2).mean(0).reshape(h, w)


def _check_alignment(visual: Any, family: Family, size: tuple[int, int], cell: tuple[int, int]) -> None:
    """A's cell (i, j) is the image's: it changes most, or, where receptive fields are shifted, its share of the change
    is what the shift says."""
    change = _change(visual, family, size, cell)
    most = divmod(int(change.argmax()), change.shape[1])
    for axis, (i, shift, stride) in enumerate(zip(cell, family.shift(visual), family.stride(visual), strict=True)):
        # Fields are centred `shift` off the middle of their blocks, so the block lies at i - shift / stride in cells.
        assert abs(most[axis] - (i - shift / stride)) <= 0.55, (cell, most, shift)


def test_a_cell_of_the_grid_is_that_patch_of_the_image_square_or_not(tower: Any) -> None:
    family = family_of(tower)
    own = _size(tower, family)
    h = family.grid(tower, own)[0]
    for cell in ((1, 2), (h - 2, 1)):
        _check_alignment(tower, family, own, cell)
    height, width = family.stride(tower)
    other = (4 * height, 6 * width)
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    if hasattr(tower, "trunk") and type(tower.trunk).__name__ in ONE_SIZE:
        with pytest.raises(InputError, match="only"), family.sized(tower, other):
            pass
    else:
        for cell in ((1, 4), (2, 1)):
            _check_alignment(tower, family, other, cell)
        with torch.no_grad(), family.sized(tower, other):
            pixels = _pixels(other)
            (tail,) = family.encode(tower, pixels, "model")
            assert tail.activations.shape[0] == 24
            torch.testing.assert_close(tail.embedding, _embedding(tower, pixels)[0], rtol=1e-4, atol=1e-5)
        # Another size in between leaves no trace: the model is the same, and so is its answer.
        with torch.no_grad():
            pixels = _pixels(own)
            torch.testing.assert_close(
                family.encode(tower, pixels, "model")[0].embedding, _embedding(tower, pixels)[0], rtol=1e-4, atol=1e-5
            )
    assert all(bool((tower.state_dict()[name] == tensor).all()) for name, tensor in before.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["PE-Core-T-16-384", "convnext_tiny", "RN50", "ViT-S-32-alt", "MobileCLIP-B"])
@torch.no_grad()
def test_half_precision_gives_finite_maps_at_a_logit_scale_of_100(name: str, dtype: torch.dtype) -> None:
    tower = build(name)
    family = family_of(tower)
    pixels = _pixels(_size(tower, family))
    exact = _embedding(tower, pixels)[0]
    (tail,) = family.encode(tower.to(dtype), pixels.to(dtype), "model")
    assert float(exact @ tail.embedding) > 0.99
    for method in (gradcam, hirescam):
        maps = method(tail, 100 * F.normalize(_direction(tail), dim=-1))
        assert maps.dtype == torch.float32
        assert bool(torch.isfinite(maps).all())
        assert float(maps.abs().max()) > 0


def test_a_tower_of_no_family_is_an_error_that_names_them() -> None:
    with pytest.raises(InputError, match=r"type Linear .*vit, timm-vit"):
        family_of(nn.Linear(2, 2))
    assert family_of_config({"timm_model_name": "resnet18"}) is None


@pytest.mark.parametrize("name", open_clip.list_models())
def test_the_table_knows_every_config_without_building_it(name: str) -> None:
    assert family_of_config(_config(name)) is not None


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_what_the_config_says_is_what_is_built(name: str) -> None:
    visual = build(name)
    matching = [family.name for family in FAMILIES if family.matches(visual)]
    assert matching == [family_of_config(_config(name))]
