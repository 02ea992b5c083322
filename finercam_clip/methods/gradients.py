"""Class activation maps: activations A [N, C] at the target layer, weighed by their gradient G = dL/dA.

Each is a function of a tail (see `tails`) and directions [K, D], and gives [K, N].
"""

from __future__ import annotations

import torch
from torch import Tensor

from finercam_clip.towers.closed import MeanTail, QueryTail
from finercam_clip.towers.tails import Tail


def gradcam(tail: Tail, directions: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1-2): A w with channel weights w = 1/N sum_n G_n. Linear."""
    if isinstance(tail, (QueryTail, MeanTail)):
        return tail.shift_maps(directions)
    return torch.stack([tail.activations @ gradient.mean(0) for gradient in tail.gradients(directions)])


def hirescam(tail: Tail, directions: Tensor) -> Tensor:
    """HiResCAM (Draelos and Carin, 2020, eq. 4): at each patch the sum over channels of A * G. Linear."""
    if isinstance(tail, (QueryTail, MeanTail)):
        return tail.gate_maps(directions)
    return torch.stack([(tail.activations * gradient).sum(1) for gradient in tail.gradients(directions)])


def xgradcam(tail: Tail, directions: Tensor) -> Tensor:
    """XGrad-CAM (Fu et al., BMVC 2020, eq. 8): A w with w = sum_n A_n G_n / sum_n A_n. Linear."""
    activations = tail.activations
    shares = activations / (activations.sum(0) + 1e-7)
    return torch.stack([activations @ (shares * gradient).sum(0) for gradient in tail.gradients(directions)])


def gradcam_plus_plus(tail: Tail, directions: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhyay et al., WACV 2018, eq. 5 and 19): A w with w = sum_n a_n ReLU(G_n),
    a = G^2 / (2 G^2 + G^3 sum_n A_n); in float64, since the denominator can be near zero."""
    activations = tail.activations.double()
    mass = activations.sum(0)
    maps = []
    for gradient in tail.gradients(directions):
        slope = gradient.double()
        share = slope.square() / (2 * slope.square() + mass * slope**3 + 1e-6)
        maps.append(activations @ (share * slope.relu()).sum(0))
    return torch.stack(maps).float()


def layercam(tail: Tail, directions: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., TIP 2021, eq. 6-7): at each patch the sum over channels of A * ReLU(G)."""
    return torch.stack([(tail.activations * gradient.relu()).sum(1) for gradient in tail.gradients(directions)])


def eigencam(tail: Tail, directions: Tensor) -> Tensor:
    """Eigen-CAM (Muhammad and Yeasin, IJCNN 2020): the activations on their first principal component.

    It ignores the question: the map is the same for every direction. A component has no sign; here it has the one
    under which the largest value is positive.
    """
    centred = tail.activations - tail.activations.mean(0)
    component: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    projected = centred @ component
    projected = projected * projected[projected.abs().argmax()].sign()
    return projected.expand(len(directions), -1)
