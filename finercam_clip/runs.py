"""Runs: maps of a whole data set, one file an image, that can be stopped anywhere and go on to the same bytes.

RUN/run.json          what was asked of what: another question needs another folder
RUN/maps/<name>.npz   float16 maps and the image's record; there only when whole, so it says what is done
RUN/manifest.jsonl    the records, a line an image, in the order of the data set
RUN/unreadable.jsonl  images that were skipped, and why; only if there are any
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finercam_clip import __version__, progress
from finercam_clip.datasets import DataSet, Item
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer, ImageEncoding, Question, spelt_out
from finercam_clip.files import PART, make_folder, write_whole
from finercam_clip.images import Geometry, read_image
from finercam_clip.options import MODES, Options
from finercam_clip.prompts import Concept, spoken, vocabulary_of

BATCH = 16  # images a forward pass
MANIFEST, SETTINGS, MAPS, UNREADABLE = "manifest.jsonl", "run.json", "maps", "unreadable.jsonl"


@dataclass(frozen=True)
class Summary:
    """images: in the data set; computed: in this call; unreadable: name -> why."""

    images: int
    computed: int
    unreadable: dict[str, str]


def generate(
    explainer: Explainer,
    dataset: DataSet,
    run: str | Path,
    *,
    target: str | None = None,
    contrasts: Sequence[str] | None = None,
    options: Options | None = None,
    batch: int = BATCH,
) -> Summary:
    """Writes the maps of every image: the paper's three modes, baseline, Finer-Default and Finer-Compare.

    Each image is asked about its own target (its class; a CSV's target), or about `target`; without either, about the
    class that a classifier predicts. Its contrasts are its own, or `contrasts`, or the most similar of
    `options.vocabulary`, by default a classifier's or the data set's classes: Finer-Default takes the first 3 of those
    chosen, and all of those given; Finer-Compare the first.

    The unit of work is a batch of the data set: an interrupted one is computed anew, as the same batch, so that the
    numbers round alike, but only what is missing is written.

    Raises:
        InputError: a class is not the model's; `run` holds a run of another question; it cannot be written to.
    """
    options = spelt_out({}, options or Options())
    folder = make_folder(Path(run))
    asked = _Asked(explainer, dataset, target, tuple(contrasts) if contrasts else None, options)
    asked.check()
    settings = {
        "dataset": str(dataset.source.resolve()),
        "root": str(dataset.root.resolve()),
        "target": target,
        "contrasts": None if not contrasts else list(contrasts),
        "batch": batch,
        "settings": {name: _plain(value) for name, value in vars(options).items()},
        "model": _model(explainer),
        "versions": _versions(),
    }
    _settle(folder, settings)
    for part in folder.rglob(f".*{PART}"):  # what a killed run was writing
        part.unlink()
    make_folder(folder / MAPS)
    records = _done(folder, dataset, target, contrasts)
    _write_manifest(folder, dataset, records)
    computed = 0
    unreadable: dict[str, str] = {}
    with (
        progress.bar(len(dataset.items), initial=len(records), unit="image") as bar,
        (folder / MANIFEST).open("a", encoding="utf-8") as manifest,
    ):
        for start in range(0, len(dataset.items), batch):
            items = dataset.items[start : start + batch]
            if all(item.name in records for item in items):
                continue
            pictures = _read(items, unreadable)
            readable = [item for item in items if item.name in pictures]
            bar.update(len(items) - len(readable))
            if all(item.name in records for item in readable):
                continue
            encodings = explainer.encode(
                [pictures[item.name] for item in readable], pooling=options.pooling, image_size=options.image_size
            )
            for item, encoding in zip(readable, encodings, strict=True):
                if item.name in records:
                    continue
                record, maps = asked.answer(item, encoding)
                record |= {key: settings[key] for key in ("settings", "model", "versions")}
                _write_maps(folder, record, maps)
                manifest.write(_line(record))
                manifest.flush()
                records[item.name] = record
                computed += 1
                bar.update()
    _write_manifest(folder, dataset, records)
    _write_unreadable(folder, unreadable)
    return Summary(len(dataset.items), computed, unreadable)


def read_manifest(run: str | Path) -> list[dict[str, Any]]:
    """The records of a run; a last line that was cut off is left out.

    Raises:
        InputError: there is no run in that folder, or a line of it is damaged.
    """
    path = Path(run) / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{run} holds no run ({MANIFEST}); make one with finercam-clip generate DATASET --output {run}"
        )
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break was not written whole
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: damaged; run finercam-clip generate again to mend it") from error
    return found


def read_maps(run: str | Path, record: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The signed maps of one image, mode -> float32 [h, w], as `Explanation.grid` to float16's precision."""
    path = Path(run) / record["maps"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                mode: arrays[mode].astype(np.float32) * np.float32(scale) for mode, scale in record["scales"].items()
            }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}; delete it and run generate again") from error


def images_root(run: str | Path) -> Path:
    """The folder that the `path` of a run's records starts from, where it was when the run began."""
    return Path(json.loads((Path(run) / SETTINGS).read_text(encoding="utf-8"))["root"])


def geometry_in(record: dict[str, Any]) -> Geometry:
    """The geometry that a record carries."""
    fields: dict[str, Any] = {key: value and tuple(value) for key, value in record["geometry"].items()}
    return Geometry(**fields)


class _Asked:
    """The questions of a run, their texts embedded once."""

    def __init__(
        self,
        explainer: Explainer,
        dataset: DataSet,
        target: str | None,
        contrasts: tuple[str, ...] | None,
        options: Options,
    ) -> None:
        self.explainer, self.dataset, self.options = explainer, dataset, options
        self.target, self.contrasts = target, contrasts
        self.given = lru_cache(maxsize=1000)(self._given)
        self.own = lru_cache(maxsize=1000)(self._own)
        self.concepts: list[Concept] = []
        if any(self._contrasts_of(item) is None for item in dataset.items):
            self.concepts = self._vocabulary()
        self.texts = self.explainer._embed(self.concepts, self._templates) if self.concepts else torch.zeros(0)

    @property
    def _templates(self) -> list[str]:
        return self.explainer._templates(self.options.templates)

    def _vocabulary(self) -> list[Concept]:
        classes = self.explainer.loaded.classes
        if self.options.vocabulary is not None:
            names = vocabulary_of(self.options.vocabulary)
        elif classes is not None:
            names = list(classes.names)
        else:
            names = [spoken(name) for name in self.dataset.classes]
        concepts = [self.explainer._concept(name, "vocabulary entry") for name in names]
        return list({concept.label.lower(): concept for concept in concepts}.values())

    def _target_of(self, item: Item) -> str | None:
        target = self.target or item.target
        return target if target is None or self.explainer.loaded.classes is not None else spoken(target)

    def _contrasts_of(self, item: Item) -> tuple[str, ...] | None:
        return self.contrasts or item.contrasts

    def check(self) -> None:
        """Every question, before any image costs anything."""
        for item in self.dataset.items:
            target = self._target_of(item)
            if target is None:
                if self.explainer.loaded.classes is None:
                    raise InputError(f"{item.name} has no class: say what to look for (--target TEXT)")
            elif (contrasts := self._contrasts_of(item)) is not None:
                self.given(target, contrasts)
            else:
                self.own(target)

    def _given(self, target: str, contrasts: tuple[str, ...]) -> Question:
        return self.explainer._embedded_question(target, list(contrasts), self.options)

    def _own(self, target: str) -> tuple[Concept, Tensor]:
        concept = self.explainer._concept(target, "target")
        return concept, self.explainer._embed([concept], self._templates)

    def _chosen(self, target: str) -> Question:
        """The target and all that its contrasts are chosen from, three at most."""
        concept, own = self.own(target)
        others = [i for i, other in enumerate(self.concepts) if other.label.lower() != concept.label.lower()]
        chosen = [concept, *(self.concepts[i] for i in others)]
        scenery = self.explainer._background(self.options.background, chosen)
        texts = [own, self.texts[others]] if others else [own]
        texts += [self.explainer._embed(scenery, self._templates)] if scenery else []
        count = min(int(MODES["finer-default"]["contrasts"]), len(others))
        return Question((*chosen, *scenery), torch.cat(texts), count if others else None, len(scenery))

    def answer(self, item: Item, encoding: ImageEncoding) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
        """An image's record and its signed maps."""
        predicted = {} if self.explainer.loaded.classes is None else encoding.predictions(5)
        target, contrasts = self._target_of(item), self._contrasts_of(item)
        wanted = target if target is not None else next(iter(predicted))
        question = self._chosen(wanted) if contrasts is None else self.given(wanted, contrasts)
        concepts, texts = encoding._chosen(question, self.options)
        ahead = len(texts) - question.background
        asked = {"baseline": [0], "finer-default": range(ahead), "finer-compare": range(min(ahead, 2))}
        answers = {}
        for mode, indices in asked.items():
            if mode == "baseline" or ahead > 1:  # without contrasts there is only the first mode
                order = [*indices, *range(ahead, len(texts))]
                part = Question(tuple(concepts[i] for i in order), texts[order])
                answers[mode] = encoding._answer(part, self.options)
        modes = {mode: answer.grid for mode, answer in answers.items()}
        similarities, probabilities = encoding._scores(concepts, texts)
        labels = list(similarities)
        record = {
            "image": item.name,
            "path": Path(os.path.relpath(item.path, self.dataset.root)).as_posix(),
            "split": item.split,
            "size": {"width": encoding.image.shape[1], "height": encoding.image.shape[0]},
            "asked": _question_of(item, self.target, self.contrasts),
            "target": labels[0],
            "contrasts": labels[1:ahead],
            "score": "cosine" if self.explainer.loaded.classes is None else "logit",
            "similarities": similarities,
            "probabilities": probabilities,
            "predicted": predicted,
            "maps": f"{MAPS}/{item.name}.npz",
            "scales": {mode: float(np.abs(grid).max()) for mode, grid in modes.items()},
            "geometry": asdict(encoding.geometry),
        }
        return record, modes


def _question_of(item: Item, target: str | None, contrasts: Sequence[str] | None) -> dict[str, Any]:
    own = contrasts or item.contrasts
    return {"target": target or item.target, "contrasts": None if own is None else list(own)}


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    """Writes what the run is about, or checks that it is what the run was about before."""
    path = folder / SETTINGS
    if not path.is_file():
        if any(folder.iterdir()):
            raise InputError(f"{folder} holds other files and no run: name a new folder for --output")
        write_whole(path, (json.dumps(settings, indent=1) + "\n").encode())
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; name a new folder for --output") from error
    if before == json.loads(json.dumps(settings)):
        return
    old, new = _flat(before), _flat(json.loads(json.dumps(settings)))
    changed = [f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)]
    raise InputError(f"{folder} holds a run of other settings ({'; '.join(changed[:4])}): name a new --output folder")


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _done(
    folder: Path, dataset: DataSet, target: str | None, contrasts: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """The records of what is there already: from the manifest, or, for the last ones before a kill, from the maps."""
    listed: dict[str, dict[str, Any]] = {}
    if (folder / MANIFEST).is_file():
        for line in (folder / MANIFEST).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            listed[record["image"]] = record
    found = {}
    for item in dataset.items:
        path = folder / MAPS / f"{item.name}.npz"
        if not path.is_file():
            continue
        record = listed.get(item.name) or _record_in(path)
        if record is not None and record["asked"] == _question_of(item, target, contrasts):
            found[item.name] = record
    return found


def _record_in(path: Path) -> dict[str, Any] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found: dict[str, Any] = json.loads(arrays["record"].tobytes())
            return found
    except (OSError, ValueError, KeyError):
        return None


def _read(items: Sequence[Item], unreadable: dict[str, str]) -> dict[str, Image.Image]:
    pictures = {}
    for item in items:
        try:
            pictures[item.name] = read_image(item.path)
        except InputError as error:
            unreadable[item.name] = str(error)
    return pictures


def _write_maps(folder: Path, record: dict[str, Any], maps: dict[str, NDArray[np.float32]]) -> None:
    """Each map over its largest absolute value (`scales`), in -1..1: float16 then keeps three digits of any map."""
    path = folder / record["maps"]
    make_folder(path.parent)
    arrays: dict[str, Any] = {
        mode: (grid / (record["scales"][mode] or 1.0)).astype(np.float16) for mode, grid in maps.items()
    }
    arrays["record"] = np.frombuffer(_line(record).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)  # NumPy dates all entries 1980: no clock in the bytes
    write_whole(path, buffer.getvalue())


def _write_manifest(folder: Path, dataset: DataSet, records: dict[str, dict[str, Any]]) -> None:
    lines = [_line(records[item.name]) for item in dataset.items if item.name in records]
    data = "".join(lines).encode()
    path = folder / MANIFEST
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)


def _write_unreadable(folder: Path, unreadable: dict[str, str]) -> None:
    path = folder / UNREADABLE
    if unreadable:
        write_whole(path, "".join(_line({"image": name, "why": why}) for name, why in unreadable.items()).encode())
    else:
        path.unlink(missing_ok=True)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _model(explainer: Explainer) -> dict[str, Any]:
    loaded = explainer.loaded
    described: dict[str, Any] = {"name": loaded.name, "pretrained": loaded.pretrained, "dtype": str(loaded.dtype)}
    if loaded.classes is not None:
        described["classes"] = len(loaded.classes.names)
        rows = loaded.classes.rows.cpu().numpy().tobytes()
        named = "\n".join(loaded.classes.names).encode()
        described["head"] = hashlib.sha256(rows + named).hexdigest()[:16]
        pool = getattr(loaded.model.visual.trunk, "global_pool", None)
        described["pool"] = pool if isinstance(pool, str) else "model"
    return described


def _versions() -> dict[str, str]:
    return {
        "finercam_clip": __version__,
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "timm": timm.__version__,
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, (tuple, list)) else value
