"""Every image tower that open_clip can build, at random weights: the family is never reduced, only the depth.

Two blocks (or one per stage) of the true width, patches, tokens, pooling and head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from open_clip.model import _build_vision_tower
from torch import Tensor, nn

from finercam_clip.geometry import pair
from finercam_clip.towers import Tower, family_of_config, tower_of
from finercam_clip.towers.tails import Tail


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
def change_of(tower: Tower, size: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """How much each cell of A changes, [h, w], on average, when the pixels of one cell of the image change."""
    height, width = tower.stride
    (i, j), (h, w) = cell, tower.grid(size)
    pixels = pixels_of(size).expand(8, -1, -1, -1).clone()
    block = pixels[1:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
    block += 2 * torch.randn(block.shape, generator=torch.Generator().manual_seed(3))
    outputs: list[Tensor] = []
    with tower.ready(size), hooked(tower.layers()[-1], lambda output: outputs.append(output)):
        tower.visual(pixels)
    activations = tower.patches(outputs[0])
    return (activations[1:] - activations[:1]).square().sum(2).mean(0).reshape(h, w)


def check_alignment(tower: Tower, size: tuple[int, int], cell: tuple[int, int]) -> None:
    """A's cell (i, j) is the image's: it changes most, or lies where the shift of receptive fields says."""
    change = change_of(tower, size, cell)
    most = divmod(int(change.argmax()), change.shape[1])
    for axis, (i, shift, stride) in enumerate(zip(cell, tower.shift, tower.stride, strict=True)):
        # Fields are centred `shift` off the middle of their blocks, so the block lies at i - shift / stride in cells.
        assert abs(most[axis] - (i - shift / stride)) <= 0.55, (cell, most, shift)
