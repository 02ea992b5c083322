"""What travels to another machine: how to load a model, which data set, and what is asked. Never the model itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finercam_clip.datasets import open_dataset
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.options import Precision
from finercam_clip.paths import is_file, resolved
from finercam_clip.resolve import resolve_options
from finercam_clip.runs.generate import BATCH, maps_job
from finercam_clip.runs.shards import SHARD
from finercam_clip.runs.store import Store, is_address
from finercam_clip.runs.trait_runs import traits_job
from finercam_clip.runs.work import Job
from finercam_clip.traits import Trait

_OF_A_JOB: dict[str, Any] = {
    "target": None,
    "contrasts": None,
    "labels": None,
    "batch": BATCH,
    "shard_size": SHARD,
    "threads": None,
}


@dataclass(frozen=True)
class Recipe:
    """How to load a model. See `models.load` and `models.load_classifier`.

    Attributes:
        model: The name of a CLIP; None for the bundled model.
        pretrained: Its tag, or a file.
        classifier: The name of a classifier instead.
        head: The file of a linear head.
        classes: Where the head's class names are.
        device: Where it computes; None for a GPU if there is one.
        precision: fp32, fp16 or bf16.
        others: The classes of the data set, which name the rows of a head without names.
    """

    model: str | None = None
    pretrained: str | None = None
    classifier: str | None = None
    head: Path | None = None
    classes: str | Path | None = None
    device: str | None = None
    precision: Precision = "fp32"
    others: tuple[str, ...] = ()

    @property
    def is_classifier(self) -> bool:
        """Whether it is one, or else a CLIP."""
        return self.classifier is not None or self.head is not None

    @property
    def name(self) -> str:
        """What people call the model."""
        if not self.is_classifier:
            return self.model or "the bundled model"
        from finercam_clip.models.heads import read_notes

        notes = None if self.head is None else read_notes(self.head)
        return self.classifier or ("DINOv2" if notes is None else notes.backbone)

    def checked(self) -> Recipe:
        """The same. Raises InputError where its parts contradict each other."""
        if self.is_classifier and self.model is not None:
            raise InputError("give --model (a CLIP) or --classifier and --head, not both")
        if not self.is_classifier and self.classes is not None:
            raise InputError("--classes are of a --classifier or a --head; for CLIP there is --vocabulary")
        return self

    def load(self) -> Explainer:
        """The model. Raises InputError if it cannot be loaded."""
        from finercam_clip import models

        if not self.is_classifier:
            return models.load(self.model, self.pretrained, device=self.device, precision=self.precision)
        from finercam_clip.models.heads import read_notes

        nameless = self.head is not None and self.others and read_notes(self.head) is None
        return models.load_classifier(
            self.classifier,
            self.head,
            self.classes or (self.others if nameless else None),
            pretrained=self.pretrained,
            device=self.device,
            precision=self.precision,
        )


@dataclass(frozen=True)
class Errand:
    """A run that another process can take part in.

    Attributes:
        recipe: How to load the model.
        source: The data set: a path that every machine sees, or an address.
        split: Which part of it; None for all.
        run: The place of the run, which every machine sees.
        settings: The keyword arguments of `generate`, or of `trait_run`, but for the share.
        traits: What a run about traits asks; None for maps.
    """

    recipe: Recipe
    source: str | Path
    split: str | None
    run: str | Path
    settings: dict[str, Any] = field(default_factory=dict)
    traits: tuple[Trait, ...] | None = None

    def anywhere(self) -> Errand:
        """The same with absolute paths: other processes have other working folders."""
        recipe = replace(
            self.recipe,
            head=None if self.recipe.head is None else resolved(self.recipe.head),
            pretrained=_absolute(self.recipe.pretrained),
            classes=_absolute(self.recipe.classes),
        )
        texts = ("labels", "vocabulary", "templates", "background")
        settings = {name: _absolute(value) if name in texts else value for name, value in self.settings.items()}
        source, run = (place if is_address(place) else resolved(place) for place in (self.source, self.run))
        return replace(self, recipe=recipe, source=source, run=run, settings=settings)

    def job(self) -> tuple[Job, Store]:
        """Loads the model, opens the data set and checks the questions.

        Raises:
            InputError: Something of it cannot be used.
        """
        explainer, dataset = self.recipe.load(), open_dataset(self.source).split(self.split)
        own = {name: self.settings.get(name, default) for name, default in _OF_A_JOB.items()}
        options = resolve_options({n: value for n, value in self.settings.items() if n not in _OF_A_JOB})
        if self.traits is None:
            return maps_job(explainer, dataset, self.run, options=options, **own)
        own = {name: value for name, value in own.items() if name not in ("target", "contrasts")}
        return traits_job(explainer, dataset, self.traits, self.run, options=options, **own)


def _absolute(value: Any) -> Any:
    """The absolute path of a file or folder that is there; any other value as it is."""
    if isinstance(value, (str, Path)) and (is_file(value) or Path(value).is_dir()):
        return resolved(value)
    return value
