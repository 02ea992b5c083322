"""The ledger of a run: what was asked of what, written once (run.json), and compared whenever a run goes on.

Nothing in what is compared depends on where data set and run lie: paths are relative to the data set's root, and files
of texts or weights count by their content. So another mount, or another machine, goes on with the same run.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import torch

from finercam_clip import checks
from finercam_clip.datasets import DataSet, Item
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.files import MAPS, SETTINGS
from finercam_clip.options import Options
from finercam_clip.paths import path_of, resolved, stays_inside, text_of
from finercam_clip.runs.asking import Asked, settings_of
from finercam_clip.runs.parts import MEND, numbers_in, part_in
from finercam_clip.runs.records import parsed
from finercam_clip.runs.store import Store, is_ours

Ledger = dict[str, Any]
_HERE = ("place", "hardware")  # what is only for people: where the data set lay, and on what the run was begun
_MOST_THREADS = 1024


def ledger_of(
    explainer: Explainer, dataset: DataSet, options: Options, asked: Callable[[Item], Asked] | None, **own: object
) -> Ledger:
    """What a run is about, ready for JSON.

    Args:
        explainer: The model.
        dataset: The images.
        options: How questions are answered.
        asked: An image -> what it is asked; None if all are asked the same, which is in `own`.
        own: What else tells this run from others: its kind, batch, shard_size, threads.
    """
    described = settings_of(explainer, dataset, options, target=None, contrasts=None, batch=0)
    for name in described["texts"]:
        if isinstance(described["settings"][name], str):  # its content is compared
            described["settings"][name] = PurePath(described["settings"][name]).name
    model = described["model"]
    model["pretrained"] = PurePath(model["pretrained"]).name  # its weights are compared
    ledger = own | {
        "split": dataset.part,
        "images": len(dataset.items),
        "list": _digest_of(dataset, asked),
        "settings": described["settings"],
        "texts": described["texts"],
        "model": model,
        "versions": described["versions"],
        "hardware": _hardware(explainer.loaded.device),
        "place": {
            **{name: dataset.address or described[name] for name in ("dataset", "root")},
            "streamed": any(item.data is not None for item in dataset.items[:1]),
        },
    }
    plain: Ledger = json.loads(json.dumps(ledger))
    return plain


def threads_in(store: Store, threads: int | None) -> int:
    """The number of threads of a run: what is given, that of the run that goes on, or torch's own."""
    if threads is not None:
        return checks.count(threads, "threads", most=_MOST_THREADS)
    before = _before(store)
    known = None if before is None else checks.whole(before.get("threads"))
    return known if known is not None and 0 < known <= _MOST_THREADS else torch.get_num_threads()


def _digest_of(dataset: DataSet, asked: Callable[[Item], Asked] | None) -> str:
    """What tells a list of images and their questions from another."""
    digest = hashlib.sha256()
    for item in dataset.items:
        digest.update(json.dumps([item.name, item.split, asked and asked(item)]).encode() + b"\n")
    return digest.hexdigest()


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {torch.backends.cpu.get_cpu_capability()}"


def meaning_of(ledger: Ledger) -> Ledger:
    """The ledger without what is only for people: the part of it that every part of the run carries."""
    return {name: value for name, value in ledger.items() if name not in _HERE}


# ----------------------------------------------------------------------------------------------------------- compared


def check_ledger(store: Store, ledger: Ledger) -> Ledger | None:
    """Makes sure that a run can begin in a place, or go on there. Nothing is written.

    Args:
        store: The place.
        ledger: What is asked now.

    Returns:
        What was asked when the run began; None if it begins now.

    Raises:
        InputError: The place holds a run of something else, or other files.
    """
    others = [name for name in store.names() if not is_ours(name) and name != MAPS]
    others += [name for name in store.names(MAPS) if not is_ours(name)]
    if SETTINGS not in others and others and not numbers_in(store):
        raise InputError(f"{store} holds other files and no run: name a new folder for --output")
    before = _before(store)
    if before is None:
        return None
    if "list" not in before:
        raise InputError(f"{store} holds a run with a file per image: finercam-clip convert {store}, or name a new one")
    if before.get("converted"):
        raise InputError(f"{store} was converted from a run with a file per image, and is whole: name a new folder")
    old, new = _flat(_compared(before)), _flat(_compared(ledger))
    changed = [key for key in {**old, **new} if old.get(key, "") != new.get(key, "")]
    if changed in (["list"], ["images", "list"], ["list", "images"]):
        counts = f"{before['images']:,} images then, {ledger['images']:,} now"
        raise InputError(
            f"the data set of {store} has changed since the run began ({counts}; others, or other questions): what is "
            "done stays; name a new folder for --output, or bring the data set back"
        )
    if changed:
        words = [f"{key} {old.get(key)!r:.60} -> {new.get(key)!r:.60}" for key in changed if key != "list"]
        raise InputError(f"{store} holds a run of other settings ({'; '.join(words[:4])}): name a new --output folder")
    return before


def _before(store: Store) -> Ledger | None:
    """What was asked when a run began; from one of its parts where run.json is gone or damaged."""
    data = store.read(SETTINGS)
    if data is None and not numbers_in(store):
        return None
    before = parsed((data or b"").decode("utf-8", "replace"))
    if _is_ledger(before):
        return before  # type: ignore[return-value]
    for number in numbers_in(store):
        try:
            return part_in(store, number, ["image"]).ledger
        except InputError:
            continue
    if data is not None and not store.names(MAPS):
        return None
    state = "gone" if data is None else "damaged"
    raise InputError(f"{store}/{SETTINGS} is {state}, and there is no whole part to restore it from: name a new folder")


def _is_ledger(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), kind) for name, kind in (("settings", dict), ("model", dict), ("versions", dict))
    )


def _compared(ledger: Ledger) -> Ledger:
    """What has to be the same. Other versions of libraries change the last digits, which `warn_of_others` says."""
    versions = ledger.get("versions")
    own = versions.get("finercam_clip") if isinstance(versions, dict) else None
    return {name: value for name, value in meaning_of(ledger).items() if name != "versions"} | {"finercam_clip": own}


def is_of(part_ledger: Ledger, ledger: Ledger) -> bool:
    """Whether a part belongs to a run."""
    return _compared(part_ledger) == _compared(ledger)


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def begin(store: Store, ledger: Ledger) -> Ledger:
    """Writes the ledger, unless it is there. Of several processes that begin at a time one writes it.

    Returns:
        The ledger that holds. Where the run was begun on other hardware, or with other versions, a warning says so.

    Raises:
        InputError: As `check_ledger`.
    """
    before = check_ledger(store, ledger)
    whole = parsed((store.read(SETTINGS) or b"").decode("utf-8", "replace"))
    if not _is_ledger(whole):
        data = (json.dumps({**ledger, **(before or {})}, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()
        if store.read(SETTINGS) is not None:
            store.write(SETTINGS, data)
        else:
            store.write_new(SETTINGS, data)
        before = check_ledger(store, ledger)
    assert before is not None
    _warn_of_others(before, ledger)
    return before


def _warn_of_others(before: Ledger, now: Ledger) -> None:
    old = {"hardware": before.get("hardware", now["hardware"]), **before["versions"]}
    new = {"hardware": now["hardware"], **now["versions"]}
    others = [f"{name} {old.get(name)} -> {value}" for name, value in new.items() if old.get(name) != value]
    if others:
        warnings.warn(
            f"the run was begun elsewhere ({'; '.join(others)}): maps that are computed now can differ in their last "
            "digits from what that machine would have given; what is done stays as it is",
            stacklevel=2,
        )


# --------------------------------------------------------------------------------------------------------------- read


def read_ledger(store: Store) -> Ledger:
    """The ledger of a run, old or new.

    Raises:
        InputError: There is none, or it is damaged.
    """
    data = store.read(SETTINGS)
    if data is None:
        raise InputError(f"{store} holds no run ({SETTINGS}); make one with finercam-clip generate --output {store}")
    ledger = parsed(data.decode("utf-8", "replace"))
    if not isinstance(ledger, dict):
        raise InputError(f"{store}/{SETTINGS} is damaged; {MEND}")
    return ledger


def place_of(store: Store, ledger: Ledger) -> tuple[str, str]:
    """(data set, root): where the data set of a run, and the folder of its images, were when it began."""
    here = ledger.get("place", ledger)  # older runs have the two at the top
    if not isinstance(here, dict) or not all(isinstance(here.get(key), str) for key in ("root", "dataset")):
        raise InputError(f"{store}/{SETTINGS} is damaged; {MEND}")
    return path_of(here["dataset"]), path_of(here["root"])


def is_streamed(ledger: Ledger) -> bool:
    """Whether the images of a run are no files of their own."""
    here = ledger.get("place")
    return isinstance(here, dict) and here.get("streamed") is True


def path_in(path: Path, root: Path) -> str:
    """An image's path within the data set's folder, as text."""
    if path.is_relative_to(root) and stays_inside(path.relative_to(root).as_posix()):
        return text_of(path.relative_to(root).as_posix())
    return text_of((resolved(path.parent) / path.name).relative_to(resolved(root)).as_posix())
