"""CLIP models by name: architectures with tags or checkpoint files, the hub, the bundled ones. open_clip loads them."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from safetensors import safe_open
from torch import Tensor, nn

from finercam_clip.concepts.texts import TextSpace
from finercam_clip.concepts.tokens import Tokens
from finercam_clip.errors import InputError, shown
from finercam_clip.loaded import LoadedModel
from finercam_clip.models.catalogue import BIRDS, BUNDLED, BUNDLED_MODELS, check_family, check_pretrained
from finercam_clip.models.heads import structure_of
from finercam_clip.models.loading import RANDOM, device_named, dtype_named, loading_errors, seeded, warn_of_random
from finercam_clip.models.trunk import register
from finercam_clip.paths import check_file, entries, is_file, is_folder, is_folder_entry
from finercam_clip.preprocess import Preprocess
from finercam_clip.tensors import check_finite, unusable
from finercam_clip.towers import tower_of

_TERMS = "the model birds has learned from photographs of CUB-200-2011: it is for research only (see its model card)"


def loaded_clip(name: str | None, pretrained: str | None, device: str | None, precision: str) -> LoadedModel:
    """Loads a CLIP model. See `load`."""
    for what, text in (("a model is named by", name), ("pretrained is", pretrained)):
        if not isinstance(text, (str, Path, type(None))):
            raise InputError(f"{what} a text, not {shown(text)}")
    dtype, place = dtype_named(precision), device_named(device)
    source, tag, origin = _source(None if name is None else str(name), None if pretrained is None else str(pretrained))
    if tag == RANDOM:
        warn_of_random(source)
    if name == BIRDS:
        warnings.warn(_TERMS, stacklevel=3)
    register()  # a folder's configuration may name the network, too
    with loading_errors(source if name else BUNDLED, tag), seeded():
        _check_files(source, tag)
        model = open_clip.create_model(
            source,
            pretrained=None if tag == RANDOM else tag,
            device=place,
            precision=precision,
            require_pretrained=tag != RANDOM,  # otherwise open_clip falls back to random weights, and only logs it
        )
        tokenizer = open_clip.get_tokenizer(source)
        model.eval().requires_grad_(False)
        check_finite(model.state_dict(), f"{source if tag is None else tag} ({precision})")
        preprocess = Preprocess(PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)))
    return LoadedModel(
        name=BUNDLED if name is None else str(name),
        pretrained=origin,
        tower=tower_of(model.visual, preprocess.size),
        preprocess=preprocess,
        space=text_space(model, tokenizer, place),
        device=place,
        dtype=dtype,
        present_above=_present_above(source, tag),
    )


def text_space(model: Any, tokenizer: Any, device: torch.device) -> TextSpace:
    """The concept side of an open_clip model and its tokenizer."""
    table = _token_table(model)
    known = None if table is None else (table != 0).any(1)
    tokens = Tokens(tokenizer, None if known is None or bool(known.all()) else known)
    if not math.isfinite(float(model.logit_scale.detach().float().exp())):
        raise InputError(f"the model's logit scale is e to the power {float(model.logit_scale):g}: it is damaged")
    return TextSpace(model.encode_text, tokens, device, model.logit_scale)


def _token_table(model: nn.Module) -> Tensor | None:
    for owner in (model, getattr(model, "text", None)):
        table = getattr(owner, "token_embedding", None)
        if isinstance(table, nn.Embedding):
            return table.weight
    return None


def _present_above(source: str, tag: str | None) -> float | None:
    """`LoadedModel.present_above`, from the metadata of the weights' file."""
    folder, file = source.removeprefix("local-dir:"), Path(tag or "")
    path = Path(folder) / "open_clip_model.safetensors" if folder != source else file
    if path.suffix != ".safetensors" or not is_file(path):
        return None
    with safe_open(path, framework="pt") as weights:
        present_above = (weights.metadata() or {}).get("present_above")
    try:
        return None if present_above is None else float(present_above)
    except ValueError as error:
        raise InputError(f"{path}: its metadata present_above is no number: {shown(present_above)}") from error


def _check_files(source: str, tag: str | None) -> None:
    """Raises InputError where a file of weights, or of a local folder, would hang or lose something when it is read."""
    if source.startswith("local-dir:") and is_folder(source.removeprefix("local-dir:")):
        for entry in entries(source.removeprefix("local-dir:")):
            if not is_folder_entry(entry):
                check_file(entry.path)
    if tag is not None and is_file(tag):
        for name, tensor in structure_of(Path(tag)).items():
            if tensor.is_complex() or tensor.layout != torch.strided or tensor.device.type == "meta":
                raise InputError(f"{tag}: '{name}' holds no plain numbers but {unusable(tensor)}: it is no checkpoint")


def _source(name: str | None, pretrained: str | None) -> tuple[str, str | None, str]:
    """What open_clip calls a model, the tag or file of its weights, and what people call where they came from.

    Raises:
        InputError: The name, tag or file cannot be used; the message says which can.
    """
    if name is None or name in BUNDLED_MODELS:
        if pretrained is not None:
            raise InputError("a bundled model has its own weights; name an architecture to go with --pretrained")
        return f"local-dir:{BUNDLED_MODELS[name or BUNDLED]}", None, "bundled"
    if name.startswith(("hf-hub:", "local-dir:")):
        if pretrained is not None:
            raise InputError(f"{name} brings its own weights; leave pretrained out")
        return name, None, name
    tag = check_pretrained(name, pretrained)
    check_family(name)
    return name, tag, tag
