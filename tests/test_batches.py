"""Batches that fit into memory."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from finercam_clip import InputError
from finercam_clip.batches import in_batches


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
