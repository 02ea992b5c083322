"""The bench measures what it says: known costs come out as they are, and what is measured is the toolkit itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.models import model_of, tiny_explainer
from reference.unchanged import unchanged
from torch import Tensor

from finercam_clip import bench as module
from finercam_clip.bench import CostRow, bench, bench_methods, format_table
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.methods import METHODS

MIB = 2**20
BARE, ENCODE, QUESTION = 2.0, 3.0, 0.125  # seconds: of a forward pass, of encoding, of each question
BARE_MIB, ENCODE_MIB = 8, 12  # what these allocate; a question allocates an eighth of a MiB


class Clock:
    """A clock that goes on only when told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slowness = 1.0

    def spend(self, seconds: float) -> None:
        self.now += seconds * self.slowness


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the computer's."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(module, "find_spec", lambda name: None)  # without the grad-cam package
    return clock


def _allocated(mib: float) -> Tensor:
    return torch.empty(int(mib * MIB), dtype=torch.uint8)


class _Preprocess:
    size = (8, 8)

    def __call__(self, image: Any) -> tuple[Tensor, None]:
        return torch.zeros(3, 8, 8), None


class Stub:
    """An explainer whose every step costs a known time and a known amount of memory."""

    def __init__(self, clock: Clock, rounds: Callable[[int], float] = lambda number: 1.0) -> None:
        self.clock, self.rounds, self.passes = clock, rounds, 0
        self.questions: list[tuple[int, dict[str, Any]]] = []
        self.loaded = SimpleNamespace(
            tower=SimpleNamespace(features=self.features),
            preprocess=_Preprocess(),
            space=SimpleNamespace(scale=1.0),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )

    def features(self, pixels: Tensor) -> Tensor:
        """A forward pass: the first thing in every round."""
        self.clock.slowness = self.rounds(self.passes)
        self.passes += 1
        self.clock.spend(BARE * len(pixels))
        return _allocated(BARE_MIB * len(pixels))

    def encode(self, images: NDArray[np.uint8] | list[NDArray[np.uint8]]) -> Any:
        if not isinstance(images, list):
            return self._encoding(None)
        self.clock.spend(ENCODE * len(images))
        tensors = [_allocated(ENCODE_MIB) for _ in images]
        return [self._encoding(tensor) for tensor in tensors]

    def _encoding(self, tensor: Tensor | None) -> Any:
        def heatmaps(targets: Tensor, contrasts: Tensor, **changes: Any) -> None:
            assert len(contrasts) == 1
            self.questions.append((len(targets), changes))
            self.clock.spend(QUESTION * len(targets))
            for _ in range(3):  # one after the other: the peak is that of one
                _allocated(len(targets) / 8)

        return SimpleNamespace(embedding=torch.zeros(4), heatmaps=heatmaps, tensor=tensor)


def _bench(stub: Stub, **settings: Any) -> list[CostRow]:
    explainer: Any = stub
    return bench(explainer, **settings)


# --------------------------------------------------------------------------------------------------------- known costs


@pytest.mark.parametrize("batch", [1, 3])
def test_seconds_and_memory_are_what_each_step_costs(clock: Clock, batch: int) -> None:
    """Each beside a bare forward pass; memory is the peak, so that what was freed in between does not count."""
    rows = _bench(Stub(clock), runs=3, batch=batch)
    assert [row.name for row in rows] == [
        "encode_image",
        "finercam_clip, 1 question",
        "finercam_clip, 32 questions",
        "finercam_clip, 1,000 questions",
    ]
    seconds = [BARE, *(ENCODE + QUESTION * n for n in (1, 32, 1000))]
    memory = [BARE_MIB * batch, *(ENCODE_MIB * batch + n / 8 for n in (1, 32, 1000))]
    assert [row.seconds for row in rows] == pytest.approx([batch * cost for cost in seconds])
    assert [row.ratio for row in rows] == pytest.approx([cost / BARE for cost in seconds])
    assert [row.memory for row in rows] == pytest.approx(memory, abs=0.05)
    assert [row.memory_ratio for row in rows] == pytest.approx([mib / memory[0] for mib in memory], abs=0.01)
    assert rows[0].ratio == rows[0].memory_ratio == 1


def test_the_first_round_warms_up_and_is_not_counted(clock: Clock) -> None:
    rows = _bench(Stub(clock, lambda number: 1000.0 if number == 0 else 1.0), runs=2)
    assert rows[0].seconds == BARE
    assert rows[1].seconds == ENCODE + QUESTION


def test_a_ratio_is_of_the_same_round_and_seconds_are_the_median(clock: Clock) -> None:
    """A machine that is busy in one round is so for all candidates of it."""
    slowness = [1.0, 1.0, 50.0, 3.0]
    rows = _bench(Stub(clock, lambda number: slowness[min(number, 3)]), runs=3)
    assert rows[0].seconds == 3 * BARE
    assert rows[1].seconds == 3 * (ENCODE + QUESTION)
    assert [row.ratio for row in rows[1:]] == pytest.approx([(ENCODE + QUESTION * n) / BARE for n in (1, 32, 1000)])


def test_every_image_is_asked_every_question_in_every_round(clock: Clock) -> None:
    stub = Stub(clock)
    _bench(stub, runs=2, batch=3)
    rounds = 1 + 2 + 1  # to warm up, those that count, for memory
    assert sorted(count for count, _ in stub.questions) == sorted([1, 32, 1000] * 3 * rounds)


def test_a_table_leaves_out_what_was_not_measured() -> None:
    rows = [CostRow("encode_image", 0.25, 1.0, 10.0, 1.0), CostRow("rise, 1 question", 20.0, 80.0, math.nan, math.nan)]
    _, rule, first, second = format_table(rows).split("\n")
    assert rule == "|---|---:|---:|---:|---:|"
    assert first == "| encode_image | 0.250 | 1.00 | 10.0 | 1.00 |"
    assert [cell.strip() for cell in second.split("|")[1:-1]] == ["rise, 1 question", "20.000", "80.00", "", ""]


# --------------------------------------------------------------------------------------------------------- true models


def test_the_grad_cam_package_is_measured_on_the_same_model_which_stays_as_it_was(tiny: Explainer) -> None:
    with unchanged(model_of(tiny)):
        rows = bench(tiny, runs=1)
    assert [row.name for row in rows[4:]] == ["grad-cam FinerCAM, 1 question", "grad-cam FinerCAM, 32 questions"]
    assert all(row.seconds > 0 and row.memory > 0 for row in rows)
    assert format_table(rows).count("\n") == len(rows) + 1


@pytest.mark.slow
def test_images_in_batches_are_measured_beside_a_forward_pass_of_the_same_batch(tiny: Explainer) -> None:
    one, three = bench(tiny, runs=1), bench(tiny, runs=1, batch=3)
    assert [row.name for row in three] == [row.name for row in one if "grad-cam" not in row.name]
    assert three[0].memory > 2 * one[0].memory
    assert three[1].memory > 2 * one[1].memory


@pytest.mark.slow
def test_every_method_that_works_on_the_model_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finercam_clip.methods.perturbation.RISE_MASKS", 20)
    rows = bench_methods(tiny_explainer(pool_type="avg"), runs=1)
    names = [row.name for row in rows]
    assert names[0] == "encode_image"
    assert set(names[1:]) == {
        f"{name}, {questions}"
        for name in METHODS
        if name != "grad-eclip"
        for questions in ("1 question", "32 questions")
    }
    slow = {name for name in names if (method := METHODS.get(name.split(",")[0])) and method.slow}
    assert {row.name for row in rows if math.isnan(row.memory)} == slow  # a run takes too long to be profiled
    assert all(math.isfinite(row.seconds) for row in rows)
    assert "nan" not in format_table(rows)


def test_methods_are_measured_by_name(tiny: Explainer) -> None:
    rows = bench_methods(tiny, ["hirescam", "rollout"], runs=1)
    assert [row.name.split(",")[0] for row in rows] == ["encode_image", *2 * ["hirescam"], *2 * ["rollout"]]
    with pytest.raises(InputError, match="no method 'lime'"):
        bench_methods(tiny, ["lime"], runs=1)
    with pytest.raises(InputError, match="class token"):  # not left out in silence, as of all of them
        bench_methods(tiny_explainer(pool_type="avg"), ["grad-eclip"], runs=1)


@pytest.mark.slow
def test_memory_on_vit_b_16_stays_near_a_bare_forward(
    vit_b_16: Explainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finercam_clip.bench.find_spec", lambda name: None)
    rows = bench(vit_b_16, runs=3)
    with capsys.disabled():
        print("\n" + format_table(rows))  # times are for reading: machines are too noisy to assert them
    assert all(row.memory_ratio <= 1.2 for row in rows)
