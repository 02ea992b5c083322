"""Batches that fit into memory."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
import torch
from torch import Tensor

from finercam_clip import InputError
from finercam_clip.batches import batch_of, in_batches, side_by_side, through_model
from finercam_clip.runs.pictures import threads_of


@pytest.fixture(params=[False, True], ids=["torch as installed", "torch 2.2 to 2.4"], autouse=True)
def _torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.OutOfMemoryError` exists from torch 2.5 on; the package allows 2.2."""
    if request.param:
        monkeypatch.delattr(torch, "OutOfMemoryError", raising=False)


class Memory:
    """Doubles each item of a batch, unless the batch is larger than what fits."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.sizes: list[int] = []  # of every batch that was tried

    def double(self, batch: list[int]) -> list[int]:
        assert batch  # never an empty one, or it would go on for ever
        self.sizes.append(len(batch))
        if len(batch) > self.fits:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return [2 * item for item in batch]


def test_results_are_in_the_order_of_the_items_one_per_item() -> None:
    memory = Memory(fits=4)
    assert in_batches(memory.double, list(range(10)), 4) == list(range(0, 20, 2))
    assert memory.sizes == [4, 4, 2]


def test_a_tensor_is_cut_along_its_first_axis() -> None:
    def rows(batch: Tensor) -> list[Tensor]:
        assert batch.shape[1:] == (3,)
        return list(batch + 1)

    items = torch.arange(15.0).reshape(5, 3)
    torch.testing.assert_close(torch.stack(in_batches(rows, items, 2)), items + 1)


def test_no_items_are_no_batches() -> None:
    memory = Memory(fits=4)
    assert in_batches(memory.double, [], 4) == []
    assert memory.sizes == []


def test_out_of_memory_halves_the_batch_and_warns_and_loses_no_item() -> None:
    memory = Memory(fits=3)
    with pytest.warns(UserWarning, match="out of memory") as caught:
        assert in_batches(memory.double, list(range(20)), 16) == list(range(0, 40, 2))
    assert [str(warning.message) for warning in caught] == [
        f"out of memory: going on with batches of {batch}" for batch in (8, 4, 2)
    ]
    assert memory.sizes == [16, 8, 4, *[2] * 10]  # and does not try the larger ones again


def test_a_batch_of_one_that_does_not_fit_raises() -> None:
    memory = Memory(fits=0)
    with pytest.warns(UserWarning, match="batches of 1"), pytest.raises(torch.cuda.OutOfMemoryError):
        in_batches(memory.double, [1, 2, 3], 2)
    assert memory.sizes == [2, 1]


@pytest.mark.parametrize("error", [InputError("bird.jpg: no such file"), RuntimeError("another"), KeyboardInterrupt()])
def test_any_other_error_comes_out_as_it_is(error: BaseException) -> None:
    def fail(batch: list[int]) -> list[int]:
        raise error

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(type(error)) as caught:
            in_batches(fail, [1, 2, 3], 2)
    assert caught.value is error


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_batches_side_by_side_give_the_results_in_order_and_leave_torch_its_threads(threads: int, count: int) -> None:
    seen: list[tuple[int, int]] = []

    def double(part: list[int]) -> list[int]:
        seen.append((len(part), torch.get_num_threads()))
        return [2 * item for item in part]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert side_by_side(double, list(range(count)), 8) == list(range(0, 2 * count, 2))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(0 < size <= 8 for size, _ in seen)
    if count == 40:
        assert len(seen) % threads == 0  # none is idle
        assert {own for _, own in seen} == {1}


def test_an_error_of_a_batch_beside_others_comes_out_as_it_is() -> None:
    def fail(part: list[int]) -> list[int]:
        raise InputError("too large")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(InputError, match="too large"):
            side_by_side(fail, list(range(20)), 4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(("size", "largest"), [(32, 196), (224, 4), (448, 1), (1024, 1)])
def test_few_pictures_go_through_a_model_at_a_time_and_one_after_the_other_where_hooks_listen(
    size: int, largest: int, hooked: bool
) -> None:
    pixels = torch.arange(9.0)[:, None, None, None].expand(9, 3, size, size)
    within, most, lock = 0, 0, threading.Lock()
    sizes: list[int] = []

    def first(part: Tensor) -> list[float]:
        nonlocal within, most
        with lock:
            within, most = within + 1, max(most, within + 1)
            sizes.append(len(part))
        time.sleep(0.05)
        with lock:
            within -= 1
        return [float(picture[0, 0, 0]) for picture in part]

    with threads_of(2):
        assert through_model(first, pixels, hooked=hooked) == list(range(9))
    assert batch_of(pixels) == largest
    assert max(sizes) <= largest
    assert most == (1 if hooked else 2)
