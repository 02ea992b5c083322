"""timm's convolutional and windowed towers: ConvNeXt, FastViT, Swin, ResNet, EfficientNet, ..."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.towers.receptive import convolutional_shift
from finercam_clip.towers.tails import Cut
from finercam_clip.towers.timm_vit import in_timm, is_token_trunk
from finercam_clip.towers.tower import Family, Tower

_MODULES = ("convnext", "fastvit", "swin_transformer")
PARTS_NETWORK = "lite0_parts"  # the bundled model's, which timm does not know by itself (models.trunk)
# What timm's forward_features ends with: the first of these that a trunk has.
_LAST_LAYERS = ("final_conv", "norm_pre", "norm", "bn2", "features", "layer4", "blocks", "stages")


class TimmMaps(Tower):
    """A `trunk` of timm that ends in a feature map. See `Tower`."""

    family = Family(
        name="timm-maps",
        towers="ConvNeXt, MobileCLIP-S (FastViT), Swin; of timm ResNet, EfficientNet and other CNNs",
        layer="the last feature map",
        pooling="mean",
    )
    hooked = False

    @staticmethod
    def matches(visual: Any) -> bool:
        trunk = getattr(visual, "trunk", None)
        known = any(hasattr(trunk, name) for name in ("stages", "layers", *_LAST_LAYERS))
        return known and hasattr(trunk, "feature_info") and hasattr(trunk, "forward_head") and not is_token_trunk(trunk)

    @staticmethod
    def matches_config(config: dict[str, Any]) -> bool:
        return in_timm(config, *_MODULES) or config.get("timm_model_name") == PARTS_NETWORK

    def layers(self) -> list[Any]:
        # The stages, then the last layer before pooling: the classical choice for convolutional networks.
        trunk = self.visual.trunk
        stages = next((getattr(trunk, name) for name in ("stages", "layers", "blocks") if hasattr(trunk, name)), ())
        numbered = [getattr(trunk, f"layer{i}") for i in range(1, 5) if hasattr(trunk, f"layer{i}")]  # ResNets
        last = next(getattr(trunk, name) for name in _LAST_LAYERS if hasattr(trunk, name))
        return list(dict.fromkeys([*(stages or numbered), last]))

    def patches(self, output: Tensor) -> Tensor:
        return output.flatten(1, 2) if self._channels_last else output.flatten(2).mT

    def cells(self, output: Tensor) -> tuple[int, int] | None:
        h, w = output.shape[1:3] if self._channels_last else output.shape[2:]
        return h, w

    @property
    def stride(self) -> tuple[int, int]:
        reduction = self.visual.trunk.feature_info[-1]["reduction"]
        return reduction, reduction

    @cached_property  # it takes a forward pass
    def shift(self) -> tuple[float, float]:
        return convolutional_shift(self.visual.trunk, self.size)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        # Convolutions pad: the pixels that are left over at the end make a cell of their own.
        return -(-size[0] // self.stride[0]), -(-size[1] // self.stride[1])

    def sized(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        patch_embed = getattr(self.visual.trunk, "patch_embed", None)  # windowed attention; convolutions take any size
        if patch_embed is not None and tuple(patch_embed.img_size) != tuple(size):
            raise self.takes_one_size()
        return nullcontext()

    def cut(self, pixels: Tensor, pooling: str) -> Cut:
        trunk = self.visual.trunk
        with torch.no_grad():
            features = trunk.forward_features(pixels)
        # On another grid than the stride says, every cell would land on the wrong pixels.
        if self.cells(features) != self.grid((pixels.shape[2], pixels.shape[3])):
            shape = list(features.shape[1:])
            raise InputError(f"{type(trunk).__name__} with features of shape {shape} is not supported yet")
        return Cut(features, lambda x: self.visual.head(trunk.forward_head(x)))

    @property
    def _channels_last(self) -> bool:
        return bool(getattr(self.visual.trunk, "output_fmt", "NCHW") == "NHWC")
