"""Linear layers and checkpoints from files. Nothing is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from finercam_clip.errors import InputError, one_line
from finercam_clip.paths import check_file, look, place
from finercam_clip.tensors import check_finite

HEAD_FORMATS = (".pth", ".pt", ".bin", ".safetensors", ".npz")


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
