"""Small random models of the true architecture, and ways into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from torch import Tensor

from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.loaded import LoadedModel
from finercam_clip.methods import maps_of
from finercam_clip.models.openclip import text_space
from finercam_clip.preprocess import Preprocess
from finercam_clip.towers import tower_of

RED, BLUE, GREEN = "a bird with a red crown", "a bird with a blue crown", "a bird with a green tail"
TEXTS = [RED, BLUE, "a bird with a red tail", "a bird with a black wing"]
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)


def explainer_of(model: Any, size: tuple[int, int], tokenizer: Any, name: str = "tiny") -> Explainer:
    """An open_clip model in memory as an `Explainer`."""
    device = torch.device("cpu")
    return Explainer(
        LoadedModel(
            name=name,
            pretrained="test",
            tower=tower_of(model.visual, size),
            preprocess=Preprocess(PreprocessCfg(size=size)),
            space=text_space(model, tokenizer, device),
            device=device,
        )
    )


def tiny_explainer(seed: int = 0, *, quick_gelu: bool = False, **vision: Any) -> Explainer:
    """A small random CLIP, every parameter away from its special value (no zero biases, no unit gains)."""
    settings = {"image_size": (32, 48), "patch_size": 8, "layers": 3, "width": 64, "head_width": 16} | vision
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=32, vision_cfg=settings, text_cfg=text, quick_gelu=quick_gelu)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            model.logit_scale.fill_(3.0)
    model.eval().requires_grad_(False)
    size = settings["image_size"]
    size = (size, size) if isinstance(size, int) else size
    return explainer_of(model, size, open_clip.SimpleTokenizer(context_length=32))


def timm_explainer(pool: str = "token") -> Explainer:
    """A small random CLIP around a ViT of timm, three blocks deep, on images of 96 pixels: a grid of 6 x 6."""
    vision = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": "linear",
        "image_size": 224,
    }
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CustomTextCLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)
    del model.visual.trunk.blocks[3:]
    model.visual.set_input_size(96)
    model.eval().requires_grad_(False)
    return explainer_of(model, (96, 96), open_clip.SimpleTokenizer(context_length=32), name="timm")


def model_of(explainer: Explainer) -> Any:
    """The open_clip model that an `Explainer` was made of."""
    space: Any = explainer.loaded.space
    return space.encode.__self__


def tokenizer_of(explainer: Explainer) -> Any:
    """Its tokenizer."""
    space: Any = explainer.loaded.space
    return space.tokens.tokenizer


def maps(encoding: ImageEncoding, directions: Tensor, method: str) -> NDArray[np.float32]:
    """The signed maps of directions [K, D], [K, h, w]."""
    return maps_of(encoding.forward, directions, method).reshape(-1, *encoding.grid).numpy()
