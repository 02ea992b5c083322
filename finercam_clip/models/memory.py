"""Models in memory: open_clip's, Hugging Face's, timm's and torchvision's, or any module with a linear head.

The user's model stays as it is, bit by bit: what is switched meanwhile (training mode, gradients, hooks, input size) is
put back, even after an error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from finercam_clip.concepts.classes import named_head
from finercam_clip.concepts.texts import TextSpace
from finercam_clip.concepts.tokens import Tokens
from finercam_clip.concepts.vocabulary import class_names
from finercam_clip.errors import InputError
from finercam_clip.loaded import LoadedModel
from finercam_clip.models.classifier import classifier_of
from finercam_clip.models.openclip import text_space
from finercam_clip.models.transforms import preprocess_of
from finercam_clip.preprocess import Preprocess
from finercam_clip.tensors import check_finite
from finercam_clip.towers import tower_of
from finercam_clip.towers.any_module import AnyModule, HeadInput, TargetLayer, head_of, layout_of
from finercam_clip.towers.hub_vit import HubVisual
from finercam_clip.towers.temporary import evaluating
from finercam_clip.towers.tower import Tower

Classes = str | Path | Sequence[str] | None


def wrapped(
    model: Any, preprocess: Any, tokenizer: Any, classes: Classes, target_layer: TargetLayer | None, name: str
) -> LoadedModel:
    """A model in memory. See `wrap`."""
    if not isinstance(model, nn.Module):
        raise InputError(f"wrap takes a model, an nn.Module, not {type(model).__name__}; load takes names and files")
    inner = _unwrapped(model)
    parameter = next(inner.parameters(), None)
    if parameter is None or any(p.is_meta for p in inner.parameters()):
        raise InputError("the model has no weights yet (meta tensors, or none at all): load them first")
    state = {key: value for key, value in inner.state_dict().items() if isinstance(value, Tensor)}
    check_finite({key: value for key, value in state.items() if value.is_floating_point()}, "the model")
    place: dict[str, Any] = {"device": parameter.device, "dtype": _pixel_type(inner)}
    if classes is None and hasattr(inner, "visual") and hasattr(inner, "encode_text"):
        return _open_clip(inner, preprocess, tokenizer, name, place)
    if classes is None and hasattr(inner, "vision_model") and hasattr(inner, "get_text_features"):
        return _hub(inner, preprocess, tokenizer, name, place)
    return _classifier(inner, preprocess, classes, target_layer, name, place)


def _unwrapped(model: Any) -> Any:
    """The module inside torch.compile, (Distributed)DataParallel and peft's wrappers. Adapters stay in it."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = getattr(model, "_orig_mod")  # noqa: B009 - torch.compile has no public name for it
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
            model = model.get_base_model()
        else:
            return model


def _pixel_type(model: nn.Module) -> torch.dtype:
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return (convolutions[0].weight if convolutions else next(model.parameters())).dtype


# ------------------------------------------------------------------------------------------------------- open_clip


def _open_clip(model: Any, preprocess: Any, tokenizer: Any, name: str, place: dict[str, Any]) -> LoadedModel:
    if tokenizer is None:
        raise InputError("a CLIP needs its tokenizer, too: wrap(model, preprocess, open_clip.get_tokenizer(NAME))")
    if preprocess is None:
        settings = Preprocess(PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)))
    else:
        settings = preprocess_of(preprocess)
    tower = tower_of(model.visual, settings.size)
    space = text_space(model, tokenizer, place["device"])
    _check_vocabulary(space.tokens.ids(["a bird"]), model)

    def encode(ids: Tensor) -> Tensor:
        with evaluating(model):
            embeddings: Tensor = model.encode_text(ids)
        return embeddings

    space = replace(space, encode=encode, version=_version(model))
    return _checked(LoadedModel(name, "in memory", tower, settings, space, **place))


def _version(model: nn.Module) -> Callable[[], object]:
    """What changes whenever a weight does: texts are embedded anew after a step of training."""

    def state(p: nn.Parameter) -> tuple[object, ...]:
        # torch counts the changes of a tensor, under no public name; tensors of inference mode never change.
        return p.data_ptr(), p.dtype, None if p.is_inference() else getattr(p, "_version")  # noqa: B009

    return lambda: hash(tuple(state(p) for p in model.parameters()))


def _check_vocabulary(ids: Tensor, model: nn.Module) -> None:
    tables = [part for name, part in model.named_modules() if isinstance(part, nn.Embedding) and "token" in name]
    rows = max((table.num_embeddings for table in tables), default=None)
    if rows is not None and int(ids.max()) >= rows:
        raise InputError(
            f"the tokenizer gives the token {int(ids.max())}, the model knows {rows:,}: it is another model's"
        )


# --------------------------------------------------------------------------------------------------- Hugging Face


def _hub(model: Any, processor: Any, tokenizer: Any, name: str, place: dict[str, Any]) -> LoadedModel:
    if processor is None:
        raise InputError(
            "a model of Hugging Face needs its processor: wrap(model, AutoProcessor.from_pretrained(NAME))"
        )
    tokenizer = tokenizer or getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise InputError("the processor has no tokenizer: give it as well, wrap(model, processor, tokenizer)")
    settings, vision = preprocess_of(processor), model.vision_model
    if not hasattr(vision, "encoder") or not hasattr(vision, "post_layernorm"):
        raise InputError(f"the image tower {type(vision).__name__} is of no known kind: known are CLIP's and SigLIP's")
    if not hasattr(vision, "head") and not hasattr(vision.embeddings, "class_embedding"):
        raise InputError(f"{type(vision).__name__} pools nothing: it has neither a class token nor an attention pool")
    own = getattr(vision.config, "image_size", None)
    if settings.fit is None and own is not None and settings.size != (own, own):
        height, width = settings.size
        raise InputError(
            f"the processor gives {width} x {height} pixels, the model takes {own} x {own}: it is another model's"
        )
    visual = HubVisual(vision, getattr(model, "visual_projection", nn.Identity()))
    limit = int(model.config.text_config.max_position_embeddings)
    tokens = Tokens(_HubTokenizer(tokenizer, limit))
    _check_vocabulary(tokens.ids(["a bird"])[:, 0], model.text_model)

    def encode(ids: Tensor) -> Tensor:
        with evaluating(model):
            output = model.get_text_features(input_ids=ids[:, 0], attention_mask=ids[:, 1])
        embeddings: Tensor = output if isinstance(output, Tensor) else output.pooler_output
        return embeddings

    space = TextSpace(encode, tokens, place["device"], model.logit_scale, version=_version(model.text_model))
    return _checked(LoadedModel(name, "in memory", tower_of(visual, settings.size), settings, space, **place))


class _HubTokenizer:
    """A tokenizer of Hugging Face as `Tokens` wants it: texts -> ids and attention mask, [K, 2, L]."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer, self.context_length = tokenizer, limit

    def __call__(self, texts: list[str]) -> Tensor:
        encoded = self.tokenizer(texts, padding="max_length", max_length=self.context_length, return_tensors="pt")
        ids = encoded["input_ids"]
        # SigLIP reads its padding as it was trained to; its tokenizer gives no mask.
        return torch.stack([ids, encoded.get("attention_mask", torch.ones_like(ids))], 1)


# ----------------------------------------------------------------------------------------------------- classifiers


def _classifier(
    model: Any, preprocess: Any, classes: Classes, target: TargetLayer | None, name: str, place: dict[str, Any]
) -> LoadedModel:
    names = None if classes is None else class_names(classes)
    if target is None and all(hasattr(model, part) for part in ("pretrained_cfg", "get_classifier", "forward_head")):
        loaded = classifier_of(_sharing(model), name, "in memory", names, **place)
        return loaded if preprocess is None else replace(loaded, preprocess=preprocess_of(preprocess))
    if preprocess is None:
        raise InputError(
            f"{type(model).__name__} is no CLIP that is known (it has no image and text tower); to wrap it as a "
            "classifier give its preprocessing and the names of its classes: wrap(model, preprocess=..., classes=[...])"
        )
    settings = preprocess_of(preprocess)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, *settings.size, generator=generator).to(place["device"], place["dtype"])
    head = head_of(model, noise)
    bias = head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias
    space = named_head(head.weight.detach(), bias.detach(), names)
    layer, layout = layout_of(model, head, noise, target)
    tower = AnyModule(HeadInput(model, head), settings.size, layer, layout)
    return LoadedModel(name, "in memory", tower, settings, space, **place)


def _sharing(model: nn.Module) -> Any:
    """A copy of a module's structure around the same tensors: taking its classifier out leaves the user's as it is."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _checked(loaded: LoadedModel) -> LoadedModel:
    """Raises InputError where the fast way through a tower is not the tower's own: an adapter, or an unknown part."""
    tower: Tower = loaded.tower
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, *tower.size, generator=generator).to(loaded.device, loaded.dtype)
    try:
        with tower.ready(tower.size), torch.no_grad():
            own = tower.scored(tower.features(noise))[0]
            fast = tower.tails(noise)[0].embedding
    except RuntimeError as error:
        height, width = tower.size
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the model fails on the {width} x {height} pixels that the preprocessing gives ({reason}): it is another "
            "model's"
        ) from error
    if not float(own @ fast) > 0.999:
        raise InputError(
            f"the image tower {type(tower.visual).__name__} does something besides what its family does: it is not "
            "supported yet"
        )
    return loaded
