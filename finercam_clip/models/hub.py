"""Models in Hugging Face's format by name: "hf:org/name" from the hub, or "hf:folder" from disk."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from finercam_clip.errors import InputError
from finercam_clip.loaded import LoadedModel
from finercam_clip.models.loading import device_named, dtype_named, loading_errors
from finercam_clip.models.memory import wrapped

PREFIX = "hf:"


def loaded_hub(name: str, pretrained: str | None, device: str | None, precision: str) -> LoadedModel:
    """Loads a CLIP or SigLIP of Hugging Face. See `load`."""
    dtype, place = dtype_named(precision), device_named(device)
    if pretrained is not None:
        raise InputError(f"{name} brings its own weights; leave pretrained out")
    if find_spec("transformers") is None:
        raise InputError(f"{name} needs Hugging Face's transformers: pip install 'finercam_clip[hf]'")
    source = name.removeprefix(PREFIX)
    with loading_errors(name, None):
        from transformers import AutoModel, AutoProcessor

        # Weights as safetensors only: nothing is unpickled.
        model: Any = AutoModel.from_pretrained(source, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(source)
    model.eval().requires_grad_(False).to(place, dtype)
    return replace(wrapped(model, processor, None, None, None, name), pretrained=name)
