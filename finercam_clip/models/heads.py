"""Linear layers and checkpoints from files. Nothing is unpickled."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from finercam_clip import checks
from finercam_clip.errors import InputError, one_line, shown
from finercam_clip.files import write_whole
from finercam_clip.paths import check_file, look, place
from finercam_clip.tensors import check_finite

HEAD_FORMATS = (".pth", ".pt", ".bin", ".safetensors", ".npz")
FITTED = ".safetensors"  # the ending of a fitted head's file, the format that has room for notes
_KEY = "head"  # of the notes in the file's metadata: one key, for safetensors writes several in no fixed order


@dataclass(frozen=True)
class HeadNotes:
    """What the file of a fitted head says of itself (`finercam_clip.fit`).

    Attributes:
        classes: The names of its rows, in their order.
        backbone: What the model is called that `load_classifier` loads; for a CLIP, `load`.
        clip: Whether that is the image tower of a CLIP. The head then reads embeddings of unit norm, without a bias.
        pretrained: Where the model's weights are: None, its own; a tag, a file, "random"; or "in memory".
        pooling: What the head reads: "model", "token" or "mean".
        image_size: (H, W) of the model's input, pixels; None: the model's own.
        dtype: The type of the pixels, as torch prints it.
        weights: The fingerprint of the model's weights.
        accuracy: The share of right answers on images that it was not fitted to, 0..1, and its 95 % interval.
        measured: On how many images.
        fitted: To how many images.
        split: Which images these were, in words.
        strength: The inverse strength of regularisation, scikit-learn's C.
    """

    classes: tuple[str, ...]
    backbone: str
    clip: bool
    pretrained: str | None
    pooling: str
    image_size: tuple[int, int] | None
    dtype: str
    weights: str
    accuracy: tuple[float, float, float]
    measured: int
    fitted: int
    split: str
    strength: float


def read_head(path: str | Path) -> tuple[Tensor, Tensor]:
    """A linear layer from a file.

    The names of its tensors may have a prefix ("linear.weight"), if there is one such layer.

    Args:
        path: A file of one of `HEAD_FORMATS`.

    Returns:
        weight, float32 [classes, dim], and bias, [classes] (zeros where there is none).

    Raises:
        InputError: The file cannot be read, or is not one linear layer of finite numbers.
    """
    path = place(path, "the head")
    if path.suffix.lower() not in HEAD_FORMATS:
        raise InputError(f"{path}: a head's file name ends in {', '.join(HEAD_FORMATS)}")
    if look(path) is None:
        raise InputError(f"{path}: no such file; a head has 'weight' [classes, dim] and 'bias' [classes]")
    tensors = tensors_in(path)
    weights = [name for name, tensor in tensors.items() if name.split(".")[-1] == "weight" and tensor.ndim == 2]
    if len(weights) != 1:
        listed = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:6]) or "nothing"
        raise InputError(
            f"{path} is not one linear head, 'weight' [classes, dim] and 'bias' [classes]: it has {listed}"
        )
    name = weights[0]
    weight, bias = tensors[name], tensors.get(name.removesuffix("weight") + "bias")
    if 0 in weight.shape:
        raise InputError(f"{path}: the weight is {list(weight.shape)}, a head without classes or features")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"{path}: the bias is {list(bias.shape)} for a weight of {list(weight.shape)}")
    check_finite({name: weight} if bias is None else {name: weight, "bias": bias}, str(path), "; a head needs others")
    weight = weight.float()
    bias = torch.zeros(len(weight)) if bias is None else bias.float()
    return weight, bias


def write_head(path: Path, weight: Tensor, bias: Tensor, notes: HeadNotes) -> None:
    """Writes a fitted head: weight [classes, dim], bias [classes] and notes, to a .safetensors file."""
    tensors = {"weight": weight.float().contiguous(), "bias": bias.float().contiguous()}
    write_whole(path, save(tensors, {_KEY: json.dumps(asdict(notes), ensure_ascii=False)}))


def read_notes(path: str | Path) -> HeadNotes | None:
    """The notes in the file of a fitted head; None in the file of any other head.

    Raises:
        InputError: The notes are damaged.
    """
    path = place(path, "the head")
    if path.suffix.lower() != FITTED or look(path) is None:
        return None
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (SafetensorError, OSError):  # `read_head` tells
        return None
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or set(values) != set(_NOTES):
        raise InputError(f"{path}: the notes in its metadata are damaged: {shown(text)}")
    for name, is_right in _NOTES.items():
        if not is_right(values[name]):
            raise InputError(f"{path}: in its metadata, '{name}' is {shown(values[name])}: it is damaged")
    for name in ("classes", "image_size", "accuracy"):
        values[name] = values[name] if values[name] is None else tuple(values[name])
    return HeadNotes(**values)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return (checks.whole(value) or 0) > 0


def _is_list(is_right: Callable[[object], bool], length: int | None = None) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return isinstance(value, list) and len(value) == (length or len(value)) and all(map(is_right, value))

    return check


def _is_none_or(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


_NOTES: dict[str, Callable[[Any], bool]] = {
    "classes": _is_list(_is_text),
    "backbone": _is_text,
    "clip": lambda value: isinstance(value, bool),
    "pretrained": _is_none_or(_is_text),
    "pooling": _is_text,
    "image_size": _is_none_or(_is_list(_is_count, 2)),
    "dtype": _is_text,
    "weights": _is_text,
    "accuracy": _is_list(lambda value: checks.real(value) is not None, 3),
    "measured": _is_count,
    "fitted": _is_count,
    "split": _is_text,
    "strength": lambda value: checks.real(value) is not None,
}


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors, .npz or torch file.

    Raises:
        InputError: The file is none of these, is damaged, or holds code.
    """
    check_file(path)
    try:
        content = _content(path)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is not plain tensors: it holds code or objects, which are never executed") from error
    except Exception as error:  # each format has its own dozen of exceptions for damaged files
        reason = one_line(str(error) or type(error).__name__, 200)
        raise InputError(f"{path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not named tensors 'weight' and 'bias'")
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def structure_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file whose numbers are not read yet; {} of any other file, and of one that is damaged."""
    if path.suffix.lower() in (".safetensors", ".npz"):
        return {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whoever reads it next will tell
        return {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    named = content if isinstance(content, dict) else {}
    return {str(name): tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}


def _content(path: Path) -> object:
    if path.suffix.lower() == ".safetensors":
        return load_file(path)
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        return content["state_dict"]
    return content
