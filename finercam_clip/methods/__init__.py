"""How it is explained: functions of a forward pass and directions [K, D] that give signed maps [K, N].

The maps have one value per patch, before ReLU and before any scaling. A method that is linear in the direction gets the
difference of target and contrasts as one direction, and answers a thousand questions for the price of one. Any other
method gets target and contrasts one by one, and the difference is taken of its signed maps. The score that is explained
is the model's own, whatever the method: nothing in the model is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam_clip import objectives
from finercam_clip.errors import InputError
from finercam_clip.methods import attention, dense, gradients, perturbation
from finercam_clip.options import Options
from finercam_clip.presets import PRESETS
from finercam_clip.towers.forward import ForwardPass
from finercam_clip.towers.tails import Tail

_DIRECTIONS = 64  # pulled back at a time: more are no faster and need more memory


@dataclass(frozen=True)
class Method:
    """A way to make maps, by one of two functions.

    Attributes:
        source: Its paper.
        of_tail: A tail and directions [K, D] -> maps [K, N]. It reads a target layer, so that `Options.layer` can move
            it; the maps of several layers are averaged.
        of_pass: A forward pass and directions -> maps, if a tail is not enough.
        towers: Which towers it works on.
        linear: Whether the map of a sum of directions is the sum of the maps.
        slow: Whether it takes hundreds of forward passes per image.
    """

    source: str
    of_tail: Callable[[Tail, Tensor], Tensor] | None = None
    of_pass: Callable[[ForwardPass, Tensor], Tensor] | None = None
    towers: str = "any"
    linear: bool = True
    slow: bool = False

    @property
    def layered(self) -> bool:
        """Whether it reads a target layer."""
        return self.of_tail is not None

    def maps(self, forward: ForwardPass, directions: Tensor) -> Tensor:
        """The signed maps of directions [K, D], float32 [K, N]."""
        if self.of_tail is not None:
            return torch.stack([self.of_tail(tail, directions) for tail in forward.tails]).mean(0)
        if self.of_pass is not None:
            return self.of_pass(forward, directions)
        raise TypeError("a method has a function of a tail or of a forward pass")


_POOLED = "transformers that pool the class token or the mean"

METHODS: dict[str, Method] = {
    "hirescam": Method("Draelos and Carin, 2020", gradients.hirescam),
    "gradcam": Method("Selvaraju et al., ICCV 2017", gradients.gradcam),
    "xgradcam": Method("Fu et al., BMVC 2020", gradients.xgradcam),
    "gradcam++": Method("Chattopadhyay et al., WACV 2018", gradients.gradcam_plus_plus, linear=False),
    "layercam": Method("Jiang et al., TIP 2021", gradients.layercam, linear=False),
    "eigencam": Method("Muhammad and Yeasin, IJCNN 2020", gradients.eigencam, linear=False),
    "grad-eclip": Method(
        "Zhao et al., ICML 2024", of_pass=attention.grad_eclip, towers="transformers that pool the class token"
    ),
    "legrad": Method("Bousselham et al., ICCV 2025", of_pass=attention.legrad, towers="transformers", linear=False),
    "chefer": Method("Chefer et al., ICCV 2021", of_pass=attention.chefer, towers=_POOLED, linear=False),
    "rollout": Method("Abnar and Zuidema, ACL 2020", of_pass=attention.rollout, towers=_POOLED, linear=False),
    "maskclip": Method("Zhou et al., ECCV 2022", of_pass=dense.maskclip, towers="transformers"),
    "clip-surgery": Method("Li et al., 2023", of_pass=dense.clip_surgery, towers="transformers"),
    "sclip": Method("Wang et al., ECCV 2024", of_pass=dense.sclip, towers="transformers"),
    "scorecam": Method("Wang et al., CVPRW 2020", of_pass=perturbation.scorecam, linear=False, slow=True),
    "occlusion": Method("Zeiler and Fergus, ECCV 2014", of_pass=perturbation.occlusion, slow=True),
    "rise": Method("Petsiuk et al., BMVC 2018", of_pass=perturbation.rise, slow=True),
}


def method_named(name: str) -> Method:
    """The method of a name. Raises InputError for a name that is not in `METHODS`."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"there is no method '{name}'; there are {', '.join([*METHODS, *PRESETS])}")
    return METHODS[name]


def maps_of(forward: ForwardPass, directions: Tensor, name: str) -> Tensor:
    """The signed maps of directions [K, D] by the method of a name, float32 [K, N].

    Few directions are pulled back one by one. For many, and a method that is linear in them, the map of every axis of
    embedding space is computed once and the rest is a matrix product. Both ways give the same.
    """
    if not len(directions):
        return directions.new_zeros(0, forward.grid[0] * forward.grid[1])
    method, width = method_named(name), directions.shape[1]
    if method.linear and len(directions) >= width:
        axes = torch.eye(width, device=directions.device)
        return directions @ forward.once(("axes", name), lambda: _pulled_back(forward, axes, method))
    return _pulled_back(forward, directions, method)


def maps_of_sums(forward: ForwardPass, weights: Tensor, targets: Tensor, contrasts: Tensor, options: Options) -> Tensor:
    """The signed maps of Q sums of directions, float32 [Q, N]. The one place where a difference of maps is taken.

    It comes before ReLU and any scaling. Directions are subtracted if method and objective are linear, else maps.

    Args:
        forward: The image.
        weights: What each direction counts for in each sum, its target first, [Q, 1 + M].
        targets: [Q, D], one per sum, or [1, D], the same for every one.
        contrasts: [M, D], the same for every sum.
        options: Method and objective; some objectives are not linear in the maps (`objectives.OF_MAPS`).
    """
    name, of_maps = options.method, objectives.OF_MAPS.get(options.objective)
    if method_named(name).linear and of_maps is None:
        return maps_of(forward, objectives.combined(weights, targets, contrasts), name)
    alone = maps_of(forward, targets, name), maps_of(forward, contrasts, name)
    return (of_maps or objectives.combined)(weights, *alone)


def _pulled_back(forward: ForwardPass, directions: Tensor, method: Method) -> Tensor:
    # Methods that are not linear amplify rounding differences, so each direction is computed by itself, whatever else
    # is asked.
    chunks = torch.split(directions, _DIRECTIONS if method.linear else 1)
    return torch.cat([method.maps(forward, chunk).detach() for chunk in chunks])
