"""Heads whose files say what they were fitted on: the model is loaded as it was, and takes the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finercam_clip.concepts.classes import ClassSpace, named_head
from finercam_clip.concepts.vocabulary import class_names
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.loaded import LoadedModel
from finercam_clip.models.classifier import loaded_backbone, loaded_classifier
from finercam_clip.models.heads import HeadNotes, read_head, read_notes
from finercam_clip.models.hub import PREFIX, loaded_hub
from finercam_clip.models.openclip import loaded_clip
from finercam_clip.preprocess import Preprocess
from finercam_clip.tensors import fingerprint_of

IN_MEMORY = "in memory"  # where the weights of a wrapped model come from

ClassNames = str | Path | Sequence[str] | None


def loaded_by_head(
    backbone: str | None,
    head: str | Path | None,
    classes: ClassNames,
    pretrained: str | Path | None,
    pooling: str | None,
    device: str | None,
    precision: str,
) -> Explainer:
    """A classifier. What is not named is what the notes of its head say, if it has any. See `load_classifier`."""
    notes = None if head is None else read_notes(head)
    if notes is None or head is None:
        return Explainer(loaded_classifier(backbone, head, classes, pretrained, pooling, device, precision))
    if pooling is not None and pooling != notes.pooling:
        raise InputError(f"{head} was fitted to pooling '{notes.pooling}', not '{pooling}': leave pooling out")
    if notes.clip and backbone is not None:
        raise InputError(f"{head} was fitted on the CLIP {notes.backbone}, not on {backbone}: leave the backbone out")
    if backbone is None and pretrained is None and notes.pretrained == IN_MEMORY:
        raise InputError(
            f"{head} was fitted on a model in memory, '{notes.backbone}': give it to that one, "
            "finercam_clip.models.with_head(finercam_clip.wrap(...), head)"
        )
    name = notes.backbone if backbone is None else backbone
    weights = notes.pretrained if pretrained is None and backbone in (None, notes.backbone) else pretrained
    if not notes.clip:
        loaded = loaded_backbone(name, weights, notes.pooling, device, precision)
    elif name.startswith(PREFIX):
        loaded = loaded_hub(name, None if weights is None else str(weights), device, precision)
    else:
        loaded = loaded_clip(name, None if weights is None else str(weights), device, precision)
    return with_head(Explainer(loaded), head, classes)


def with_head(explainer: Explainer, head: str | Path, classes: ClassNames = None) -> Explainer:
    """A model with another head on its image tower: its concepts are that head's classes.

    Args:
        explainer: A CLIP or a classifier.
        head: The head's file, as in `load_classifier`. One that was fitted (`finercam_clip.fit`) must have been fitted
            on this model's weights; its image size becomes the model's own.
        classes: The names of its rows. By default they are the fitted head's own, else numbers.

    Raises:
        InputError: The head does not fit, or was fitted on other weights. A CLIP's embeddings have no place for a bias.
    """
    loaded = explainer.loaded
    (weight, bias), notes = read_head(head), read_notes(head)
    names = class_names(classes) if classes is not None else None if notes is None else notes.classes
    if notes is not None:
        _check_weights(loaded, notes, head)
    width = _width(loaded)
    if weight.shape[1] != width:
        raise InputError(
            f"the head reads {weight.shape[1]} features, {loaded.name} gives {width}: it is another backbone's"
        )
    space = named_head(weight, bias, names)
    if loaded.tower.unit_norm:
        if bias.any():
            raise InputError(f"{head} has a bias, for which a CLIP's embeddings have no place: fit it on this model")
        space = replace(space, rows=weight, biased=False)
    reads = loaded.space.reads if isinstance(loaded.space, ClassSpace) else "model"
    return Explainer(
        replace(
            loaded,
            space=replace(space, rows=space.rows.to(loaded.device), reads=reads),
            preprocess=_sized(loaded.preprocess, None if notes is None else notes.image_size),
            present_above=None,
        )
    )


def _check_weights(loaded: LoadedModel, notes: HeadNotes, head: str | Path) -> None:
    """Raises InputError for other weights than the head was fitted on. Those of other precision cannot be compared."""
    if notes.clip != loaded.tower.unit_norm:
        kinds = ("the image tower of a CLIP", "a classifier's backbone")
        raise InputError(f"{head} was fitted on {kinds[not notes.clip]}, {loaded.name} is {kinds[notes.clip]}")
    if notes.dtype == str(loaded.dtype) and notes.weights != fingerprint_of(loaded.tower.visual):
        raise InputError(
            f"{head} was fitted on {notes.backbone} with other weights than these of {loaded.name} "
            f"({loaded.pretrained}): a head works on its own features only; fit it anew"
        )


def _width(loaded: LoadedModel) -> int:
    """How many features a head reads."""
    space = loaded.space
    if isinstance(space, ClassSpace):
        return space.rows.shape[1] - space.biased
    return int(space.directions([space.concept("a bird", "text")]).shape[1])


def _sized(preprocess: Preprocess, size: tuple[int, int] | None) -> Preprocess:
    """The preprocessing whose own size is another one: what `image_size` gives otherwise."""
    if size is None or size == preprocess.size:
        return preprocess
    return Preprocess(replace(preprocess.cfg, size=size))
