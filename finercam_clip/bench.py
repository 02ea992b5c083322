"""What a question costs: time and peak memory of this toolkit and of the grad-cam package beside a bare forward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from open_clip.utils import to_2tuple
from PIL import Image
from torch import Tensor, nn

from finercam_clip.explainer import Explainer
from finercam_clip.families import family_of
from finercam_clip.tails import unit_norm

QUESTIONS = (1, 32, 1000)


@dataclass(frozen=True)
class Row:
    """A measured line. seconds: median over rounds; ratio: median of its ratios to encode_image of the same round;
    memory: peak of tensors allocated during one run, in MiB; memory_ratio: to encode_image's."""

    name: str
    seconds: float
    ratio: float
    memory: float
    memory_ratio: float


def bench(explainer: Explainer, *, runs: int = 7, progress: Callable[[str], None] = lambda line: None) -> list[Row]:
    """Measures one image of random pixels; texts are embedded beforehand. Each of `runs` rounds runs everything."""
    loaded = explainer.loaded
    visual = loaded.model.visual
    size = to_2tuple(visual.image_size)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    pixels = loaded.preprocess(Image.fromarray(picture))[None].to(loaded.device, loaded.dtype)
    dimension = len(explainer.encode(picture).tail.embedding)
    texts = unit_norm(torch.randn(max(QUESTIONS) + 1, dimension, generator=torch.Generator().manual_seed(0)))
    texts = texts.to(loaded.device)

    def bare() -> None:
        with torch.no_grad():
            loaded.model.encode_image(pixels)

    def ours(questions: int) -> Callable[[], None]:
        def run() -> None:
            explainer.encode(picture).heatmaps(texts[:questions], texts[-1:])

        return run

    candidates: dict[str, Callable[[], None]] = {"encode_image": bare}
    candidates |= {f"finercam_clip, {n:,} question{'s' if n > 1 else ''}": ours(n) for n in QUESTIONS}
    if find_spec("pytorch_grad_cam"):
        for n in QUESTIONS[:2]:
            name = f"grad-cam FinerCAM, {n} question{'s' if n > 1 else ''}"
            candidates[name] = partial(_grad_cam_package, visual, pixels, texts, n, explainer.scale)

    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(-1, runs):  # the first round warms up and is not counted
        progress(f"round {round_ + 1} of {runs}")
        for name, run in candidates.items():
            if name.startswith("grad-cam") and ", 32" in name and round_ > 0:
                continue  # tens of times slower than the rest: once is enough
            spent = _timed(run, loaded.device)
            if round_ >= 0:
                seconds[name].append(spent)
    memory = {name: _peak_memory(run, loaded.device) for name, run in candidates.items()}
    base, base_memory = seconds["encode_image"], memory["encode_image"]
    return [
        Row(
            name,
            statistics.median(times),
            statistics.median(t / b for t, b in zip(times, base, strict=False)),
            memory[name] / 2**20,
            memory[name] / base_memory,
        )
        for name, times in seconds.items()
    ]


def format_table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| | seconds | x encode_image | peak memory, MiB | x encode_image |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [f"| {r.name} | {r.seconds:.3f} | {r.ratio:.2f} | {r.memory:.1f} | {r.memory_ratio:.2f} |" for r in rows]
    return "\n".join(lines)


def _timed(run: Callable[[], None], device: torch.device) -> float:
    _synchronize(device)
    began = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(run: Callable[[], None], device: torch.device) -> float:
    """Bytes of tensors alive at the worst moment of a run, beyond those alive before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before)
    with torch.profiler.profile(profile_memory=True) as profiler:
        run()
    alive = peak = 0
    kineto: Any = profiler.profiler.kineto_results
    for event in sorted((e for e in kineto.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return float(peak)


class Similarities(nn.Module):
    """Image tower and texts as a classifier, for packages that explain classifiers: pixels -> scaled cosines [B, K]."""

    def __init__(self, visual: nn.Module, texts: Tensor, scale: float) -> None:
        super().__init__()
        self.visual, self.texts, self.scale = visual, texts, scale

    def forward(self, pixels: Tensor) -> Tensor:
        similarities: Tensor = self.scale * unit_norm(self.visual(pixels)) @ self.texts.T
        return similarities


def _grad_cam_package(visual: Any, pixels: Tensor, texts: Tensor, questions: int, scale: float) -> None:
    """The grad-cam package's FinerCAM, one question after the other, each against one contrast."""
    from pytorch_grad_cam import FinerCAM, GradCAM

    family = family_of(visual)
    h, w = family.grid(visual, (pixels.shape[2], pixels.shape[3]))

    def grid(tokens: Tensor) -> Tensor:
        patches = family.patches(visual, tokens)
        return patches.reshape(-1, h, w, patches.shape[-1]).permute(0, 3, 1, 2)

    visual.requires_grad_(True)  # as its users have it: with a frozen model it finds no graph to go back through
    try:
        for i in range(questions):
            classifier = Similarities(visual, texts[[i, -1]], scale)
            layers = [family.target_layer(visual)]
            with FinerCAM(classifier, layers, reshape_transform=grid, base_method=GradCAM) as cam:
                cam(input_tensor=pixels, target_idx=0, comparison_categories=[1], alpha=0.6)
    finally:
        visual.zero_grad(set_to_none=True)
        visual.requires_grad_(False)
