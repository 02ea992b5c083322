"""Faithfulness of the maps of one image: pictures without some pixels go through the model in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.evaluation import faithfulness
from finercam_clip.evaluation.protocol import DELETION, DROPS, INSERTION, TENTHS
from finercam_clip.evaluation.stopwatch import Stopwatch
from finercam_clip.explainer import ImageEncoding
from finercam_clip.towers.passes import embed_changed

CONTROLLED = "mean"  # the fill that controls are measured with

Figures = dict[str, float]


@dataclass(frozen=True)
class Probe:
    """One picture to look at: without the hottest pixels of a map, or with nothing else.

    Attributes:
        share: Of the pixels, the hottest.
        fill: What takes the place of those that go.
        kept: Whether the hottest are all that stays, instead of what goes.
    """

    share: float
    fill: str
    kept: bool = False


def probes_for(groups: Sequence[str], fills: Sequence[str], *, control: bool) -> list[Probe]:
    """The pictures that the figures of one map need."""
    if control:
        return [Probe(DROPS[0], CONTROLLED)]
    probes = [Probe(share, fill) for fill in fills for share in DROPS] if "drop" in groups else []
    if "curves" in groups:
        probes += [Probe(share, DELETION) for share in TENTHS[1:]]
        probes += [Probe(share, INSERTION, kept=True) for share in TENTHS[:-1]]
    return list(dict.fromkeys(probes))


@dataclass(frozen=True)
class Heat:
    """A map to be probed.

    Attributes:
        pixels: The heat of the pixels of the model's input [H, W].
        probes: What is asked of it.
    """

    pixels: NDArray[np.float32]
    probes: list[Probe]


def scored(
    encoding: ImageEncoding, heats: Sequence[Heat], directions: Tensor, target: int, contrast: int, watch: Stopwatch
) -> list[Figures]:
    """Faithfulness of each map.

    Args:
        encoding: The image.
        heats: Its maps.
        directions: Of all classes [K, D]; the softmax over all is over these.
        target: The index of the target's.
        contrast: The index of the most similar class's.
        watch: Told what time is spent on.
    """
    with watch.on("pictures"):
        pixels = encoding.forward.pixels[0]
        fills = _fills(encoding)
        pictures: list[Tensor] = []
        for heat in heats:
            ranks = torch.from_numpy(faithfulness.ranks(heat.pixels)).to(pixels.device)
            pictures += [_picture(pixels, ranks, probe, fills) for probe in heat.probes]
        if not pictures:
            return [{} for _ in heats]
        stack = torch.stack(pictures).contiguous(memory_format=torch.channels_last)
    with watch.on("masked passes"):
        embeddings = embed_changed(encoding.forward, stack)
        embeddings = torch.cat([encoding.embedding[None], embeddings])  # the whole picture has gone through already
        logits = (encoding.explainer.loaded.space.scale * embeddings @ directions.T).cpu().numpy()
    watch.passes += len(stack)
    every = faithfulness.softmax(logits)[:, [target, contrast]]
    pair = faithfulness.softmax(logits[:, [target, contrast]])
    results, start = [], 1
    for heat in heats:
        found = {probe: (every[start + i], pair[start + i]) for i, probe in enumerate(heat.probes)}
        start += len(heat.probes)
        results.append(_figures((every[0], pair[0]), found))
    return results


def input_picture(encoding: ImageEncoding) -> NDArray[np.float32]:
    """What the model saw, RGB in 0..1, float32 [H, W, 3]."""
    mean, std = _normalisation(encoding)
    picture: NDArray[np.float32] = (encoding.forward.pixels[0].float().cpu() * std + mean).permute(1, 2, 0).numpy()
    return picture


def _normalisation(encoding: ImageEncoding) -> tuple[Tensor, Tensor]:
    cfg: Any = encoding.explainer.loaded.preprocess.cfg
    return torch.tensor(cfg.mean).reshape(3, 1, 1), torch.tensor(cfg.std).reshape(3, 1, 1)


def _fills(encoding: ImageEncoding) -> dict[str, Tensor]:
    """Each fill as the model's input, [3, H, W]."""
    picture, (mean, std) = input_picture(encoding), _normalisation(encoding)
    fills = {}
    for name, fill in faithfulness.FILLS.items():
        filled = torch.from_numpy(np.ascontiguousarray(fill(picture))).permute(2, 0, 1)
        fills[name] = ((filled - mean) / std).to(encoding.forward.pixels)
    return fills


def _picture(pixels: Tensor, ranks: Tensor, probe: Probe, fills: dict[str, Tensor]) -> Tensor:
    hottest = ranks < faithfulness.count_of(probe.share, ranks.numel())
    fill = fills[probe.fill]
    return torch.where(hottest, pixels, fill) if probe.kept else torch.where(hottest, fill, pixels)


def _figures(whole: Any, found: dict[Probe, Any]) -> Figures:
    """The figures of one map, from probabilities [target, contrast] over all classes and over the pair."""
    figures = {}
    for probe, after in found.items():
        if probe.share in DROPS and not probe.kept:
            for support, before, now in zip(("all", "pair"), whole, after, strict=True):
                name = f"RD@{probe.share * 100:g} {probe.fill}, {support}"
                figures[name] = faithfulness.confidence_drop(before, now)
    gone = [whole[0], *(found[Probe(s, DELETION)][0] for s in TENTHS[1:] if Probe(s, DELETION) in found)]
    if len(gone) == len(TENTHS):
        kept = [*(found[Probe(s, INSERTION, kept=True)][0] for s in TENTHS[:-1]), whole[0]]
        figures["deletion"] = faithfulness.area(TENTHS, [p[0] for p in gone])
        figures["insertion"] = faithfulness.area(TENTHS, [p[0] for p in kept])
        figures["contrastive"] = faithfulness.area(TENTHS, [p[0] - p[1] for p in gone])
        figures |= {f"contrastive at {s:g}": float(p[0] - p[1]) for s, p in zip(TENTHS, gone, strict=True)}
    return figures
