"""What is in a data set, what is missing, and what cannot be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from finercam_clip import progress
from finercam_clip.datasets.cub import CUB
from finercam_clip.datasets.items import DataSet
from finercam_clip.datasets.labels import Labels, labelled, texts_of, unknown, why_unknown
from finercam_clip.datasets.truth import check_truth
from finercam_clip.datasets.truth_files import find_truth
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.options import Options
from finercam_clip.paths import look
from finercam_clip.question import ask

_MOST_REASONS = 200  # names that a report explains: each is the user's to decide

DOWNLOADS = {
    "Stanford Cars": "kaggle datasets download -d jutrera/stanford-car-dataset-by-classes-folder --unzip",
    CUB: "curl -L https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz | tar xz",
}


def download_hint() -> str:
    """The end of an error about a data set that is not there."""
    return "To download: " + "; ".join(f"{name}: {command}" for name, command in DOWNLOADS.items())


@dataclass(frozen=True)
class Report:
    """What is in a data set, and what is wrong with it.

    Attributes:
        dataset: The data set.
        missing: The names of images whose files do not exist.
        unreadable: The name of an image, or of a folder with "/" behind it -> why it cannot be read.
        empty: The classes without images.
        model: What the data set was checked for; "" for none.
        named: How many names the model would be asked about: classes, or a table's targets and contrasts.
        unknown: What of these it cannot be asked about -> why.
        refused: Image name -> why its question cannot be asked, though its names can.
        truth: What is known about where the targets are, in words.
    """

    dataset: DataSet
    missing: tuple[str, ...]
    unreadable: dict[str, str]
    empty: tuple[str, ...]
    model: str = ""
    named: int = 0
    unknown: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    truth: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missing or self.unreadable or self.empty or self.unknown or self.refused)

    def lines(self, limit: int = 20) -> list[str]:
        """The report, for people.

        Args:
            limit: How many names of each kind of trouble with files to show at most.
        """
        dataset, items = self.dataset, self.dataset.items
        sizes = Counter(item.target for item in items if item.target is not None)
        lines = [f"{dataset.source}: {dataset.kind}", f"images       {len(items):,}"]
        splits = Counter(item.split for item in items if item.split)
        lines += [f"  {name:10} {count:,}" for name, count in splits.items()]
        if dataset.classes:
            smallest, largest = (min(sizes.values()), max(sizes.values())) if sizes else (0, 0)
            lines.append(f"classes      {len(dataset.classes):,}, {smallest} to {largest} images each")
        if dataset.kind == CUB:
            for name, images in (("parts", dataset.parts), ("attributes", dataset.attributes)):
                lines.append(f"{name:12} " + (f"of {len(images):,} images" if images else "not there"))
        if self.model:
            known = f"knows {self.named - len(self.unknown):,} of {self.named:,} classes"
            lines.append(f"model        {self.model}: {known if self.named else 'the data set names no classes'}")
        lines += [f"truth        {kind}" for kind in self.truth]
        for title, names in (
            ("left out", [f"{name}: finercam-clip made it" for name in dataset.made]),
            ("missing", self.missing),
            ("unreadable", [f"{name}: {why}" for name, why in self.unreadable.items()]),
            ("empty class", self.empty),
        ):
            lines += [f"{title:12} {name}" for name in names[:limit]]
            lines += [f"{title:12} and {len(names) - limit:,} more"] if len(names) > limit else []
        for title, reasons in (("unknown", self.unknown), ("refused", self.refused)):
            lines += [f"{title:12} {why}" for why in list(reasons.values())[:_MOST_REASONS]]
            lines += [f"{title:12} and {len(reasons) - _MOST_REASONS:,} more"] if len(reasons) > _MOST_REASONS else []
        if self.unknown:
            lines.append(
                "to mend      rename them, or give --labels, a CSV file of the data set's class and the model's"
            )
        if self.missing or self.unreadable or self.empty:
            commands = {CUB: DOWNLOADS[CUB]} if dataset.kind == CUB else DOWNLOADS
            lines += [f"download     {name}: {command}" for name, command in commands.items()]
        lines.append("complete" if self.complete else "not complete")
        return lines


def check(dataset: DataSet, explainer: Explainer | None = None, labels: Labels | None = None) -> Report:
    """Decodes every image of a data set and reports what is missing or cannot be read.

    Args:
        dataset: The data set.
        explainer: A model: what it cannot be asked about is reported, too.
        labels: How the data set's classes are called in the model (`labels.label_map`).

    Raises:
        InputError: The labels cannot be used.
    """
    if labels is not None and explainer is None:
        raise InputError("labels map a data set's classes to a model's: name the model")
    named = dataset if explainer is None else labelled(dataset, labels, explainer.loaded.space)
    missing, unreadable = [], dict(dataset.left_out)
    for item in progress.each(dataset.items, "checking"):
        try:
            if item.data is None and look(item.path) is None:
                missing.append(item.name)
            else:
                item.read()
        except InputError as error:
            unreadable[item.name] = str(error).removeprefix(f"{item.path} ").removeprefix(f"{item.path}: ")
    used = {item.target for item in dataset.items}
    locked = {name.rstrip("/").rsplit("/", 1)[-1] for name in dataset.left_out}
    empty = tuple(name for name in dataset.classes if name not in used | locked)
    report = Report(dataset, tuple(missing), unreadable, empty, truth=_truth_of(dataset))
    return report if explainer is None else _for_model(report, named, explainer)


def _for_model(report: Report, dataset: DataSet, explainer: Explainer) -> Report:
    """The report, and what of the data set the model cannot be asked about."""
    space, texts = explainer.loaded.space, texts_of(dataset)
    strange = dict.fromkeys(unknown(space, texts), "")
    strange |= {text: str(why_unknown(space, text)) for text in list(strange)[:_MOST_REASONS]}
    refused = {}
    for item in dataset.items:
        if item.target is None or item.contrasts is None or strange.keys() & {item.target, *item.contrasts}:
            continue
        try:
            ask(space, space.spoken(item.target), item.contrasts, Options())
        except InputError as error:
            refused[item.name] = f"{item.name}: {error}"
    return replace(report, model=explainer.loaded.name, named=len(texts), unknown=strange, refused=refused)


def _truth_of(dataset: DataSet) -> tuple[str, ...]:
    """What is known about where the targets are, or why it cannot be used."""
    try:
        truth = find_truth(dataset)
        check_truth(truth, ((item.name, item.path) for item in dataset.items))
    except InputError as error:
        return (f"cannot be used: {error}",)
    return truth.kinds
