"""Linear heads of a user's own: a data set by class and a backbone to a head's file, its accuracy measured.

plan        which images the head is fitted to, which it is measured on
features    what the backbone makes of each, computed once
regression  from features to weight and bias
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from finercam_clip import checks
from finercam_clip.concepts.classes import ClassSpace
from finercam_clip.datasets import DataSet, open_dataset
from finercam_clip.errors import InputError, UnfinishedError, shown
from finercam_clip.evaluation.intervals import Interval, share
from finercam_clip.explainer import Explainer
from finercam_clip.files import check_folder, check_no_input, check_writable
from finercam_clip.fitting.features import Features, features_of
from finercam_clip.fitting.plan import Plan, planned
from finercam_clip.fitting.regression import check_installed, fitted
from finercam_clip.loaded import LoadedModel
from finercam_clip.models import load_backbone
from finercam_clip.models.catalogue import BUNDLED_MODELS
from finercam_clip.models.classifier import pooling_of
from finercam_clip.models.fitted import IN_MEMORY
from finercam_clip.models.heads import FITTED, HeadNotes, write_head
from finercam_clip.models.loading import RANDOM
from finercam_clip.paths import is_file, is_folder, place, resolved, same_file
from finercam_clip.tensors import fingerprint_of

BATCH = 8  # images per forward pass; on a CPU more at a time are slower


@dataclass(frozen=True)
class Fit:
    """A head that was fitted.

    Attributes:
        head: Its file, for `load_classifier(head=...)`.
        features: The folder of features, which another fit of the same backbone can use.
        classes: The names of its classes.
        accuracy: The share of right answers on the images that it was not fitted to, 0..1, and its 95 % interval.
        measured: On how many images.
        fitted: To how many images.
        split: Which images these were, in words.
        strength: The inverse strength of regularisation, scikit-learn's C.
        computed: How many images' features were computed in this call; the others were there.
        predicted: Name of an image that the accuracy was measured on -> the class that the head takes it for.
        unreadable: Image name -> why it was left out.
    """

    head: Path
    features: Path
    classes: tuple[str, ...]
    accuracy: Interval
    measured: int
    fitted: int
    split: str
    strength: float
    computed: int
    predicted: dict[str, str]
    unreadable: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return asdict(self) | {"head": str(self.head), "features": str(self.features)}


def fit(
    backbone: Explainer | str,
    dataset: DataSet | str | Path,
    output: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    strength: float | None = None,
    split: str | None = None,
    test: str | None = None,
    held_out: float | None = None,
    seed: int = 0,
    features: str | Path | None = None,
    batch: int = BATCH,
) -> Fit:
    """Fits a linear head to a data set by class, measures it on other images, and writes it to a file.

    The head is scikit-learn's logistic regression on standardised features, folded back, so that it reads the features
    as the backbone gives them. Features are kept: an interrupted fit goes on, and the next one computes none twice.

    Args:
        backbone: A model of timm, or "photos", as `load_classifier` names it; or a model that is loaded already (see
            `load_backbone`): a classifier, whose own head is not used, or a CLIP, whose image tower takes the head.
        dataset: The images by class, or the folder or file that `open_dataset` opens.
        output: The head's file, NAME.safetensors. `load_classifier(head=...)` reads it, with everything that it needs.
        image_size: Size of the model's input: a number for a square, or (height, width); None: the model's own.
        strength: The inverse strength of regularisation, scikit-learn's C. By default it is chosen by cross-validation
            within the images that are fitted.
        split: The split to be fitted to: by default "train", or all images where there are no splits.
        test: The split to be measured on: by default "test", else "valid" or "val".
        held_out: Instead of a test split the share of each class that is held out; 0.2 where there are no splits.
        seed: Of what is held out, and of the cross-validation.
        features: The folder of features, by default NAME.features beside the output. It can serve many fits.
        batch: Images per forward pass.

    Raises:
        InputError: One of these cannot be used; the message says what can. Nothing has been computed then.
        UnfinishedError: Work stopped in the middle. Features that were computed stay.
    """
    check_installed()
    if not isinstance(dataset, DataSet):
        dataset = open_dataset(dataset)
    batch, strength = checks.count(batch, "batch"), _checked_strength(strength)
    plan = planned(dataset, split=split, test=test, held_out=held_out, seed=seed)
    head, folder = outputs_of(dataset, output, features)
    explainer = load_backbone(backbone) if isinstance(backbone, str) else backbone
    if not isinstance(explainer, Explainer):
        raise InputError(f"fit takes the name of a backbone, or a loaded model, not {shown(backbone)}")
    loaded = explainer.loaded
    check_no_input(head, [Path(loaded.pretrained)])
    size = _try_out(explainer, image_size)
    items = (*plan.fitted, *plan.measured)
    kept = features_of(explainer, items, folder, image_size, batch)
    plan = _readable(plan, kept)
    weight, bias, strength = fitted(
        kept.of(plan.fitted).numpy(),
        np.array(plan.labels(plan.fitted)),
        strength,
        bias=not loaded.tower.unit_norm,
        seed=seed,
    )
    logits = kept.of(plan.measured).numpy() @ weight.T + bias
    answers, labels = logits.argmax(1), np.array(plan.labels(plan.measured))
    accuracy = share(answers == labels)
    notes = HeadNotes(
        classes=plan.classes,
        backbone=loaded.name,
        clip=loaded.tower.unit_norm,
        pretrained=_pretrained_of(loaded),
        pooling=pooling_of(loaded),
        image_size=size,
        dtype=str(loaded.dtype),
        weights=fingerprint_of(loaded.tower.visual),
        accuracy=accuracy,
        measured=len(plan.measured),
        fitted=len(plan.fitted),
        split=plan.words,
        strength=strength,
    )
    write_head(head, torch.from_numpy(weight), torch.from_numpy(bias), notes)
    predicted = {item.name: plan.classes[i] for item, i in zip(plan.measured, answers, strict=True)}
    return Fit(
        head=head,
        features=folder,
        classes=plan.classes,
        accuracy=accuracy,
        measured=notes.measured,
        fitted=notes.fitted,
        split=plan.words,
        strength=strength,
        computed=kept.computed,
        predicted=predicted,
        unreadable=dict(dataset.left_out) | kept.unreadable,
    )


def outputs_of(dataset: DataSet, output: str | Path, features: str | Path | None) -> tuple[Path, Path]:
    """The head's file and the folder of features, checked. Nothing is written.

    Raises:
        InputError: They cannot be written to, or would lie over an input or among the images.
    """
    head = place(output, "the output")
    if head.suffix.lower() != FITTED:
        raise InputError(f"{head}: the file of a fitted head ends in {FITTED}, which has room for names and accuracy")
    check_writable(head)
    check_no_input(head, [dataset.source, *(item.path for item in dataset.items)])
    folder = head.with_suffix(".features") if features is None else place(features, "the folder of features")
    check_folder(folder)
    if is_folder(dataset.source) and resolved(folder).is_relative_to(resolved(dataset.source)):
        raise InputError(f"the features would lie in {folder}, within the data set: name another folder (--features)")
    if same_file(folder, dataset.root):
        raise InputError(f"{folder} is the data set itself: name another folder for its features (--features)")
    return head, folder


def _checked_strength(strength: float | None) -> float | None:
    number = None if strength is None else checks.real(strength)
    if strength is not None and (number is None or number <= 0):
        raise InputError(
            f"C, the inverse strength of regularisation, is a number above 0, as 0.01; not {shown(strength)}"
        )
    return number


def _try_out(explainer: Explainer, image_size: object) -> tuple[int, int] | None:
    """The size of the model's input, None for its own, after a grey picture of that size has gone through it."""
    size = checks.size(image_size)
    if size == "native":
        raise InputError("a head is fitted at one image_size: give a number, or (height, width)")
    sides = None if size is None else (size, size) if isinstance(size, int) else size
    height, width = sides or explainer.loaded.preprocess.size
    explainer.encode(Image.new("RGB", (width, height), "grey"), image_size=size)
    own = explainer.loaded.preprocess.size
    return own if sides is None and own != explainer.loaded.tower.size else sides


def _readable(plan: Plan, kept: Features) -> Plan:
    """The plan without the images that cannot be read, and a warning about those that are in both splits.

    Raises:
        UnfinishedError: Too few are left.
    """
    sides = [tuple(item for item in items if item.name in kept.rows) for items in (plan.fitted, plan.measured)]
    counts = np.bincount(plan.labels(sides[0]), minlength=len(plan.classes))
    why = next(iter(kept.unreadable.values()), "")
    if not sides[1]:
        raise UnfinishedError(f"none of the images to be measured on can be read: {why}")
    if counts.min() < 2:
        raise UnfinishedError(f"of '{plan.classes[int(counts.argmin())]}' fewer than two images can be read: {why}")
    twice = {kept.digests[item.name] for item in sides[0]} & {kept.digests[item.name] for item in sides[1]}
    if twice:
        warnings.warn(
            f"{len(twice)} images are among those that the head is fitted to and those that it is measured on: its "
            "accuracy is overstated",
            stacklevel=3,
        )
    return Plan(sides[0], sides[1], plan.classes, plan.words)


def _pretrained_of(loaded: LoadedModel) -> str | None:
    """What has to be given as `pretrained` to load a model again."""
    origin = loaded.pretrained
    if origin in (RANDOM, IN_MEMORY):
        return origin
    if is_file(origin):
        return str(resolved(origin))
    if isinstance(loaded.space, ClassSpace) and not loaded.tower.unit_norm:
        return None  # a tag of timm's, which its name has, or the package of 'photos'
    return None if loaded.name in BUNDLED_MODELS or origin == loaded.name else origin


__all__ = ["BATCH", "Fit", "fit", "outputs_of", "planned"]
