"""The unit of work: a shard, so many images in the data set's order. And who does which."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from finercam_clip.errors import InputError, shown

SHARD = 512  # images
_PART = re.compile(r"part-(\d{6,})\.parquet")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """What one of several processes does: every `count`-th shard, from shard `index` on.

    Attributes:
        index: Which process it is, 0 to count - 1.
        count: How many processes share the run.
    """

    index: int = 0
    count: int = 1

    def of(self, shards: int) -> range:
        """The numbers of its shards, of 0 to shards - 1."""
        return range(self.index, shards, self.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


ALL = Share()  # of one process


def read_share(text: str | None) -> Share:
    """A share from the command line.

    Args:
        text: "i/n": process i of n, counted from 0, as `datasets.Dataset.shard` and SLURM_PROCID count. None: what
            Slurm says (`srun` sets SLURM_PROCID and SLURM_NTASKS), else all shards.

    Raises:
        InputError: It is no such text.
    """
    if text is None:
        process, tasks = os.environ.get("SLURM_PROCID", ""), os.environ.get("SLURM_NTASKS", "")
        if not (process.isdecimal() and tasks.isdecimal() and int(process) < int(tasks)):
            return ALL
        return Share(int(process), int(tasks))
    words = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
    if words is None or int(words[1]) >= int(words[2]):
        raise InputError(f"--shards is i/n, process i of n counted from 0, as 0/8 to 7/8; not {shown(text)}")
    return Share(int(words[1]), int(words[2]))


def count_of(images: int, size: int) -> int:
    """How many shards so many images make."""
    return -(-images // size)


def shard_of(items: Sequence[Item], number: int, size: int) -> Sequence[Item]:
    """The items of one shard."""
    return items[number * size : (number + 1) * size]


def part_name(number: int) -> str:
    """The file of a shard."""
    return f"part-{number:06}.parquet"


def part_number(name: str) -> int | None:
    """The shard whose file is called so; None of other names."""
    match = _PART.fullmatch(name)
    return int(match[1]) if match else None
