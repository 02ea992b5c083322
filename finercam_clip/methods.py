"""How it is explained: functions from (tail, directions) to signed maps, before ReLU and before any scaling.

tail: the way from the activations A [N, C] to the embedding f [D] (see `tails`); directions: [K, D]. A map has
one value a patch: [K, N]. Both methods are linear in the direction, so that one pass answers any number of questions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.tails import ClassTokenTail, Tail


def gradcam(tail: Tail, directions: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1-2): A w with channel weights w = 1/N sum_n dL/dA_n."""
    if isinstance(tail, ClassTokenTail):
        return tail.pull_back(directions) @ tail.shift_features().T
    return torch.stack([tail.activations @ gradient.mean(0) for gradient in tail.gradients(directions)])


def hirescam(tail: Tail, directions: Tensor) -> Tensor:
    """HiResCAM (Draelos and Carin, 2020, eq. 4): at each patch the sum over channels of A * dL/dA."""
    if isinstance(tail, ClassTokenTail):
        return tail.pull_back(directions) @ tail.gate_features().T
    return torch.stack([(tail.activations * gradient).sum(1) for gradient in tail.gradients(directions)])


Method = Callable[[Tail, Tensor], Tensor]
METHODS: dict[str, Method] = {"gradcam": gradcam, "hirescam": hirescam}


def method_named(name: str) -> Method:
    """Raises InputError for a name that is not in METHODS."""
    if name not in METHODS:
        raise InputError(f"there is no method '{name}'; there are {', '.join(METHODS)}")
    return METHODS[name]
