"""What the model loses without a part, and how the map is brought to pixels: against calculations by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr

from finercam_clip import InputError
from finercam_clip.datasets import DataSet, Truth, open_dataset
from finercam_clip.evaluation import causes, metrics
from finercam_clip.evaluation.heats import on_image, on_input
from finercam_clip.evaluation.judging import Pair
from finercam_clip.evaluation.protocol import Protocol
from finercam_clip.evaluation.referee import evaluate
from finercam_clip.evaluation.stopwatch import Stopwatch
from finercam_clip.explainer import Explainer
from finercam_clip.render import peak_of

PARTS = {"beak": ((30.0, 40.0),), "tail": ((90.0, 80.0),), "wing": ((60.0, 20.0), (70.0, 30.0))}
WHERE = Protocol(groups=("difference", "causes"))


@pytest.fixture(scope="module")
def one(birds: Path) -> DataSet:
    """One drawn bird."""
    dataset = open_dataset(birds).split("train")
    return replace(dataset, items=dataset.items[:1])


def _truth(dataset: DataSet) -> Truth:
    """Parts of the bird; the classes differ in the beak, and less in the tail."""
    classes = {
        name: {
            "beak": (np.eye(4)[i],),
            "tail": (np.array([0.5, 0.5]) + 0.1 * i * np.array([1, -1]),),
            "wing": (np.array([1.0]),),
        }
        for i, name in enumerate(dataset.classes)
    }
    return Truth(("points",), points={dataset.items[0].name: PARTS}, classes=classes)


def test_causes_are_those_of_a_calculation_by_hand(tiny: Explainer, one: DataSet) -> None:
    watch = Stopwatch()
    result = evaluate(tiny, one, truth=_truth(one), protocol=WHERE, gammas=[0.8], watch=watch)
    assert watch.passes == len(PARTS)
    space, image = tiny.loaded.space, np.asarray(Image.open(one.items[0].path).convert("RGB"))
    target = one.classes.index(str(one.items[0].target))
    texts = [space.spoken(name) for name in one.classes]
    other = 1 if target == 0 else 0  # further classes differ more in the tail, too
    pair = tiny.embed([texts[target], texts[other]])

    def scores(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (space.scale * pair @ tiny.encode(picture).embedding).numpy()

    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    before, lost = scores(image), {}
    for part, points in PARTS.items():
        changed = image.copy()
        for px, py in points:
            changed[(x - px) ** 2 + (y - py) ** 2 <= 11.2**2] = (image / 255).mean((0, 1)) * 255 + 0.5
        lost[part] = before - scores(changed)
    gap = {part: fall[0] - fall[1] for part, fall in lost.items()}
    rows = {(row.mode, row.figure): row.value[0] for row in result.rows}
    cooler = [gap[part] < gap["beak"] for part in ("tail", "wing")]
    assert rows["masked parts", "differing part: rank"] == np.mean(cooler)
    assert rows["masked parts", "gap lost without the differing part"] == pytest.approx(gap["beak"], abs=2e-3)
    rest = np.mean([gap["tail"], gap["wing"]])
    assert rows["masked parts", "gap lost without another part"] == pytest.approx(rest, abs=2e-3)
    for mode, contrasts, gamma in (("baseline", [], 0.0), ("finer-compare", [texts[other]], 0.8)):
        answer = tiny.explain(image, texts[target], contrasts, gamma=gamma)
        heats = metrics.part_heats(answer.heatmap, PARTS, 11.2)
        effects = [lost[part][0] - gamma * lost[part][1] for part in PARTS]
        expected = spearmanr([heats[part] for part in PARTS], effects).statistic
        assert rows[mode, "causal rank"] == pytest.approx(expected)
    assert ("finer-default", "causal rank") not in rows  # of one contrast only
    assert "| masked parts |" in result.table()


def test_a_map_of_the_effects_themselves_agrees_and_its_complement_does_not() -> None:
    effects = {"beak": 0.1, "tail": 0.7, "wing": -0.2, "leg": 0.3}
    assert metrics.agreement(effects, effects) == {"causal rank": 1.0, "causal hit": 1.0}
    against = {part: 1 - value for part, value in effects.items()}
    assert metrics.agreement(against, effects) == {"causal rank": -1.0, "causal hit": 0.0}
    nothing = dict.fromkeys(effects, 0.0)
    assert metrics.agreement(nothing, effects) == {"causal rank": 0.0, "causal hit": 0.0}


def test_the_model_itself_ranks_the_part_without_which_the_gap_falls_most() -> None:
    before = torch.tensor([3.0, 1.0])
    after = {"beak": [1.0, 1.5], "tail": [2.0, 0.0], "wing": [3.0, 0.5], "leg": [2.9, 1.0]}
    masked = causes.Changed(before, {part: torch.tensor(scores) for part, scores in after.items()})
    own = causes.models_own(masked, Pair("another", {"beak": 0.9, "tail": 0.2, "wing": 0.1, "leg": 0.3}))
    assert own["differing part: rank"] == 1
    assert own["gap lost without the differing part"] == pytest.approx(2.5)
    assert own["gap lost without another part"] == pytest.approx((0 - 0.5 + 0.1) / 3)
    assert masked.effects("similarity", 0.0)["tail"] == pytest.approx(1)
    assert masked.effects("finer-rectified", 0.5)["beak"] == pytest.approx(2 + 0.25)


def test_without_causes_nothing_is_masked(tiny: Explainer, one: DataSet) -> None:
    watch = Stopwatch()
    result = evaluate(tiny, one, truth=_truth(one), protocol=Protocol(groups=("difference",)), watch=watch)
    assert watch.passes == 0
    assert not [row for row in result.rows if row.mode == "masked parts"]


def test_cells_become_pixels_as_torch_enlarges_them(tiny: Explainer) -> None:
    size = tiny.loaded.preprocess.size
    encoding = tiny.encode(np.zeros((*size, 3), np.uint8))
    grid = np.random.default_rng(0).normal(size=encoding.grid).astype(np.float32)
    cells = torch.from_numpy(np.maximum(grid, 0))[None, None] / np.abs(grid).max()
    for upsampling, settings in (("bilinear", {"align_corners": False}), ("nearest", {})):
        expected = F.interpolate(cells, size, mode=upsampling, **settings)[0, 0].numpy()
        heat = on_input(encoding, grid, Protocol(upsampling=upsampling))
        # Between the finer cells it is bicubic: at the edges of cells a pixel of "nearest" may lie between two values.
        assert np.abs(heat - expected).mean() < 0.01
        if upsampling == "bilinear":
            assert heat == pytest.approx(expected, abs=0.01)


def test_from_the_lowest_to_the_highest_value_keeps_the_order_and_lights_up_the_background(tiny: Explainer) -> None:
    encoding = tiny.encode(np.zeros((90, 120, 3), np.uint8))
    grid = np.linspace(-2, 1, encoding.grid[0] * encoding.grid[1], dtype=np.float32).reshape(encoding.grid)
    whole, half = (on_image(encoding, grid, Protocol(scaling=scaling)) for scaling in ("min-max", "positive"))
    assert (half > 0).mean() < 0.5 < (whole > 0).mean()
    assert whole.max() == pytest.approx(1)
    assert peak_of(whole) == peak_of(half)


def test_only_the_fills_that_are_named_are_measured(tiny: Explainer, one: DataSet) -> None:
    protocol = Protocol(groups=("drop",), fills=("blur",))
    result = evaluate(tiny, one, truth=Truth(), protocol=protocol)
    assert {row.figure for row in result.rows} == {
        f"RD@{share} blur, {support}" for share in (5, 10) for support in ("all", "pair")
    }
    assert not result.rankings  # there is nothing to compare
    assert any("fills blur (" in line for line in result.protocol)


@pytest.mark.parametrize(
    "changes", [{"fills": ("pink",)}, {"scaling": "loud"}, {"upsampling": "bilinaer"}], ids=lambda c: next(iter(c))
)
def test_a_protocol_that_does_not_exist_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"there is no .* '(pink|loud|bilinaer)'"):
        Protocol(**changes)
