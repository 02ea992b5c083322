"""What travels to another machine: how to load a model, which data set, and what is asked. Never the model itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finercam_clip.datasets import open_dataset
from finercam_clip.models.recipe import Recipe
from finercam_clip.options import TEXTS
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
        files = ("labels", *TEXTS)
        settings = {name: _absolute(value) if name in files else value for name, value in self.settings.items()}
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
