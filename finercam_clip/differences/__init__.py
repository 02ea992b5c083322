"""What tells two sets of pictures apart, in words, and where.

sides       the two sets, as a user names them
embeddings  what the model makes of each image, as a run
candidates  texts, what each is told apart from, and their scores
ranking     how well scores tell two sets apart, how surely, and which say something new
places      where a text has its evidence, and the images that show it best
answer      the answer: rows, table, files
pictures    the answer drawn
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from typing_extensions import Unpack

from finercam_clip.datasets import DataSet, Item
from finercam_clip.differences.answer import Differences, Row, rows_of
from finercam_clip.differences.candidates import Candidates, Concepts, candidates_of
from finercam_clip.differences.embeddings import Embeddings, embed_images, is_finished, read_embeddings
from finercam_clip.differences.places import places_of
from finercam_clip.differences.ranking import FEWEST, LEVEL, SMALL, Ranking, rank
from finercam_clip.differences.sides import Images, Side, confusions, side_of
from finercam_clip.errors import InputError, shown
from finercam_clip.explainer import Explainer
from finercam_clip.files import check_folder
from finercam_clip.options import Changes, Options, Texts
from finercam_clip.paths import is_folder, place, resolved
from finercam_clip.resolve import resolve_options
from finercam_clip.runs import BATCH, SHARD, Share, Summary
from finercam_clip.runs.shards import ALL
from finercam_clip.trial import try_out

MOST, FEWEST_SHOWN = 8, 3  # texts that are shown with maps: those that say something new, and three at least
RUNS = ("a", "b")  # the folders of the sets' embeddings within the output


def differ(
    explainer: Explainer,
    images_a: Images,
    images_b: Images,
    concepts: Concepts = None,
    *,
    template: Texts = None,
    output: str | Path | None = None,
    split: str | None = None,
    batch: int = BATCH,
    **changes: Unpack[Changes],
) -> Differences:
    """Which texts tell two sets of pictures apart, and where.

    Each image is encoded once and scored by every text: how far the text leads over its strongest contrast (without
    contrasts: over the mean of all texts), in the model's logits. Texts are ranked by how well their scores tell the
    sets apart, those first that say something new (`Differences`). The first few are shown on the images.

    Args:
        explainer: The model: a CLIP, a classifier, or one that was wrapped.
        images_a: A set of pictures: a folder or file as `open_dataset` opens it, "DATA SET:CLASS", "RUN:correct",
            "RUN:wrong", "RUN:CLASS>CLASS" (of one class, taken for the other), an open data set, or a list of images.
        images_b: The other set.
        concepts: Texts that may tell them apart: a name in prompts/, a file, or a list of texts or of `Trait`s, which
            have contrasts. By default a classifier's classes.
        template: A text with "{}", or several, that each text of `concepts` is put into. The texts of one template are
            each other's contrasts.
        output: A folder for embeddings, table and page. A stopped call goes on there. None: nothing is written.
        split: Only this part of the data sets.
        batch: Images per forward pass.
        changes: Any field of `Options`.

    Raises:
        InputError: A set or a text cannot be used; the message says what can.
        UnfinishedError: The work stopped in the middle. What is done stays.
    """
    options = resolve_options(changes)
    if not isinstance(explainer, Explainer):
        raise InputError(f"differ takes a loaded model, as finercam_clip.load() gives it, not {shown(explainer)}")
    candidates = candidates_of(explainer.loaded.space, concepts, template, options)
    sides = sides_of(images_a, images_b, split)
    if output is not None:
        folder = output_of(output, sides)
        embed_sides(explainer, sides, folder, options, batch=batch)
        differences = compared(explainer, candidates, sides, folder)
        differences.save(folder)
        return differences
    with tempfile.TemporaryDirectory() as temporary:
        embed_sides(explainer, sides, Path(temporary), options, batch=batch)
        return compared(explainer, candidates, sides, Path(temporary))


def sides_of(images_a: Images, images_b: Images, split: str | None = None) -> tuple[Side, Side]:
    """Both sets, under names that differ. Raises InputError where one cannot be used."""
    a, b = side_of(images_a, "A", split), side_of(images_b, "B", split)
    if a.name == b.name:
        a, b = replace(a, name=f"A: {a.name}"), replace(b, name=f"B: {b.name}")
    return a, b


def output_of(output: str | Path, sides: tuple[Side, Side]) -> Path:
    """The folder to write to, checked. Nothing is written.

    Raises:
        InputError: It cannot be written to, or lies among the images.
    """
    folder = place(output, "the output")
    check_folder(folder)
    for side in sides:
        source = side.dataset.source
        if not side.dataset.address and is_folder(source) and resolved(folder).is_relative_to(resolved(source)):
            raise InputError(
                f"{folder} lies within the data set {source}, whose images the pictures would be taken for"
            )
    return folder


def embed_sides(
    explainer: Explainer,
    sides: tuple[Side, Side],
    folder: Path,
    options: Options,
    *,
    batch: int = BATCH,
    shard_size: int = SHARD,
    threads: int | None = None,
    share: Share = ALL,
) -> Summary:
    """Embeds the images of both sets, or a share of them, each set as a run of its own (see `runs.generate`).

    Raises:
        InputError: A folder cannot be used, or is another data set's.
    """
    try_out(explainer, options)
    total = Summary()
    for name, side in zip(RUNS, sides, strict=True):
        done = embed_images(
            explainer,
            side.dataset,
            folder / name,
            options,
            batch=batch,
            shard_size=shard_size,
            threads=threads,
            share=share,
        )
        total.images += done.images
        total.computed += done.computed
        total.unreadable |= done.unreadable
    return total


def is_embedded(folder: Path) -> bool:
    """Whether the images of both sets are embedded, all of them."""
    return all(is_finished(folder / name) for name in RUNS)


def compared(explainer: Explainer, candidates: Candidates, sides: tuple[Side, Side], folder: Path) -> Differences:
    """What tells two embedded sets apart.

    Args:
        explainer: The model.
        candidates: The texts.
        sides: The sets.
        folder: Where `embed_sides` has put their embeddings.

    Raises:
        InputError: Of one set fewer than two images can be read.
    """
    a, b = (read_embeddings(folder / name) for name in RUNS)
    for side, own in zip(sides, (a, b), strict=True):
        if len(own.names) < FEWEST:
            raise InputError(f"of '{side.name}' {len(own.names)} image can be read: a set has at least {FEWEST}")
    scores = candidates.scores(a.rows), candidates.scores(b.rows)
    ranking = rank(*scores, candidates.kin, most=MOST)
    pictured = [int(i) for i in ranking.order[: max(ranking.new, FEWEST_SHOWN)]]
    items = _items_of(sides[0].dataset, a), _items_of(sides[1].dataset, b)
    places = places_of(explainer, candidates, pictured, items, scores, ranking.effect > 0)
    loaded = explainer.loaded
    return Differences(
        names=(sides[0].name, sides[1].name),
        scores=scores,
        rows=rows_of(candidates, ranking, (sides[0].name, sides[1].name)),
        places=tuple(places),
        by_chance=ranking.by_chance,
        notes=tuple(_notes(sides, (a, b), ranking)),
        model=f"{loaded.name} ({loaded.pretrained})",
    )


def _items_of(dataset: DataSet, embeddings: Embeddings) -> dict[str, Item]:
    items = {item.name: item for item in dataset.items}
    return {name: items[name] for name in embeddings.names}


def _notes(sides: tuple[Side, Side], embeddings: tuple[Embeddings, Embeddings], ranking: Ranking) -> list[str]:
    """What a reader should know before believing the table."""
    notes = []
    for side, own in zip(sides, embeddings, strict=True):
        if len(own.names) < SMALL:
            notes.append(
                f"'{side.name}' has only {len(own.names)} pictures: with fewer than {SMALL} hardly any difference can "
                "be told from chance"
            )
    if not ranking.sure.any():
        notes.append(
            "no text tells the sets apart more surely than chance: when the pictures are dealt out at random, the best "
            f"text does as well in {ranking.by_chance:.0%} of the deals"
        )
    both = set(embeddings[0].digests) & set(embeddings[1].digests)
    if both:
        notes.append(f"{len(both)} pictures are in both sets")
    return notes


__all__ = [
    "LEVEL",
    "Candidates",
    "Differences",
    "Row",
    "candidates_of",
    "compared",
    "confusions",
    "differ",
    "embed_sides",
    "is_embedded",
    "output_of",
    "sides_of",
]
