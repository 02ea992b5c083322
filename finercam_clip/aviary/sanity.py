"""Sanity checks: a map that survives random weights, or cannot tell equal from different, explains nothing.

After Adebayo et al., *Sanity Checks for Saliency Maps* (NeurIPS 2018), with two that only a drawn world allows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from finercam_clip.aviary import world
from finercam_clip.aviary.benchmark import SIZE, Question, make_question
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.towers import tower_of


@dataclass(frozen=True)
class Check:
    """One figure of one check. bound: what it must be below, or (`above`) above; None where only the trend matters."""

    check: str
    figure: str
    value: float
    bound: float | None
    above: bool = False

    @property
    def passed(self) -> bool:
        return self.bound is None or (self.value >= self.bound if self.above else self.value <= self.bound)


def check_sanity(
    explainer: Explainer, *, questions: int = 50, seed: int = 0, progress: Callable[[str], None] = lambda line: None
) -> list[Check]:
    """All checks, on `questions` held-out questions that name one part, with the default options.

    Raises:
        InputError: no questions, or seeds that training draws from.
    """
    if questions < 1:
        raise InputError(f"the number of questions is 1 or more, not {questions}")
    asked = [make_question("attribute", seed + i) for i in range(questions)]
    progress("random weights")
    checks = list(_random_weights(explainer, asked))
    progress("equal birds")
    checks += _equal_birds(explainer, asked)
    progress("colours permuted")
    return checks + _permuted_colours(explainer, questions, seed)


def _random_weights(explainer: Explainer, asked: list[Question]) -> Iterator[Check]:
    """Cascading randomisation: the image tower's layers lose their weights from the output down."""
    own = explainer.loaded.tower
    visual = copy.deepcopy(own.visual)
    broken = Explainer(replace(explainer.loaded, tower=tower_of(visual, own.size, unit_norm=own.unit_norm)))
    before = [_grid(explainer, question) for question in asked]
    blocks = list(visual.transformer.resblocks)
    layers = [(f"block {i + 1}", block) for i, block in reversed(list(enumerate(blocks)))]
    for name, layer in [*layers, ("patch embedding", visual.conv1)]:
        reset(layer)
        after = [_grid(broken, question) for question in asked]
        value = float(np.mean([spearmanr(a, b, axis=None).statistic for a, b in zip(before, after, strict=True)]))
        last = layer is visual.conv1
        yield Check(f"random weights, output down to {name}", "rank correlation of maps", value, 0.2 if last else None)


def reset(layer: nn.Module) -> None:
    """Puts the parameters of a layer back to fresh random ones: matrices N(0, 0.02), gains 1, offsets 0."""
    torch.manual_seed(0)
    for name, parameter in layer.named_parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))


def _equal_birds(explainer: Explainer, asked: list[Question]) -> list[Check]:
    """The same trait in other words as the contrast, gamma 1: nothing differs, the map is empty beside a real one."""
    ratios = []
    for question in asked:
        encoding = explainer.encode(question.scene.image)
        same = question.target.removeprefix("a bird with ")
        empty, real = (encoding.explain(question.target, [text], gamma=1.0).grid for text in (same, question.contrast))
        ratios.append(float(np.abs(empty).max() / np.abs(real).max()))
    return [
        Check(
            "the same trait in other words", "largest value / that of a real contrast", float(np.median(ratios)), 0.35
        )
    ]


def _permuted_colours(explainer: Explainer, questions: int, seed: int) -> list[Check]:
    """Every bird again with its colours permuted: the answers permute with them, and the maps stay where they are."""
    colours = list(world.COLOURS)
    followed, correlations = [], []
    for i in range(questions):
        rng = np.random.default_rng((seed + i, len(colours)))
        bird, part = world.sample_bird(rng), str(rng.choice(world.PARTS))
        renamed = dict(zip(colours, (str(colour) for colour in rng.permutation(colours)), strict=True))
        permuted = world.Bird(tuple(renamed.get(value, value) for value in bird.values))
        other = world.change_trait(bird, part, rng)[part]
        grids = []
        for shown, names in ((bird, {c: c for c in colours}), (permuted, renamed)):
            encoding = explainer.encode(world.draw(shown, (seed + i, 0), size=SIZE).image)
            target, contrast = (world.describe(((part, names[colour]),)) for colour in (bird[part], other))
            explanation = encoding.explain(target, [contrast])
            grids.append(explanation.grid)
            found = explainer.embed([world.describe(((part, names[c]),)) for c in colours]) @ encoding.embedding
            if shown is bird:
                first = int(found.argmax())
        followed.append(float(int(found.argmax()) == first))
        correlations.append(spearmanr(*grids, axis=None).statistic)
    return [
        Check("colours permuted", "answers that permute with them", float(np.mean(followed)), 0.9, above=True),
        Check("colours permuted", "rank correlation of maps", float(np.mean(correlations)), None),
    ]


def _grid(explainer: Explainer, question: Question) -> np.ndarray:
    return explainer.explain(question.scene.image, question.target, [question.contrast]).grid


def format_table(checks: list[Check]) -> str:
    """The checks as a Markdown table."""
    lines = ["| check | figure | value | must be | |", "|---|---|---:|---|---|"]
    for c in checks:
        bound = "" if c.bound is None else f"{'at least' if c.above else 'at most'} {c.bound:g}"
        lines.append(f"| {c.check} | {c.figure} | {c.value:.3f} | {bound} | {'ok' if c.passed else 'FAILED'} |")
    return "\n".join(lines)
