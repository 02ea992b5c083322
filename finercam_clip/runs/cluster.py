"""A run on a Ray cluster: an actor per model computes and writes shards, the driver keeps numbers only.

Ray starts an actor anew whose process or machine dies, and gives it its shard again. An actor that does not come back
holds nobody up: when all other shards are done, a free actor does the one that it had.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from finercam_clip import progress
from finercam_clip.errors import InputError, UnfinishedError
from finercam_clip.files import MAPS
from finercam_clip.paths import reason
from finercam_clip.runs.errand import Errand
from finercam_clip.runs.ledger import Ledger, begin, check_ledger
from finercam_clip.runs.shards import ALL, shard_of
from finercam_clip.runs.store import Store
from finercam_clip.runs.work import Job, Shard, Summary, computed_shard, shard_there, unfinished

TRIES = 3  # of a shard that fails
_PATIENCE = 3.0  # times the longest that a shard has taken, before a free actor does one that is under way, too
_LEAST_PATIENCE = 5.0  # seconds


def on_ray(errand: Errand, address: str = "", workers: int | None = None, gpus: float | None = None) -> Summary:
    """Does what is missing of a run on a Ray cluster.

    Args:
        errand: What is done.
        address: Of the cluster; "" for RAY_ADDRESS, or a cluster of this machine alone.
        workers: How many actors, a model each; None for as many as the cluster has room for.
        gpus: GPUs per actor, which may be a fraction; None for 1 if the cluster has any, else 0.

    Raises:
        InputError: Ray is not installed or not there, or the run cannot begin (see `generate`).
        UnfinishedError: It stopped in the middle. What is done stays.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'finercam_clip[ray]'") from error
    errand = errand.anywhere()
    job, store = errand.job()
    check_ledger(store, job.ledger)
    store.check()
    errand = replace(errand, settings=errand.settings | {"threads": job.ledger["threads"]})
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address or None, log_to_driver=False, logging_level="error", configure_logging=False)
        except Exception as error:  # it has a dozen
            raise InputError(f"there is no Ray cluster at {address or 'this machine'}: {reason(error)}") from error
    try:
        with store.work(ALL, MAPS):
            ledger = begin(store, job.ledger)
            actors = _actors(ray, errand, ledger, workers, gpus)
            try:
                return _Pool(ray, job, store, ledger, deque(actors)).done()
            except (InputError, OSError, ray.exceptions.RayError) as error:
                raise unfinished(store, error if isinstance(error, OSError) else InputError(str(error))) from error
            finally:
                for actor in actors:
                    ray.kill(actor)
    finally:
        if started:
            ray.shutdown()


class Worker:
    """An actor: a model that computes shards."""

    def __init__(self, errand: Errand, ledger: Ledger) -> None:
        torch.set_num_threads(int(ledger["threads"]))
        self.job, self.store = errand.job()
        check_ledger(self.store, self.job.ledger)
        self.ledger = ledger

    def shard(self, number: int) -> tuple[Shard | str, float]:
        """Computes a shard, unless it is there. A text says why it could not be done. Returns the seconds, too."""
        begun = time.monotonic()
        try:
            there = shard_there(self.job, self.store, number, self.ledger)
            answer: Shard | str = there or computed_shard(self.job, self.store, number, self.ledger)
        except (InputError, OSError) as error:
            answer = reason(error)
        return answer, time.monotonic() - begun


def _actors(ray: Any, errand: Errand, ledger: Ledger, workers: int | None, gpus: float | None) -> list[Any]:
    """The actors. Those that the cluster has no room for yet start when it has."""
    there, cpus = ray.cluster_resources(), int(ledger["threads"])
    gpus = (1.0 if there.get("GPU") else 0.0) if gpus is None else gpus
    if workers is None:
        room = there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1) / cpus
        workers = max(int(room), 1)
    needs = {"num_cpus": min(cpus, there.get("CPU", 1)), "num_gpus": gpus}
    lasting = {"max_restarts": -1, "max_task_retries": -1}
    kind = ray.remote(**needs, **lasting)(Worker)
    return [kind.remote(errand, ledger) for _ in range(workers)]


@dataclass
class _Pool:
    """The driver's own knowledge: which shard each actor has.

    Attributes:
        ray: The package.
        job: What is done; the driver computes nothing of it.
        store: Where the run lies.
        ledger: The run's.
        free: Actors that have no shard.
        busy: What an actor will answer -> the actor, its shard, and since when, seconds.
        summary: What the run has come to.
        tries: Shard -> how often it failed.
    """

    ray: Any
    job: Job
    store: Store
    ledger: Ledger
    free: deque[Any]
    busy: dict[Any, tuple[Any, int, float]] = field(default_factory=dict)
    summary: Summary = field(default_factory=Summary)
    tries: Counter[int] = field(default_factory=Counter)

    def done(self) -> Summary:
        """Gives the missing shards to actors, and waits for all of them."""
        summary, missing = self.summary, deque(self._missing())
        summary.unreadable |= self.job.dataset.left_out
        open_shards, longest = set(missing), 0.0
        total = summary.images + sum(map(self._images, missing))
        with progress.bar(total, initial=summary.images, unit="image") as bar:
            while open_shards:
                while self.free and missing:
                    self._give(missing.popleft())
                if self.free and longest:
                    self._give_again(open_shards, max(longest * _PATIENCE, _LEAST_PATIENCE))
                if not self.busy:
                    raise UnfinishedError("no actor is left that could go on")
                for ref in self.ray.wait(list(self.busy), timeout=1.0)[0]:
                    actor, number, _ = self.busy.pop(ref)
                    answer, seconds = self._answer(ref, actor)
                    if number not in open_shards:
                        continue
                    if isinstance(answer, Shard):
                        longest = max(longest, seconds)
                        summary.add(answer, now=True)
                    else:
                        self.tries[number] += 1
                        if self.tries[number] < TRIES:
                            missing.append(number)
                            continue
                        summary.failed[number] = answer
                    open_shards.discard(number)
                    bar.update(self._images(number))
        return summary

    def _missing(self) -> Iterator[int]:
        for number in progress.each(range(self.job.shards), "what is there", unit="shard"):
            there = shard_there(self.job, self.store, number, self.ledger)
            if there is None:
                yield number
            else:
                self.summary.add(there, now=False)

    def _images(self, number: int) -> int:
        return len(shard_of(self.job.dataset.items, number, self.job.size))

    def _give(self, number: int) -> None:
        actor = self.free.popleft()
        self.busy[actor.shard.remote(number)] = (actor, number, time.monotonic())

    def _give_again(self, open_shards: set[int], patience: float) -> None:
        """Gives a shard whose actor may be gone to a free one, too: both would write the same bytes."""
        under_way = Counter(number for _, number, _ in self.busy.values())
        for _, number, since in list(self.busy.values()):
            late = time.monotonic() - since > patience
            if late and self.free and number in open_shards and under_way[number] == 1:
                self._give(number)

    def _answer(self, ref: Any, actor: Any) -> tuple[Shard | str, float]:
        """What an actor says, and how long it took. One that cannot start is not asked again."""
        try:
            answer: tuple[Shard | str, float] = self.ray.get(ref)
        except self.ray.exceptions.RayActorError as error:
            return str(error).strip().splitlines()[-1], 0.0
        except self.ray.exceptions.RayError as error:
            answer = str(error).strip().splitlines()[-1], 0.0
        self.free.append(actor)
        return answer
