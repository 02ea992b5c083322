"""A data set's classes in the words of a model: label maps, and what a model cannot be asked about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finercam_clip import checks
from finercam_clip.concepts import ConceptSpace
from finercam_clip.concepts.classes import ClassSpace
from finercam_clip.concepts.names import ClassNameError, ClassNames
from finercam_clip.datasets.items import DataSet
from finercam_clip.datasets.lists import rows_of
from finercam_clip.errors import InputError, one_line, shown
from finercam_clip.options import Texts
from finercam_clip.paths import place

Labels = str | Path | Mapping[str, str | int]  # a CSV file, or class of the data set -> class of the model
HEADER = ("dataset", "classifier")
_LINE = 370  # letters of an error that lists names: nothing of it is left out when it is printed
_BRIEF = 100  # of one of them


def label_map(labels: Labels, names: Iterable[str], space: ConceptSpace) -> dict[str, str]:
    """A label map, checked on both sides.

    Args:
        labels: A CSV file of two columns, the data set's class and the model's, whose first line may be
            `dataset,classifier`; or a mapping. A class of a classifier is named as anywhere: by name, WordNet id or
            index; a class of a CLIP is any text.
        names: What the data set calls its classes. They are found loosely, as a classifier's are.
        space: The model's.

    Returns:
        A name of the data set -> the model's own name.

    Raises:
        InputError: A row is not two columns, or names what is no class. The message has its line.
    """
    theirs = ClassNames(tuple(dict.fromkeys(names)), owner="the data set", numbered=False)
    renamed: dict[str, str] = {}
    for where, left, right in _pairs(labels):
        indices, error = theirs.meant(left), why_unknown(space, right)
        if len(indices) != 1 and error is not None and where.endswith(", line 1"):
            raise InputError(
                f"{where}: neither the data set has a class {shown(left)}, nor the model a class {shown(right)}; "
                f"a line of titles is {','.join(HEADER)}"
            )
        try:
            name = theirs.names[theirs.index(left)]
        except InputError as wrong:
            raise InputError(f"{where}: {wrong}") from wrong
        if error is not None:
            raise InputError(f"{where}: {error}") from error
        if name in renamed:
            raise InputError(f"{where}: the class {shown(left)} is there twice")
        renamed[name] = space.concept(right, "class").label
    return renamed


def _pairs(labels: object) -> Iterator[tuple[str, str, str]]:
    """Where it stands, the data set's class, and the model's."""
    if isinstance(labels, Mapping):
        for left, right in labels.items():
            number = checks.whole(right)
            if not isinstance(left, str) or not (isinstance(right, str) or number is not None):
                raise InputError(f"labels map names to names or indices, not {shown(left)} to {shown(right)}")
            yield "labels", left, right if isinstance(right, str) else str(number)
        return
    path = place(labels, "the label map")
    rows = [(f"{path}, line {line}", [field.strip() for field in row]) for line, row in rows_of(path)]
    if rows and tuple(field.lower() for field in rows[0][1]) == HEADER:
        rows = rows[1:]
    if not rows:
        raise InputError(f"{path} holds no labels: write a row per class, the data set's name and the model's")
    for where, fields in rows:
        while len(fields) > 2 and not fields[-1]:
            fields.pop()
        if len(fields) != 2 or not all(fields):
            hint = "; put a name with commas in quotes" if len(fields) > 2 else ""
            what = "a row is two columns, the data set's class and the model's, with a comma between them"
            raise InputError(f"{where}: {what}, not {shown(','.join(fields))}{hint}")
        yield where, fields[0], fields[1]


def labelled(dataset: DataSet, labels: Labels | None, space: ConceptSpace) -> DataSet:
    """The data set with its classes as the model names them. What the map does not mention stays as it is.

    Raises:
        InputError: The map cannot be used (`label_map`), or there are no classes.
    """
    if labels is None:
        return dataset
    names = [*dataset.classes, *texts_of(dataset)]
    if not names:
        raise InputError(f"{dataset.source} has no classes, which labels could be for: leave them out")
    renamed = label_map(labels, names, space)

    def label(name: str) -> str:
        return renamed.get(name, name)

    items = (
        replace(
            item,
            target=None if item.target is None else label(item.target),
            contrasts=None if item.contrasts is None else tuple(map(label, item.contrasts)),
        )
        for item in dataset.items
    )
    return replace(dataset, items=tuple(items), classes=tuple(dict.fromkeys(map(label, dataset.classes))))


def texts_of(dataset: DataSet) -> list[str]:
    """The targets and contrasts of a data set, each once."""
    texts = (text for item in dataset.items for text in (item.target, *(item.contrasts or ())))
    return list(dict.fromkeys(text for text in texts if text is not None))


def unknown(space: ConceptSpace, texts: Iterable[str], templates: Texts = None) -> list[str]:
    """The texts that a model cannot be asked about."""
    several = list(dict.fromkeys(texts))
    if isinstance(space, ClassSpace):  # what it suggests instead takes a while
        return [text for text in several if not space.knows(text)]
    try:  # all at once, which is faster
        if several:
            space.directions([space.concept(space.spoken(text), "class") for text in several], templates)
    except InputError:
        return [text for text in several if why_unknown(space, text, templates) is not None]
    return []


def why_unknown(space: ConceptSpace, text: str, templates: Texts = None) -> InputError | None:
    """Why a model cannot be asked about a text; None if it can."""
    try:
        space.directions([space.concept(space.spoken(text), "class")], templates)
    except InputError as error:
        return error
    return None


def check_known(space: ConceptSpace, texts: Sequence[str], templates: Texts = None) -> None:
    """Raises InputError if there are texts that a model cannot be asked about: all of them, as far as a line goes."""
    strange = unknown(space, texts, templates)
    errors = (error for text in strange if (error := why_unknown(space, text, templates)) is not None)
    kind = "classes" if space.names else "texts"
    start = f"{len(strange):,} of {len(set(texts)):,} {kind} cannot be asked about: "
    end = "; map them with --labels; 'dataset check' with this model says more of each"
    briefs: list[str] = []
    for error in errors:
        brief = one_line(error.brief if isinstance(error, ClassNameError) else str(error), _BRIEF)
        if len(strange) == 1 or briefs == [brief]:  # the same of two texts: it is about their templates
            raise error
        rest = f", and {len(strange) - len(briefs):,} more"
        if briefs and len(start + ", ".join([*briefs, brief]) + rest + end) > _LINE:
            raise InputError(start + ", ".join(briefs) + rest + end)
        briefs.append(brief)
    if briefs:
        raise InputError(start + ", ".join(briefs) + end)
