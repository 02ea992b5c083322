"""A timm network for parts of things: fine feature maps of EfficientNet-Lite0, and three convolutions on them.

Once `register` is called, `timm.create_model("lite0_parts")` makes it, so that open_clip can build a CLIP around it
from a configuration file. Its last feature map has one cell per 16 pixels. A CLIP that averages it and projects without
a bias is explained exactly by its class activation map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import is_model, register_model
from torch import Tensor, nn

from finercam_clip.models.loading import created
from finercam_clip.towers.timm_maps import PARTS_NETWORK

BASE = "tf_efficientnet_lite0"
STRIDE = 16  # pixels per cell
FEATURES = 112 + 40 + 12  # channels of the base's last block, of a finer one, and of the colours of quarters of cells
WIDTH = 192  # channels of the last feature map
_BLOCKS = 5  # of the base
_FINE = 2  # the block whose cells are half as large


class Lite0Parts(nn.Module):
    """The network: [B, 3, H, W] -> [B, `WIDTH`], with what open_clip and the families expect of timm's.

    Attributes:
        base: The stem and the first blocks of EfficientNet-Lite0. It never learns.
        final_conv: What is on top; its output is the last feature map.
    """

    def __init__(self) -> None:
        super().__init__()
        whole = created(BASE)
        parts = {"conv_stem": whole.conv_stem, "bn1": whole.bn1, "blocks": nn.Sequential(*whole.blocks[:_BLOCKS])}
        self.base = nn.ModuleDict(parts).requires_grad_(False).eval()
        self.final_conv = Neck()
        self.feature_info = [{"num_chs": WIDTH, "reduction": STRIDE, "module": "final_conv"}]
        self.num_features = WIDTH
        self.default_cfg = self.pretrained_cfg = whole.default_cfg

    def take_base(self, whole: nn.Module) -> None:
        """Takes the weights of the base from the whole network that it is a part of."""
        state = whole.state_dict()
        self.base.load_state_dict({name: state[name] for name in self.base.state_dict()})

    def base_features(self, pixels: Tensor) -> Tensor:
        """What the base sees, [B, `FEATURES`, H / 16, W / 16]."""
        x = self.base["bn1"](self.base["conv_stem"](pixels))
        fine = x
        for number, block in enumerate(self.base["blocks"].children()):
            x = block(x)
            if number == _FINE:
                fine = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        colours = F.adaptive_avg_pool2d(pixels, (2 * x.shape[2], 2 * x.shape[3]))
        return torch.cat([x, fine, F.pixel_unshuffle(colours, 2)], 1)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """The last feature map, [B, `WIDTH`, H / 16, W / 16], 0 and up."""
        features: Tensor = self.final_conv(self.base_features(pixels))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Its mean over cells."""
        return features.mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """There is no classifier. open_clip asks for that."""

    def train(self, mode: bool = True) -> Lite0Parts:
        """The base keeps its statistics."""
        super().train(mode)
        self.base.eval()
        return self


class Neck(nn.Module):
    """Three convolutions, [B, `FEATURES`, h, w] -> [B, `WIDTH`, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(FEATURES)
        self.first = nn.Conv2d(FEATURES, WIDTH, 3, padding=1, bias=False)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.third = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(WIDTH) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.first(self.scale(x))))
        x = x + F.relu(self.norms[1](self.second(x)))
        return F.relu(self.norms[2](self.third(x)) + x)


def register() -> None:
    """Makes the network known to timm."""
    if not is_model(PARTS_NETWORK):
        register_model(_made)


def _made(pretrained: bool = False, **settings: Any) -> Lite0Parts:
    return Lite0Parts()


_made.__name__ = PARTS_NETWORK
