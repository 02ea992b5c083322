"""How to load a model, as the command line says it, and as it travels to another machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.options import Precision


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
        from finercam_clip import models  # which brings torch

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
