"""What a question costs: time and peak memory of this toolkit and of the grad-cam package beside a bare forward."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from finercam_clip import progress, tables
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.methods import METHODS, maps_of
from finercam_clip.tensors import unit_norm
from finercam_clip.towers import Tower

QUESTIONS = (1, 32, 1000)


@dataclass(frozen=True)
class CostRow:
    """What was measured of one candidate.

    Attributes:
        name: The candidate.
        seconds: Median over rounds.
        ratio: Median of its ratios to encode_image of the same round.
        memory: Peak of the tensors allocated during one run, in MiB; not a number where a run takes too long to be
            profiled.
        memory_ratio: To encode_image's.
    """

    name: str
    seconds: float
    ratio: float
    memory: float
    memory_ratio: float


def bench(explainer: Explainer, *, runs: int = 7, batch: int = 1) -> list[CostRow]:
    """Measures images of random pixels, with every question asked about each; texts are embedded beforehand.

    Args:
        explainer: The model.
        runs: Rounds; each runs everything.
        batch: Images at a time.
    """
    subject = _subject(explainer, batch)
    candidates: dict[str, Callable[[], None]] = {"encode_image": subject.bare}
    for n in QUESTIONS:
        candidates[f"finercam_clip, {_questions(n)}"] = subject.asked(n)
    if batch == 1 and find_spec("pytorch_grad_cam"):
        scale = explainer.loaded.space.scale
        for n in QUESTIONS[:2]:
            run = partial(_grad_cam_package, explainer.loaded.tower, subject.pixels, subject.texts, n, scale)
            candidates[f"grad-cam FinerCAM, {_questions(n)}"] = run
    # Tens of times slower than the rest: once is enough.
    once = {name for name in candidates if name.startswith("grad-cam") and ", 32" in name}
    return _measured(candidates, once, (), runs, explainer.loaded.device)


def bench_methods(explainer: Explainer, methods: Collection[str] = (), *, runs: int = 7) -> list[CostRow]:
    """Measures methods with 1 and 32 questions.

    Args:
        explainer: The model.
        methods: Names; by default every one that works on this model.
        runs: Rounds; each runs everything but the slow methods.

    Raises:
        InputError: There is no such method, or it does not work on this model.
    """
    subject = _subject(explainer)
    candidates: dict[str, Callable[[], None]] = {"encode_image": subject.bare}
    once: set[str] = set()
    for name in methods or METHODS:
        if name not in METHODS:
            raise InputError(f"there is no method '{name}' to time; there are {', '.join(METHODS)}, or 'all'")
        method = METHODS[name]
        try:
            if not method.slow:  # those work on any tower
                maps_of(subject.encoding.forward, subject.texts[:1], name)
        except InputError:
            if methods:
                raise
            continue
        rows = {f"{name}, {_questions(n)}": subject.asked(n, method=name) for n in QUESTIONS[:2]}
        candidates |= rows
        once |= set(rows) if method.slow else set()
    return _measured(candidates, once, once, runs, explainer.loaded.device)


def _questions(count: int) -> str:
    return f"{count:,} question{'s' if count > 1 else ''}"


@dataclass(frozen=True, eq=False)
class _Subject:
    """What is measured.

    Attributes:
        explainer: The model.
        pictures: Images, uint8 [H, W, 3] each.
        pixels: The same as the model's input, [B, 3, H, W].
        encoding: The first of them, encoded.
        texts: Unit-norm directions, [1001, D].
    """

    explainer: Explainer
    pictures: list[NDArray[np.uint8]]
    pixels: Tensor
    encoding: ImageEncoding
    texts: Tensor

    @torch.no_grad()
    def bare(self) -> None:
        self.explainer.loaded.tower.features(self.pixels)

    def asked(self, questions: int, **changes: Any) -> Callable[[], None]:
        def run() -> None:
            for encoding in self.explainer.encode(self.pictures):
                encoding.heatmaps(self.texts[:questions], self.texts[-1:], **changes)

        return run


def _subject(explainer: Explainer, batch: int = 1) -> _Subject:
    loaded = explainer.loaded
    shape = (batch, *loaded.preprocess.size, 3)
    pictures = list(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
    pixels = torch.stack([loaded.preprocess(Image.fromarray(picture))[0] for picture in pictures])
    encoding = explainer.encode(pictures[0])
    count = max(QUESTIONS) + 1, len(encoding.embedding)
    texts = unit_norm(torch.randn(count, generator=torch.Generator().manual_seed(0))).to(loaded.device)
    return _Subject(explainer, pictures, pixels.to(loaded.device, loaded.dtype), encoding, texts)


def _measured(
    candidates: dict[str, Callable[[], None]],
    once: Collection[str],
    unprofiled: Collection[str],
    runs: int,
    device: torch.device,
) -> list[CostRow]:
    """Runs every candidate in every round.

    Args:
        candidates: Name -> what is run; ratios are to the first.
        once: Those that run in the first round only.
        unprofiled: Those whose memory is not measured.
        runs: Rounds that count; one more warms up.
        device: Where they run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in progress.each(range(-1, runs), unit="round"):  # the first warms up and is not counted
        for name, run in candidates.items():
            if name in once and round_ != 0:
                continue
            spent = _timed(run, device)
            if round_ >= 0:
                seconds[name].append(spent)
    memory = {name: _peak_memory(run, device) for name, run in candidates.items() if name not in unprofiled}
    first = next(iter(candidates))
    rows = []
    for name, times in seconds.items():
        ratio = statistics.median(t / b for t, b in zip(times, seconds[first], strict=False))
        peak = memory.get(name, float("nan"))
        rows.append(CostRow(name, statistics.median(times), ratio, peak / 2**20, peak / memory[first]))
    return rows


def format_table(rows: list[CostRow]) -> str:
    """The rows as a Markdown table."""
    cells = []
    for row in rows:
        known = math.isfinite(row.memory)
        memory = (f"{row.memory:.1f}", f"{row.memory_ratio:.2f}") if known else ("", "")
        cells.append((row.name, f"{row.seconds:.3f}", f"{row.ratio:.2f}", *memory))
    return tables.markdown(("", "seconds", "x encode_image", "peak memory, MiB", "x encode_image"), cells, numbers=4)


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


def _grad_cam_package(tower: Tower, pixels: Tensor, texts: Tensor, questions: int, scale: float) -> None:
    """The grad-cam package's FinerCAM, one question after the other, each against one contrast."""
    from pytorch_grad_cam import FinerCAM, GradCAM

    visual = tower.visual
    h, w = tower.grid((pixels.shape[2], pixels.shape[3]))

    def grid(tokens: Tensor) -> Tensor:
        patches = tower.patches(tokens)
        return patches.reshape(-1, h, w, patches.shape[-1]).permute(0, 3, 1, 2)

    visual.requires_grad_(True)  # as its users have it: with a frozen model it finds no graph to go back through
    try:
        for i in range(questions):
            classifier = Similarities(visual, texts[[i, -1]], scale)
            layers = [tower.layers()[-1]]
            with FinerCAM(classifier, layers, reshape_transform=grid, base_method=GradCAM) as cam:
                cam(input_tensor=pixels, target_idx=0, comparison_categories=[1], alpha=0.6)
    finally:
        visual.zero_grad(set_to_none=True)
        visual.requires_grad_(False)
