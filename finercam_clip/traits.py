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
from finercam_clip.errors import InputError, shown
from finercam_clip.explainer import Explainer
from finercam_clip.explanation import Box, Explanation
from finercam_clip.options import Changes, Options
from finercam_clip.paths import is_file, place, read_text
from finercam_clip.question import Question, ask
from finercam_clip.resolve import resolve_options
from finercam_clip.tables import defused
from finercam_clip.trial import try_out

_MOST_YAML = 1 << 20  # bytes: a thousand times the packaged tables
_MOST_TEXTS = 100_000  # in a table: aliases make many of a few
_SHOWN = 80  # letters of a trait's name in an error
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
        unreadable: The name of an image, or of a folder with "/" behind it -> why it was skipped.
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
    path = packaged.get(str(source)) or place(source, "the file of traits")
    if not is_file(path):
        listed = ", ".join(packaged)
        raise InputError(f"there are no traits '{source}'; packaged are {listed}; or give a file (.yaml, .txt)")
    if path.suffix.lower() in (".yaml", ".yml"):
        traits = _from_yaml(path)
    else:
        traits = [Trait(text, text) for text in read_prompts(path)]
    if not traits:
        raise InputError(f"{path} holds no traits: write one per line, as 'red crown: a bird with a red crown'")
    names, texts = [trait.name for trait in traits], sum(map(_count, traits))
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: the trait '{name}' is there twice")
    if texts > _MOST_TEXTS:
        raise InputError(f"{path} has {texts:,} texts; more than {_MOST_TEXTS:,} are not asked")
    return tuple(traits)


def _count(trait: Trait) -> int:
    return sum(1 if isinstance(text, str) else len(text) for text in (trait.target, *trait.contrasts))


def _from_yaml(path: Path) -> list[Trait]:
    """Traits as they stand in a YAML file. Its nodes are read, not what YAML would make of them.

    So `red: no` is an error and not a bool, a name that is there twice is seen, every error has its line, and an alias
    within an alias costs no more than what is written.
    """
    try:
        root = yaml.compose(read_text(path, _MOST_YAML), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as YAML: {str(error) or type(error).__name__}") from error
    if isinstance(root, yaml.CollectionNode) and not _is(root, "seq") and not _is(root, "map"):
        raise InputError(f"{path} cannot be read as YAML: its tag {shown(root.tag)} is none that is known here")
    if root is not None and _is(root, "seq"):
        texts = [_text(node) for node in root.value]
        for node, text in zip(root.value, texts, strict=True):
            if not isinstance(text, str):
                raise _no_trait(path, node)
        return [Trait(str(text), str(text)) for text in texts]
    if root is None:
        return []
    if not _is(root, "map"):
        raise _no_trait(path, root)
    return [_trait(name, value, path) for name, value in root.value]


def _trait(key: yaml.Node, node: yaml.Node, path: Path) -> Trait:
    if not isinstance(key, yaml.ScalarNode):
        raise _no_trait(path, key)
    if _is(node, "map"):
        fields = {str(name.value): value for name, value in node.value}
        target = _text_or_texts(fields.get("target"))
        contrasts = _contrasts(fields["contrasts"]) if "contrasts" in fields else ()
        if (
            set(fields) <= {"target", "contrasts"}
            and len(fields) == len(node.value)
            and target
            and contrasts is not None
        ):
            return Trait(key.value, target, contrasts)
    elif text := _text_or_texts(node):
        return Trait(key.value, text)
    raise _no_trait(path, node, key.value)


def _no_trait(path: Path, node: yaml.Node, name: str = "") -> InputError:
    line, value = node.start_mark.line + 1, node.value if isinstance(node, yaml.ScalarNode) else node.id
    which = f"the trait '{name[:_SHOWN]}'" if name else "a trait"
    return InputError(
        f"{path}, line {line}: {which} is a text, or 'target' with 'contrasts' (texts), not {shown(value)}; "
        "a text that YAML takes for something else stands in quotes"
    )


def _text(node: yaml.Node | None) -> str | None:
    """The text of a node; None where it is a number, a date or the like, or several things."""
    return str(node.value) if node is not None and _is(node, "str") else None


def _is(node: yaml.Node, kind: str) -> bool:
    """Whether a node is what YAML calls "str", "null", "seq" or "map"."""
    return bool(node.tag == f"tag:yaml.org,2002:{kind}")


def _text_or_texts(node: yaml.Node | None) -> str | list[str] | None:
    if node is None or not _is(node, "seq"):
        return _text(node)
    texts = [text for text in map(_text, node.value) if text is not None]
    return texts if texts and len(texts) == len(node.value) else None


def _contrasts(node: yaml.Node) -> tuple[Text, ...] | None:
    """The contrasts of a trait: a text, or several, each of which may be an ensemble. None where they are none."""
    if _is(node, "null"):  # nothing stands behind the colon
        return ()
    if not _is(node, "seq"):
        text = _text(node)
        return None if text is None else (text,)
    contrasts = [contrast for contrast in map(_text_or_texts, node.value) if contrast is not None]
    return tuple(contrasts) if len(contrasts) == len(node.value) else None


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
        dataset: The images; those that cannot be read, or not be asked, are listed in the table.
        traits: The columns.
        labels: What the texts of the traits, or the data set's classes, are called in the model (see `generate`).
        changes: Any field of `Options`.

    Raises:
        InputError: A trait's text cannot be used by the model.
    """
    options = resolve_options(changes)
    questions = questions_about(explainer, dataset, traits, labels, options)
    rows: dict[str, list[Cell]] = {}
    images: dict[str, NDArray[np.uint8]] = {}
    unreadable = dict(dataset.left_out)
    for item in progress.each(dataset.items):
        pictured = len(rows) < PICTURED
        try:
            image = item.read()
            encoding = explainer.encode(image, **options.encoding())
            cells = [cell_of(encoding.answer(question), pictured=pictured) for question in questions]
        except InputError as error:  # the options are right: it is this image that cannot be read, or asked
            unreadable[item.name] = str(error)
            continue
        rows[item.name] = cells
        if pictured:
            images[item.name] = render.shrunk(np.asarray(image))
    return Table(tuple(traits), rows, images, unreadable)


def questions_about(
    explainer: Explainer, dataset: DataSet, traits: Sequence[Trait], labels: Labels | None, options: Options
) -> list[Question]:
    """The question of each trait, checked. See `trait_table`."""
    space, pairs = explainer.loaded.space, _labelled(explainer.loaded.space, dataset, traits, labels)
    check_known(space, _texts(pairs), options.templates)
    questions = [ask(space, target, contrasts, options) for target, contrasts in pairs]
    try_out(explainer, options)
    return questions


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


def cell_of(explanation: Explanation, *, pictured: bool = False) -> Cell:
    """What a table says of a trait of an image.

    Args:
        explanation: The answer to the trait's question.
        pictured: Whether its heatmap over the image is made, too.
    """
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
    writer.writerow(["image", *(defused(f"{trait.name} {part}") for trait in table.traits for part in parts)])
    for name, cells in table.rows.items():
        row: list[str] = [defused(name)]
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
