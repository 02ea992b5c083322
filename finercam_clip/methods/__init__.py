"""How it is explained: functions from (encoding, directions) to signed maps, before ReLU and before any scaling.

directions: [K, D] in embedding space (see `objectives`); the result is one value a patch, [K, N]. A method that is
linear in the direction gets the difference of target and contrasts as one direction, and answers a thousand questions
for the price of one; one that is not gets target and contrasts one by one, and the difference is taken of its signed
maps. The score that is explained is the model's own, whatever the method: nothing in the model is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.methods import attention, dense, gradients, perturbation
from finercam_clip.options import PRESETS
from finercam_clip.tails import Tail

if TYPE_CHECKING:
    from finercam_clip.explainer import ImageEncoding


@dataclass(frozen=True)
class Method:
    """A way to make maps. source: its paper; towers: which it works on; linear: in the direction; layered: it reads a
    target layer, so that `Options.layer` can move it; slow: hundreds of forward passes an image."""

    maps: Callable[[ImageEncoding, Tensor], Tensor]
    source: str
    towers: str = "any"
    linear: bool = True
    layered: bool = False
    slow: bool = False


def _layered(of_tail: Callable[[Tail, Tensor], Tensor]) -> Callable[[ImageEncoding, Tensor], Tensor]:
    """The mean of a tail's maps over the encoding's target layers."""
    return lambda encoding, directions: torch.stack([of_tail(tail, directions) for tail in encoding.tails]).mean(0)


_POOLED = "transformers that pool the class token or the mean"

METHODS: dict[str, Method] = {
    "hirescam": Method(_layered(gradients.hirescam), "Draelos and Carin, 2020", layered=True),
    "gradcam": Method(_layered(gradients.gradcam), "Selvaraju et al., ICCV 2017", layered=True),
    "xgradcam": Method(_layered(gradients.xgradcam), "Fu et al., BMVC 2020", layered=True),
    "gradcam++": Method(
        _layered(gradients.gradcam_plus_plus), "Chattopadhyay et al., WACV 2018", linear=False, layered=True
    ),
    "layercam": Method(_layered(gradients.layercam), "Jiang et al., TIP 2021", linear=False, layered=True),
    "eigencam": Method(_layered(gradients.eigencam), "Muhammad and Yeasin, IJCNN 2020", linear=False, layered=True),
    "grad-eclip": Method(attention.grad_eclip, "Zhao et al., ICML 2024", "transformers that pool the class token"),
    "legrad": Method(attention.legrad, "Bousselham et al., ICCV 2025", "transformers", linear=False),
    "chefer": Method(attention.chefer, "Chefer et al., ICCV 2021", _POOLED, linear=False),
    "rollout": Method(attention.rollout, "Abnar and Zuidema, ACL 2020", _POOLED, linear=False),
    "maskclip": Method(dense.maskclip, "Zhou et al., ECCV 2022", _POOLED),
    "clip-surgery": Method(dense.clip_surgery, "Li et al., 2023", _POOLED),
    "sclip": Method(dense.sclip, "Wang et al., ECCV 2024", _POOLED),
    "scorecam": Method(perturbation.scorecam, "Wang et al., CVPRW 2020", linear=False, slow=True),
    "occlusion": Method(perturbation.occlusion, "Zeiler and Fergus, ECCV 2014", slow=True),
    "rise": Method(perturbation.rise, "Petsiuk et al., BMVC 2018", slow=True),
}


def method_named(name: str) -> Method:
    """Raises InputError for a name that is not in METHODS."""
    if name not in METHODS:
        raise InputError(f"there is no method '{name}'; there are {', '.join([*METHODS, *PRESETS])}")
    return METHODS[name]


def methods_table() -> str:
    """The table of methods in Markdown."""
    lines = ["| method | source | towers | linear in the direction |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        lines.append(f"| `{name}` | {method.source} | {method.towers} | {'yes' if method.linear else ''} |")
    return "\n".join(lines)


__all__ = ["METHODS", "Method", "method_named", "methods_table"]
