"""Every image tower that open_clip can build, at random weights: the family is never reduced, only the depth.

Two blocks (or one per stage) of the true width, patches, tokens, pooling and head. Besides these, small towers of timm
of any settings, and what a tower's gradient and grid are compared with.
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
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from finercam_clip.geometry import pair
from finercam_clip.methods.gradients import gradcam, hirescam
from finercam_clip.towers import Tower, family_of_config, tower_of
from finercam_clip.towers.tails import Tail

SMALL: dict[str, Any] = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}


def vision_config(name: str) -> dict[str, Any]:
    """open_clip's "vision_cfg" of an architecture."""
    return dict(open_clip.get_model_config(name)["vision_cfg"])


def build(name: str) -> Any:
    """The image tower of an architecture at random weights, shallow."""
    config = open_clip.get_model_config(name)
    vision = dict(config["vision_cfg"])
    if "timm_model_name" not in vision:
        vision["layers"] = [1, 1, 1, 1] if isinstance(vision.get("layers"), list) else 2
    original = timm.create_model

    def shallow(model_name: str, **kwargs: Any) -> nn.Module:
        family = family_of_config({"timm_model_name": model_name})
        if family == "timm-vit":
            kwargs["depth"] = 2
        elif "convnext" in model_name or "swin" in model_name:
            kwargs["depths"] = (1, 1, 1, 1)
        elif "fastvit" in model_name:
            with torch.device("meta"):
                kwargs["layers"] = (1,) * len(original(model_name).stages)
        return original(model_name, **kwargs)

    torch.manual_seed(0)
    timm.create_model = shallow
    try:
        visual = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    finally:
        timm.create_model = original
    return visual.eval().requires_grad_(False)


def tower_named(name: str) -> Tower:
    """The same, as its family knows it."""
    visual = build(name)
    return tower_of(visual, pair(visual.image_size))


class Wrapped(nn.Module):
    """A model of timm, with the attributes of open_clip's timm towers."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(trunk.num_features, 16)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.head(self.trunk(pixels))
        return output


def small_vit(change: Callable[[Any], None] = lambda trunk: None, **settings: Any) -> Tower:
    """A small ViT of timm that pools its class token, at random weights.

    Args:
        change: Changes the trunk before its weights are drawn.
        settings: Of timm's model.
    """
    torch.manual_seed(0)
    trunk = VisionTransformer(**SMALL, num_classes=0, **{"global_pool": "token"} | settings)
    return _small(trunk, SMALL["img_size"], change)


def small_eva(change: Callable[[Any], None] = lambda trunk: None, **settings: Any) -> Tower:
    """The same with EVA's blocks; it has no rotary positions unless they are asked for."""
    torch.manual_seed(0)
    own = {"global_pool": "token", "use_rot_pos_emb": False}
    trunk = Eva(**SMALL, num_classes=0, use_fc_norm=False, **own | settings)
    return _small(trunk, SMALL["img_size"], change)


def small_convnext() -> Tower:
    """A small ConvNeXt of timm on images of 128 x 192 pixels: four stages of one block."""
    torch.manual_seed(0)
    return _small(timm.create_model("convnext_atto", num_classes=0, depths=(1, 1, 1, 1)), (128, 192))


def small_swin() -> Tower:
    """A small Swin of timm on images of 128 x 192 pixels: four stages of one block."""
    torch.manual_seed(0)
    settings = {"img_size": (128, 192), "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    return _small(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **settings), (128, 192))


def _small(trunk: Any, size: tuple[int, int], change: Callable[[Any], None] = lambda trunk: None) -> Tower:
    change(trunk)
    visual = Wrapped(trunk)
    with torch.no_grad():
        for parameter in visual.parameters():  # no zero biases, no unit gains, no even attention
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tower_of(visual.eval().requires_grad_(False), size)


def pixels_of(size: tuple[int, int], count: int = 1) -> Tensor:
    """Noise, [count, 3, H, W]."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def direction_for(tail: Tail) -> Tensor:
    """One direction, [1, D]."""
    return torch.randn(1, len(tail.embedding), generator=torch.Generator().manual_seed(2))


def own_embedding(visual: Any, pixels: Tensor) -> Tensor:
    """What the module itself gives, of unit norm [B, D]."""
    output = visual(pixels)
    return F.normalize(output[0] if isinstance(output, tuple) else output, dim=-1)


@contextmanager
def hooked(layer: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, `change` sees a layer's output, and may replace it."""
    handle = layer.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def check_gradient(tower: Tower, tail: Tail, pixels: Tensor, tolerance: float = 2e-4) -> None:
    """The tail's gradient is the slope of the model's own embedding when A is moved, by finite differences.

    In float64, on a copy that the package has no part in but for where A is: at the largest entry and four others. The
    tolerance is a share of the largest.
    """
    direction = direction_for(tail)
    (gradient,) = tail.gradients(direction)
    precise = tower_of(copy.deepcopy(tower.visual).double(), tower.size)
    rng, step = np.random.default_rng(0), 1e-5
    coordinates = [divmod(int(gradient.abs().argmax()), gradient.shape[1])]
    coordinates += [(int(rng.integers(gradient.shape[0])), int(rng.integers(gradient.shape[1]))) for _ in range(4)]
    for n, c in coordinates:
        values = []
        for move in (step, -step):

            def moved(output: Tensor, move: float = move, n: int = n, c: int = c) -> Tensor:
                output = output.clone()
                precise.patches(output)[0, n, c] += move
                return output

            with hooked(precise.layers()[-1], moved):
                values.append(float(own_embedding(precise.visual, pixels.double())[0] @ direction[0].double()))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient[n, c]), abs=tolerance * float(gradient.abs().max()) + 1e-8)


def check_same(one: Tail, other: Tail, tolerance: float = 1e-5) -> None:
    """Two tails of an image have the same embedding, gradients and maps, each map by its own largest value."""
    generator = torch.Generator().manual_seed(3)
    directions = 20 * torch.randn(5, len(one.embedding), generator=generator, dtype=one.embedding.dtype)
    torch.testing.assert_close(one.embedding, other.embedding, rtol=10 * tolerance, atol=tolerance)
    pairs = list(zip(one.gradients(directions), other.gradients(directions), strict=True))
    pairs += [(method(one, directions), method(other, directions)) for method in (gradcam, hirescam)]
    for values, expected in pairs:
        assert float(expected.abs().max()) > 0
        assert float((values - expected).abs().max()) <= tolerance * float(expected.abs().max())


@torch.no_grad()
def change_of(
    tower: Tower, size: tuple[int, int], cell: tuple[int, int], layer: int = -1, stride: tuple[int, int] | None = None
) -> Tensor:
    """How much each cell of a layer changes, [h, w], on average, when the pixels of one cell of the image change.

    Args:
        tower: The tower.
        size: (H, W) of its input.
        cell: (row, column).
        layer: An index among the tower's layers.
        stride: (height, width) of a cell there, in pixels; by default the tower's own.
    """
    height, width = stride or tower.stride
    (i, j), (h, w) = cell, (-(-size[0] // height), -(-size[1] // width)) if stride else tower.grid(size)
    pixels = pixels_of(size).expand(8, -1, -1, -1).clone()
    block = pixels[1:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
    block += 2 * torch.randn(block.shape, generator=torch.Generator().manual_seed(3))
    outputs: list[Tensor] = []
    with tower.ready(size), hooked(tower.layers()[layer], lambda output: outputs.append(output)):
        tower.visual(pixels)
    activations = tower.patches(outputs[0])
    return (activations[1:] - activations[:1]).square().sum(2).mean(0).reshape(h, w)


def check_alignment(
    tower: Tower, size: tuple[int, int], cell: tuple[int, int], layer: int = -1, stride: tuple[int, int] | None = None
) -> None:
    """A's cell (i, j) is the image's: it changes most, or lies where the shift of receptive fields says.

    The arguments are those of `change_of`.
    """
    change = change_of(tower, size, cell, layer, stride)
    most = divmod(int(change.argmax()), change.shape[1])
    for axis, (i, shift, step) in enumerate(zip(cell, tower.shift, stride or tower.stride, strict=True)):
        # Fields are centred `shift` off the middle of their blocks, so the block lies at i - shift / stride in cells.
        assert abs(most[axis] - (i - shift / step)) <= 0.55, (cell, most, shift)
