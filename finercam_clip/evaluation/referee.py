"""The referee: plain maps and maps with contrasts of a data set, by figures with intervals, on any model.

Records are kept image by image, so a run that was stopped goes on and ends with the same table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from finercam_clip import progress
from finercam_clip.datasets import DataSet, Item, Labels, Truth, check_truth, find_truth
from finercam_clip.errors import InputError
from finercam_clip.evaluation import causes, judging, metrics, probing
from finercam_clip.evaluation.asked import Classes, chosen_items, classes_of
from finercam_clip.evaluation.controls import centre, randomised, saliency
from finercam_clip.evaluation.heats import on_image, on_input
from finercam_clip.evaluation.protocol import (
    CONTROLS,
    MASKED,
    PLAIN,
    TOP,
    Protocol,
    Setting,
    controls_for,
    settings_for,
)
from finercam_clip.evaluation.stopwatch import Stopwatch
from finercam_clip.evaluation.summary import Result, result_of
from finercam_clip.explainer import Explainer, ImageEncoding
from finercam_clip.files import check_folder, locked, make_folder, write_whole
from finercam_clip.images import read_image
from finercam_clip.methods import METHODS
from finercam_clip.objectives import objective_named
from finercam_clip.options import Changes, Options
from finercam_clip.paths import is_file, read_text
from finercam_clip.resolve import resolve_options
from finercam_clip.runs.asking import check_apart, settings_of
from finercam_clip.trial import try_out

SETTINGS, RECORDS, TABLE, RESULTS = "evaluation.json", "records.jsonl", "table.md", "results.json"

_MASKED = Setting("", MASKED)

Grid = NDArray[np.float32]
Record = dict[str, Any]


def evaluate(
    explainer: Explainer,
    dataset: DataSet,
    *,
    methods: Sequence[str] = (Options.method,),
    objectives: Sequence[str] = ("finer",),
    gammas: Sequence[float] = (Options.gamma,),
    protocol: Protocol | None = None,
    truth: Truth | None = None,
    labels: Labels | None = None,
    output: Path | None = None,
    watch: Stopwatch | None = None,
    **changes: Unpack[Changes],
) -> Result:
    """Measures plain maps and maps with contrasts of the images of a data set.

    Args:
        explainer: The model.
        dataset: The images.
        methods: Each is measured plain, and with contrasts.
        objectives: How contrasts are taken; each with every gamma.
        gammas: Comparison strengths.
        protocol: The choices that move the figures.
        truth: Where the targets are; by default what lies beside the images (`find_truth`).
        labels: What the model calls the classes of the data set: a CSV file of two columns, or a mapping. A class
            that it does not mention keeps its name. With labels, images of classes that the model does not know are
            left out.
        output: A folder for records and tables: a new one, or that of the same evaluation, which then goes on.
        watch: Told what time is spent on.
        changes: Fields of `Options` that hold for all maps, such as pooling, layer, image_size, similar_by.

    Raises:
        InputError: Something cannot be used: a class, a method, a truth that does not fit. Nothing is computed before.
    """
    protocol, watch = protocol or Protocol(), watch or Stopwatch()
    options = resolve_options(changes)
    for method in methods:
        try_out(explainer, replace(options, method=resolve_options({**changes, "method": method}).method))
    for objective in objectives:
        objective_named(objective)
    gammas = [resolve_options({"gamma": gamma}).gamma for gamma in gammas]
    classes = classes_of(explainer, dataset, options, protocol, labels)
    items = chosen_items(dataset, classes, protocol)
    truth = find_truth(dataset) if truth is None else truth
    check_truth(truth, ((item.name, item.path) for item in items))
    compared = settings_for(methods, objectives, gammas)
    controls = controls_for(methods, objectives[0], gammas[0]) if "controls" in protocol.groups else []
    beside = [*controls, *([_MASKED] if "causes" in protocol.groups else [])]
    work = _Work(explainer, classes, truth, options, protocol, compared, controls, watch)
    described = settings_of(explainer, dataset, options, target=None, contrasts=None, batch=1)
    described |= {"protocol": protocol.plain(), "truth": list(truth.kinds), "keys": [s.key for s in compared]}
    described["asked"] = {name: classes.labels[index] for name, index in classes.target_of.items()}
    preprocess = explainer.loaded.preprocess
    size = preprocess.size if options.image_size is None else options.image_size
    lines = protocol.lines(len(classes.concepts), size, preprocess.cfg.resize_mode, options.pooling, truth.kinds)
    if classes.strange and protocol.about == "class":
        lines.append(f"left out, not known to the model: {', '.join(classes.strange)}")
    with ExitStack() as stack:
        if output is not None:
            check_apart(output, dataset)
            check_folder(output)
            make_folder(output)
            stack.enter_context(locked(output))
        records, unreadable = _records(work, items, output, json.loads(json.dumps(described)))
        result = result_of(records, compared, beside, lines, unreadable)
        if output is not None:
            write_whole(output / TABLE, f"{result.table()}\n".encode())
            write_whole(output / RESULTS, f"{json.dumps(result.plain(), indent=1)}\n".encode())
    return result


def working_methods(explainer: Explainer) -> list[str]:
    """Every method that works on a model."""
    methods = []
    for name in METHODS:
        with suppress(InputError):
            try_out(explainer, resolve_options({"method": name}))
            methods.append(name)
    return methods


def _records(
    work: _Work, items: Sequence[Item], output: Path | None, described: Any
) -> tuple[list[Record], dict[str, str]]:
    """A record per image, in the order of the data set, and why others have none."""
    done: dict[str, Record] = {}
    if output is not None:
        done = _resumed(output, described)
    unreadable: dict[str, str] = {}
    with ExitStack() as stack:
        file = stack.enter_context((output / RECORDS).open("a", encoding="utf-8")) if output is not None else None
        missing = [item for item in items if item.name not in done]
        for item in progress.each(missing, "evaluating"):
            try:
                record = work.record(item)
            except InputError as error:
                unreadable[item.name] = f"{item.path}: {error}"
                continue
            done[item.name] = record
            if file is not None:
                file.write(json.dumps(record, allow_nan=False) + "\n")
                file.flush()
    return [done[item.name] for item in items if item.name in done], unreadable


def _resumed(output: Path, described: Any) -> dict[str, Record]:
    """The records that are there already. Half a line, of a run that was killed, is cut off.

    Raises:
        InputError: They are of another evaluation.
    """
    settings, path = output / SETTINGS, output / RECORDS
    if not is_file(settings):
        if is_file(path):
            raise InputError(f"{path} is there without {SETTINGS}: name another folder for --output")
        write_whole(settings, f"{json.dumps(described, indent=1)}\n".encode())
        return {}
    try:
        before = json.loads(read_text(settings))
    except ValueError:
        before = None
    if before != described:
        keys = [key for key in described if not isinstance(before, dict) or before.get(key) != described[key]]
        raise InputError(f"{output} holds another evaluation ({', '.join(keys)} differ): name another folder")
    if not is_file(path):
        return {}
    records, whole = {}, []
    for line in read_text(path).splitlines():
        try:
            record = json.loads(line)
            records[record["image"]] = record
        except (ValueError, KeyError, TypeError):
            break
        whole.append(f"{line}\n")
    write_whole(path, "".join(whole).encode())
    return records


@dataclass(frozen=True)
class _Work:
    """What `evaluate` does to an image.

    Attributes:
        explainer: The model.
        classes: Its classes.
        truth: Where targets are.
        options: How all maps are made.
        protocol: What is measured.
        compared: The maps that are compared.
        controls: The maps that they are to be better than.
        watch: Told what time is spent on.
        kept: What is made once: the randomised model, pairs of classes.
    """

    explainer: Explainer
    classes: Classes
    truth: Truth
    options: Options
    protocol: Protocol
    compared: list[Setting]
    controls: list[Setting]
    watch: Stopwatch
    kept: dict[str, Any] = field(default_factory=dict)

    def record(self, item: Item) -> Record:
        """The figures of one image, under every setting."""
        groups, watch = self.protocol.groups, self.watch
        with watch.on("encoding"):
            encoding = self.explainer.encode(read_image(item.path), **self.options.encoding())
        target = self._target(item, encoding)
        contrasts = self.classes.nearest(target, encoding.embedding)
        with watch.on("maps"):
            grids = {s: self._grid(encoding, s, target, contrasts, item.name) for s in (*self.compared, *self.controls)}
            grids = {s: grid for s, grid in grids.items() if np.isfinite(grid).all()}
        figures: dict[str, probing.Figures] = {s.key: {} for s in grids}
        self._probe(encoding, grids, target, contrasts[0], figures)
        shape = (encoding.image.shape[0], encoding.image.shape[1])
        place = judging.Place.of(self.truth, item.name, shape, self.protocol.radius)
        with watch.on("figures"):
            half_a_cell = max(shape) / max(encoding.grid) / 2
            if "place" in groups:
                for setting, grid in grids.items():
                    figures[setting.key] |= judging.placed(self._on_image(encoding, grid), place, half_a_cell)
        if "difference" in groups or "causes" in groups:
            self._differ(encoding, item, target, place, grids, figures)
        with watch.on("figures"):
            if "overlap" in groups:
                self._overlap(encoding, figures)
        labels = self.classes.labels
        return {
            "image": item.name,
            "target": labels[target],
            "contrasts": [labels[i] for i in contrasts],
            "chances": place.chances() if "place" in groups else {},
            "figures": figures,
        }

    def _target(self, item: Item, encoding: ImageEncoding) -> int:
        if self.protocol.about == "prediction":
            return self.classes.most_probable(encoding.embedding)[0]
        return self.classes.target_of[str(item.target)]

    def _grid(
        self, encoding: ImageEncoding, setting: Setting, target: int, contrasts: Sequence[int], name: str
    ) -> Grid:
        """The signed map of a setting, or of a control, [h, w]."""
        if setting.mode == CONTROLS[0]:
            return centre(encoding.grid)
        if setting.mode == CONTROLS[1]:
            return saliency(probing.input_picture(encoding), encoding.grid)
        if setting.mode == CONTROLS[2]:
            contrasts = [self.classes.random([target, *contrasts], self.protocol.seed, name)]
        elif setting.mode == CONTROLS[3]:
            if "random" not in self.kept:
                self.kept["random"] = randomised(self.explainer)
            if self.kept["random"] is None:
                return np.full(encoding.grid, np.nan, np.float32)
            try:
                encoding = self.kept["random"].encode(encoding.image, **self.options.encoding())
                return self._map(encoding, replace(setting, mode=PLAIN), target, ())
            except InputError:  # not finite
                return np.full(encoding.grid, np.nan, np.float32)
        elif setting.mode == PLAIN:
            contrasts = ()
        elif setting.mode == "finer-compare":
            contrasts = contrasts[:1]
        return self._map(encoding, setting, target, contrasts)

    def _map(self, encoding: ImageEncoding, setting: Setting, target: int, contrasts: Sequence[int]) -> Grid:
        directions = self.classes.directions
        changes: Any = {"method": setting.method, "objective": setting.objective, "gamma": setting.gamma}

        def make() -> Grid:
            grid: Grid = encoding.heatmaps(directions[[target]], directions[list(contrasts)], **changes)[0]
            return grid

        return encoding.forward.once(("map", *changes.values(), target, *contrasts), make)  # `_overlap` asks again

    def _probe(
        self,
        encoding: ImageEncoding,
        grids: dict[Setting, Grid],
        target: int,
        contrast: int,
        figures: dict[str, probing.Figures],
    ) -> None:
        """Adds what masking does."""
        groups, fills = self.protocol.groups, self.protocol.fills
        if "drop" not in groups and "curves" not in groups:
            return
        heats = [
            probing.Heat(
                on_input(encoding, grid, self.protocol),
                probing.probes_for(groups, fills, control=setting in self.controls),
            )
            for setting, grid in grids.items()
        ]
        scores = probing.scored(encoding, heats, self.classes.directions, target, contrast, self.watch)
        for setting, values in zip(grids, scores, strict=True):
            figures[setting.key] |= values

    def _differ(
        self,
        encoding: ImageEncoding,
        item: Item,
        target: int,
        place: judging.Place,
        grids: dict[Setting, Grid],
        figures: dict[str, probing.Figures],
    ) -> None:
        """Adds whether the part is hot in which the class differs from the one that it differs from most clearly, and
        what the model loses without each part."""
        if "pairs" not in self.kept:
            self.kept["pairs"] = judging.clearest_pairs(self.truth, list(self.classes.target_of))
        pair = self.kept["pairs"].get(item.target)
        if pair is None or self.classes.target_of.get(str(item.target)) != target:
            return
        parts = judging.compared_parts(place, pair)
        if not parts:
            return
        other, groups = self.classes.target_of[pair.other], self.protocol.groups
        masked = None
        if "causes" in groups:
            directions = self.classes.directions[[target, other]]
            masked = causes.masked_parts(encoding, parts, place.radius, directions, self.watch)
            figures[_MASKED.key] = causes.models_own(masked, pair)
        for setting, grid in grids.items():
            if setting.mode == "finer-compare":
                grid = self._map(encoding, setting, target, [other])
            elif setting.mode == "finer-default" or setting.mode == CONTROLS[2]:
                continue
            heat = self._on_image(encoding, grid)
            if "difference" in groups:
                figures[setting.key] |= judging.differing(heat, parts, place.radius, pair)
            if masked is not None:
                figures[setting.key] |= causes.agreement(heat, parts, place.radius, masked, setting)

    def _on_image(self, encoding: ImageEncoding, grid: Grid) -> Grid:
        return on_image(encoding, grid, self.protocol)

    def _overlap(self, encoding: ImageEncoding, figures: dict[str, probing.Figures]) -> None:
        """Adds how much the maps of the two most probable classes share."""
        pair = self.classes.most_probable(encoding.embedding)
        near = [self.classes.nearest(index, encoding.embedding) for index in pair]
        for setting in self.compared:
            if setting.key in figures:
                one, other = (
                    self._grid(encoding, setting, index, own, "") for index, own in zip(pair, near, strict=True)
                )
                figures[setting.key]["overlap of two classes"] = metrics.top_overlap(one, other, TOP)
