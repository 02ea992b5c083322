"""What can be computed with: dense, real, finite tensors. The first place that can know says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam_clip.errors import InputError

_SAMPLED = 64  # numbers of a tensor in a fingerprint
_CHECKED = (torch.float32, torch.float16, torch.bfloat16)


def unit_norm(features: Tensor) -> Tensor:
    """Rows of unit norm, in float32 whatever the model computes in."""
    return F.normalize(features.float(), dim=-1)


def unusable(tensor: Tensor) -> str | None:
    """Why a tensor is no matrix of numbers; None if it is one."""
    if tensor.device.type == "meta":
        return "without content (on the device 'meta')"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "sparse or nested"
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_complex():
        return "complex"
    numbers = tensor if tensor.dtype in _CHECKED else tensor.float()  # what is finite in 64 bits may not be in 32
    return None if bool(numbers.isfinite().all()) else "not all finite"


def check_finite(tensors: Mapping[str, Tensor], whose: str, hint: str = "") -> None:
    """Raises InputError for the first tensor that cannot be computed with.

    Args:
        tensors: Name -> tensor.
        whose: What they are of: a file, or a model.
        hint: What to do about it.
    """
    for name, tensor in tensors.items():
        if problem := unusable(tensor):
            raise InputError(f"{whose}: the numbers of '{name}' are {problem}{hint or '; it cannot be explained'}")


def fingerprint_of(model: nn.Module) -> str:
    """What tells the weights of a model from others of the same name: a digest of a few numbers of each tensor."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        values = tensor.detach().flatten()
        some = values[:: max(len(values) // _SAMPLED, 1)].double().cpu()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
