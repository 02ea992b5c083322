"""Which images a head is fitted to, and which it is measured on. All that can be wrong is told before any work."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finercam_clip import checks
from finercam_clip.concepts.vocabulary import SPLITS
from finercam_clip.datasets import CUB, DataSet, Item
from finercam_clip.errors import InputError, shown
from finercam_clip.paths import is_folder

HELD_OUT = 0.2  # the share of each class that is held out where a data set has no splits
_FITTED = "train"
_MEASURED = ("test", "valid", "val")
_SHOWN = 3  # names of classes or images in an error


@dataclass(frozen=True)
class Plan:
    """The images of a fit.

    Attributes:
        fitted: What the head is fitted to.
        measured: What its accuracy is measured on. None of these is among the others.
        classes: The names of the classes, in the order of the head's rows.
        words: Which images these are, in words.
    """

    fitted: tuple[Item, ...]
    measured: tuple[Item, ...]
    classes: tuple[str, ...]
    words: str

    def labels(self, items: Sequence[Item]) -> list[int]:
        """The row of each image's class."""
        rows = {name: row for row, name in enumerate(self.classes)}
        return [rows[str(item.target)] for item in items]


def planned(
    dataset: DataSet,
    *,
    split: str | None = None,
    test: str | None = None,
    held_out: float | None = None,
    seed: int = 0,
) -> Plan:
    """Chooses the images. See `fit` for the arguments.

    Raises:
        InputError: There is no such split, or it is empty; an image has no class; there are fewer than two classes; a
            class has a single image to be fitted, or none.
    """
    if not isinstance(dataset, DataSet):
        raise InputError(f"fit takes a data set, as open_dataset gives it, not {shown(dataset)}")
    seed = checks.count(seed, "the seed", least=0, most=2**32 - 1)
    if held_out is not None and test is not None:
        raise InputError("give a test split or a share that is held out, not both")
    share = checks.real(HELD_OUT if held_out is None else held_out)
    if share is None or not 0 < share < 1:
        raise InputError(f"the share that is held out lies between 0 and 1, as 0.2; not {shown(held_out)}")
    splits = {item.split for item in dataset.items if item.split}
    _check_no_empty_folder(dataset, splits)
    pool, pool_name = _pool(dataset, split, splits)
    _check_classes(dataset, pool)
    test = test if test is not None else _test_of(dataset, splits - {pool_name}) if held_out is None else None
    if test is None:
        fitted, measured = _held_out(pool, share, seed)
        words = f"{share:.0%} of each class of {pool_name or 'all images'} held out, drawn with seed {seed}"
    elif test == pool_name:
        raise InputError(f"the split '{test}' is what the head is fitted to: measure it on another one")
    else:
        fitted, measured = pool, dataset.split(test).items
        words = f"fitted to the split {pool_name or 'without a name'}, measured on {test}"
    names = {item.target for item in fitted}
    strange = sorted({str(item.target) for item in measured if item.target not in names})
    if strange:
        raise InputError(f"{_listed(strange)} of the split '{test}' has no image in '{pool_name}' to be fitted to")
    return Plan(fitted, measured, tuple(name for name in dataset.classes if name in names), words)


def _check_no_empty_folder(dataset: DataSet, splits: set[str]) -> None:
    if splits and not dataset.part and dataset.kind != CUB and is_folder(dataset.source):
        for name in SPLITS:
            if name not in splits and is_folder(dataset.source / name):
                raise InputError(f"the split '{name}' of {dataset.source} is empty: it holds no images")


def _pool(dataset: DataSet, split: str | None, splits: set[str]) -> tuple[tuple[Item, ...], str]:
    """The images to be fitted to, and the name of their split."""
    if split is None and splits:
        split = next(iter(splits)) if len(splits) == 1 else _FITTED
        if split not in splits:
            raise InputError(
                f"{dataset.source} has no split '{_FITTED}': name the one to be fitted to; its splits are "
                f"{', '.join(sorted(splits))}"
            )
    return (dataset.items, "") if split is None else (dataset.split(split).items, split)


def _test_of(dataset: DataSet, others: set[str]) -> str | None:
    """The split to be measured on; None where there are no splits at all."""
    for name in _MEASURED:
        if name in others:
            return name
    if others or any(item.split for item in dataset.items):
        raise InputError(
            f"{dataset.source} has no split '{_MEASURED[0]}' to be measured on, or it is empty: name another split, or "
            f"a share to hold out, as {HELD_OUT}"
        )
    return None


def _check_classes(dataset: DataSet, pool: Sequence[Item]) -> None:
    """Raises InputError where the images to be fitted to are not two of each of two classes."""
    without = [item.name for item in dataset.items if item.target is None]
    if without:
        raise InputError(f"{_listed(without)} of {dataset.source} has no class: a head is fitted to images by class")
    counts = Counter(str(item.target) for item in pool)
    if len(counts) < 2:
        raise InputError(f"{_listed(list(counts))} is the only class of {dataset.source}: a head needs two and more")
    single = [name for name, count in counts.items() if count < 2]
    if single:
        raise InputError(f"{_listed(single)} has a single image to be fitted to: a head needs two of each class")


def _held_out(pool: Sequence[Item], share: float, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The images to be fitted to, at least two of each class, and the others."""
    generator = np.random.default_rng(seed)
    members: dict[str, list[Item]] = defaultdict(list)
    for item in pool:
        members[str(item.target)].append(item)
    names: set[str] = set()
    for items in members.values():
        count = min(max(round(share * len(items)), 1), len(items) - 2)
        names |= {items[i].name for i in generator.permutation(len(items))[:count]}
    if not names:
        raise InputError("no class has more than two images: there is none to hold out; add some, or name a test split")
    return tuple(i for i in pool if i.name not in names), tuple(i for i in pool if i.name in names)


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return f"{listed} and {len(names) - _SHOWN} more: each" if len(names) > _SHOWN else listed
