"""The table of traits: images by concepts, each image encoded once."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from typing_extensions import Unpack

from finercam_clip import progress, render
from finercam_clip.concepts import ConceptSpace, Text
from finercam_clip.concepts.vocabulary import prompt_files, read_prompts
from finercam_clip.datasets import DataSet, Labels
from finercam_clip.datasets.labels import check_known, label_map
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.explanation import Box, Explanation
from finercam_clip.images import read_image
from finercam_clip.options import Changes
from finercam_clip.question import ask
from finercam_clip.resolve import resolve_options

PICTURED = 12  # images in the grid picture: more would not be looked at


@dataclass(frozen=True)
class Trait:
    """A column of the table: a name, and the question it stands for.

    Attributes:
        name: What people call it.
        target: What to look for.
        contrasts: What it is told apart from.
    """

    name: str
    target: Text
    contrasts: tuple[Text, ...] = ()


@dataclass(frozen=True, eq=False)
class Cell:
    """One trait of one image.

    Attributes:
        score: The target's similarity.
        probability: Its probability among target and contrasts, or None where nothing is compared.
        peak: (x, y) of the heatmap's hottest pixel, or None where nothing speaks for the trait.
        box: The best box, or None.
        doubtful: Whether the trait is probably not there (`Explanation.caution`).
        tile: The heatmap over the image, uint8 [h, w, 3], for the images that are pictured; else None.
    """

    score: float
    probability: float | None
    peak: tuple[int, int] | None
    box: Box | None
    doubtful: bool
    tile: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class Table:
    """Traits by images.

    Attributes:
        traits: The columns.
        rows: Image name -> one cell per trait.
        images: Image name -> uint8 [h, w, 3], of the first few.
        unreadable: Image name -> why it was skipped.
    """

    traits: tuple[Trait, ...]
    rows: dict[str, list[Cell]]
    images: dict[str, NDArray[np.uint8]]
    unreadable: dict[str, str]


def read_traits(source: str | Path) -> tuple[Trait, ...]:
    """Traits from a file: a YAML mapping, name -> text, texts, or target and contrasts; or a text file, one per line.

    Args:
        source: A packaged file's name, or the path of the user's own file.

    Raises:
        InputError: There is no such file, or it does not hold traits.
    """
    packaged = prompt_files(".yaml") | prompt_files()
    path = packaged.get(str(source)) or Path(source)
    if not path.is_file():
        names = ", ".join(packaged)
        raise InputError(f"there are no traits '{source}'; packaged are {names}; or give a file (.yaml, .txt)")
    if path.suffix.lower() not in (".yaml", ".yml"):
        return tuple(Trait(text, text) for text in read_prompts(source))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from error
    if isinstance(content, list):
        content = {str(text): text for text in content}
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} holds no traits: write one per line, as 'red crown: a bird with a red crown'")
    return tuple(_trait(str(name), value, path) for name, value in content.items())


def _trait(name: str, value: object, path: Path) -> Trait:
    if isinstance(value, dict):
        unknown = set(value) - {"target", "contrasts"}
        contrasts = value.get("contrasts") or []
        contrasts = [contrasts] if isinstance(contrasts, str) else contrasts
        if not unknown and _is_text(value.get("target")) and all(_is_text(one) for one in contrasts):
            return Trait(name, value["target"], tuple(contrasts))
    elif _is_text(value):
        return Trait(name, value)  # type: ignore[arg-type]
    raise InputError(f"{path}: the trait '{name}' is a text, or 'target' with 'contrasts' (texts), not {value!r:.80}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
    )


def trait_table(
    explainer: Explainer,
    dataset: DataSet,
    traits: Sequence[Trait],
    *,
    labels: Labels | None = None,
    **changes: Unpack[Changes],
) -> Table:
    """Every trait of every image. Each text is embedded once, and each image is encoded once.

    Args:
        explainer: The model.
        dataset: The images; those that cannot be read are listed in the table.
        traits: The columns.
        labels: What the texts of the traits, or the data set's classes, are called in the model (see `generate`).
        changes: Any field of `Options`.

    Raises:
        InputError: A trait's text cannot be used by the model.
    """
    options = resolve_options(changes)
    space, pairs = explainer.loaded.space, _labelled(explainer.loaded.space, dataset, traits, labels)
    check_known(space, _texts(pairs), options.templates)
    questions = [ask(space, target, contrasts, options) for target, contrasts in pairs]
    rows: dict[str, list[Cell]] = {}
    images: dict[str, NDArray[np.uint8]] = {}
    unreadable: dict[str, str] = {}
    for item in progress.each(dataset.items):
        try:
            image = read_image(item.path)
        except InputError as error:
            unreadable[item.name] = str(error)
            continue
        encoding = explainer.encode(image, **options.encoding())
        pictured = len(rows) < PICTURED
        if pictured:
            images[item.name] = render.shrunk(np.asarray(image))
        rows[item.name] = [_cell(encoding.answer(question), pictured=pictured) for question in questions]
    return Table(tuple(traits), rows, images, unreadable)


def _labelled(
    space: ConceptSpace, dataset: DataSet, traits: Sequence[Trait], labels: Labels | None
) -> list[tuple[Text, tuple[Text, ...]]]:
    """The target and the contrasts of each trait, as the model names them."""
    pairs = [(trait.target, trait.contrasts) for trait in traits]
    if labels is None:
        return pairs
    renamed = label_map(labels, [*_texts(pairs), *dataset.classes], space)

    def label(text: Text) -> Text:
        return renamed.get(text, text) if isinstance(text, str) else [renamed.get(one, one) for one in text]

    return [(label(target), tuple(map(label, contrasts))) for target, contrasts in pairs]


def _texts(pairs: Sequence[tuple[Text, tuple[Text, ...]]]) -> list[str]:
    """Every text of targets and contrasts."""
    concepts = (concept for target, contrasts in pairs for concept in (target, *contrasts))
    return [text for one in concepts for text in ((one,) if isinstance(one, str) else one)]


def _cell(explanation: Explanation, *, pictured: bool) -> Cell:
    boxes = explanation.boxes()
    return Cell(
        score=explanation.similarities[explanation.target],
        probability=explanation.probabilities[explanation.target] if explanation.compared else None,
        peak=explanation.peak,
        box=boxes[0] if boxes else None,
        doubtful=explanation.caution is not None,
        tile=render.shrunk(explanation.overlay()) if pictured else None,
    )


def to_csv(table: Table) -> str:
    """One row per image; per trait its score, p, peak ("x y") and box ("x0 y0 x1 y1"), empty where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    parts = ("score", "p", "peak", "box")
    writer.writerow(["image", *(f"{trait.name} {part}" for trait in table.traits for part in parts)])
    for name, cells in table.rows.items():
        row: list[str] = [name]
        for cell in cells:
            row += [f"{cell.score:.4f}", "" if cell.probability is None else f"{cell.probability:.4f}"]
            row += ["" if cell.peak is None else " ".join(str(v) for v in cell.peak)]
            row += ["" if cell.box is None else " ".join(str(v) for v in cell.box[:4])]
        writer.writerow(row)
    return buffer.getvalue()


def picture(table: Table) -> NDArray[np.uint8]:
    """The first images with their heatmaps, one row per image and one column per trait: uint8 [h, w, 3]."""
    tiles = []
    for name, image in table.images.items():
        tiles.append(render.Tile(image, name.split("/")[-1], ""))
        for trait, cell in zip(table.traits, table.rows[name], strict=True):
            score = f"{cell.score:.2f}" if cell.probability is None else f"{cell.score:.2f}, p {cell.probability:.2f}"
            if cell.tile is not None:
                caption = f"{score}: not there?" if cell.doubtful else score
                tiles.append(render.Tile(cell.tile, trait.name, "", note=caption, warning=cell.doubtful))
    more = len(table.rows) - PICTURED
    title = f"the first {PICTURED} of {len(table.rows)} images" if more > 0 else f"{len(table.rows)} images"
    return render.sheet(tiles, 1 + len(table.traits), title=title)
