"""The figures of docs/differ.md: does `differ` find what truly tells two sets apart?

    python docs/differ_study.py --output RUN                           # drawn birds; what is done there is kept
    python docs/differ_study.py --output RUN --only null --only speed  # some of it
    python docs/differ_study.py --output RUN --only cub --data CUB --model NAME [--pretrained TAG]
    python docs/differ_study.py --table                                # only the table, from docs/figures/differ.json

Drawn birds come from a pool that is encoded once; each trial draws its sets from it without replacement. All seeds are
fixed, and the birds' are held out. CUB is CUB-200-2011, or a part of it in its own layout, with any CLIP for photos.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import finercam_clip
from finercam_clip import progress
from finercam_clip.aviary import drawing, questions, world
from finercam_clip.birds.benchmark import trained_species
from finercam_clip.birds.words import GROUPS, describe
from finercam_clip.datasets import DataSet, find_truth, open_dataset
from finercam_clip.datasets.truth import differences
from finercam_clip.differences.candidates import Candidates, candidates_of
from finercam_clip.differences.ranking import LEVEL, Ranking, rank
from finercam_clip.evaluation.intervals import Interval, share
from finercam_clip.evaluation.metrics import near, pointing
from finercam_clip.explainer import Explainer
from finercam_clip.files import make_folder, write_whole
from finercam_clip.options import Options
from finercam_clip.tables import markdown
from finercam_clip.traits import Trait

FIGURES = Path(__file__).parent / "figures" / "differ.json"
STREAM = 77  # of the pool's seeds: (number, STREAM)
SIZE = questions.SIZE
BIRDS = 100  # of a set
FEWEST = 20  # of a set that differs in two traits: so few have both
SLOTS = list(world.SLOTS)

Record = dict[str, Any]


def bird_traits() -> list[Trait]:
    """Every trait of the aviary against all other values of its slot."""
    return [
        Trait(
            f"{slot} {value}",
            world.describe(((slot, value),)),
            tuple(world.describe(((slot, other),)) for other in world.SLOTS[slot] if other != value),
        )
        for slot, value in world.TRAITS
    ]


def pooled(explainer: Explainer, path: Path, count: int) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Birds with random traits: their values [count, slots] and embeddings [count, D]. A stopped pool goes on."""
    values: list[tuple[str, ...]] = []
    rows: list[NDArray[np.float32]] = []
    if path.exists():
        with np.load(path) as kept:
            values, rows = [tuple(row) for row in kept["birds"]], list(kept["emb"])
    for start in progress.each(range(len(values), count, 64), "pool", unit="batch"):
        birds = [world.sample_bird(np.random.default_rng((i, STREAM))) for i in range(start, min(start + 64, count))]
        images = [picture(bird, start + i) for i, bird in enumerate(birds)]
        rows += [encoding.embedding.detach().cpu().numpy() for encoding in explainer.encode(images)]
        values += [bird.values for bird in birds]
        np.savez(path, birds=np.array(values), emb=np.stack(rows))
    return np.array(values)[:count], np.stack(rows)[:count]


def picture(bird: world.Bird, number: int) -> Image.Image:
    """A bird of the pool."""
    return Image.fromarray(drawing.draw(bird, (number, STREAM), size=SIZE, masks=False).image)


class Pool:
    """Birds and their scores, to draw sets from."""

    def __init__(self, explainer: Explainer, path: Path, count: int) -> None:
        self.explainer = explainer
        self.candidates: Candidates = candidates_of(explainer.loaded.space, bird_traits(), None, Options())
        self.values, self.embeddings = pooled(explainer, path, count)
        self.scores = self.candidates.scores(self.embeddings)

    def with_values(self, rng: np.random.Generator, *traits: tuple[str, str]) -> NDArray[np.int64]:
        """At most `BIRDS` birds that have these traits, and others at random."""
        has = np.all([self.values[:, SLOTS.index(slot)] == value for slot, value in traits], axis=0)
        return rng.permutation(np.flatnonzero(has))[:BIRDS]

    def ranked(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> Ranking:
        return rank(self.scores[a], self.scores[b], self.candidates.kin, most=8)


def one_trait(pool: Pool, trials: int) -> Record:
    """Two sets that differ in one trait: is it first, by its corrected p, and is the heat on its part?"""
    rng, trials_of = np.random.default_rng(0), []
    for _ in progress.each(range(trials), "one trait", unit="trial"):
        slot = str(rng.choice(SLOTS))
        values = [str(value) for value in rng.choice(world.SLOTS[slot], 2, replace=False)]
        sets = [pool.with_values(rng, (slot, value)) for value in values]
        ranking = pool.ranked(*sets)
        best = int(ranking.order[0])
        found = world.TRAITS[best] in [(slot, value) for value in values]
        sure = bool(ranking.sure[best])
        side = int(ranking.effect[best] < 0)
        clear = np.argsort(-np.abs(pool.scores[sets[side], best] - pool.scores[sets[1 - side], best].mean()))[:2]
        places = [(pool, int(i), best) for i in (*sets[side][clear], *sets[side][:2])]
        hits = [heat_on_part(*place) for place in places]
        trials_of.append(
            {
                "trait": slot,
                "values": values,
                "birds": [len(own) for own in sets],
                "found": found,
                "sure": sure,
                "new": ranking.new,
                "auroc": float(ranking.auroc[best]),
                "clearest": [hit for hit in hits[:2] if hit],
                "any": [hit for hit in hits[2:] if hit],
            }
        )
    right = np.array([trial["found"] and trial["sure"] for trial in trials_of])
    shown = {
        f"{figure}, {which}": _share([hit[place] for trial in trials_of for hit in trial[which]])
        for which in ("clearest", "any")
        for place, figure in enumerate(("pointing", "near"))
    }
    extra = _share([trial["new"] > 1 for trial in trials_of])
    return (
        {"first and corrected p < .05": share(right), "more rows than one are new": extra}
        | shown
        | {
            "trials": len(trials_of),
            "missed": [trial for trial in trials_of if not trial["found"]],
        }
    )


def heat_on_part(pool: Pool, number: int, text: int) -> tuple[bool, bool] | None:
    """Whether the peak of a text's map lies on its part, and near it; None where the part can hardly be seen."""
    bird = world.Bird(tuple(pool.values[number].tolist()))
    scene = drawing.draw(bird, (number, STREAM), size=SIZE)
    mask = scene.masks[0][world.part_of(world.TRAITS[text][0])]
    if mask.mean() < questions.SMALLEST:
        return None
    encoding = pool.explainer.encode(Image.fromarray(scene.image))
    peak = encoding.answer(pool.candidates.question(text)).peak
    return pointing(mask, peak), near(mask, peak, SIZE / encoding.grid[0])


def contrasts(pool: Pool, trials: int) -> Record:
    """How often the true trait has the largest effect, by what is subtracted from a text's logit."""
    names = pool.candidates.concepts
    logits = pool.explainer.loaded.space.scale * pool.embeddings @ pool.candidates.directions.cpu().numpy().T
    logits = logits.astype(np.float64)
    siblings = [list(own) for own in pool.candidates.contrasts]
    ways = {
        "the strongest sibling": pool.scores,
        "the mean of the siblings": logits - np.stack([logits[:, own].mean(1) for own in siblings], 1),
        "the mean of all texts": logits - logits[:, : len(names)].mean(1, keepdims=True),
        "nothing": logits,
    }
    rng, hits = np.random.default_rng(4), {f"true trait first, less {name}": [] for name in ways}
    for _ in range(trials):
        slot = str(rng.choice(SLOTS))
        values = [str(value) for value in rng.choice(world.SLOTS[slot], 2, replace=False)]
        a, b = (pool.with_values(rng, (slot, value)) for value in values)
        for figure, scores in zip(hits, ways.values(), strict=True):
            spread = np.sqrt((scores[a].var(0, ddof=1) + scores[b].var(0, ddof=1)) / 2)
            best = int((np.abs(scores[a].mean(0) - scores[b].mean(0)) / spread).argmax())
            hits[figure].append(world.TRAITS[best] in [(slot, value) for value in values])
    return {figure: _share(own) for figure, own in hits.items()} | {"trials": trials}


def same_kind(pool: Pool, trials: int) -> Record:
    """Two sets of the same kind: does any row say that they differ?"""
    rng, clean, best = np.random.default_rng(1), [], []
    for _ in progress.each(range(trials), "same kind", unit="trial"):
        drawn = rng.permutation(len(pool.scores))[: 2 * BIRDS]
        ranking = pool.ranked(drawn[:BIRDS], drawn[BIRDS:])
        clean.append(not ranking.sure.any())
        best.append(ranking.by_chance >= LEVEL)
    return {"no row with corrected p < .05": _share(clean), "best text, by permutation": _share(best), "trials": trials}


def two_traits(pool: Pool, trials: int) -> Record:
    """Two sets that differ in two traits: are both within three rows, and only they new?"""
    rng, both, only, sizes, missed = np.random.default_rng(2), [], [], [], []
    for _ in progress.each(range(10_000), "two traits", unit="draw"):
        if len(both) == trials:
            break
        slots = [str(slot) for slot in rng.choice(SLOTS, 2, replace=False)]
        values = [[str(v) for v in rng.choice(world.SLOTS[slot], 2, replace=False)] for slot in slots]
        sets = [pool.with_values(rng, *zip(slots, pair, strict=True)) for pair in zip(*values, strict=True)]
        if min(map(len, sets)) < FEWEST:
            continue
        ranking = pool.ranked(*sets)
        rows = [world.TRAITS[i] for i in ranking.order[:3]]
        found = [any((slot, v) in rows for v in pair) for slot, pair in zip(slots, values, strict=True)]
        both.append(all(found))
        only.append({world.TRAITS[i][0] for i in ranking.order[: ranking.new]} <= set(slots))
        sizes.append(min(map(len, sets)))
        if not all(found):
            missed.append({"slots": slots, "values": values, "birds": list(map(len, sets)), "rows": rows})
    return {
        "both within three rows": _share(both),
        "no other row is new": _share(only),
        "trials": len(both),
        "birds of a set (median)": float(np.median(sizes)),
        "missed": missed,
    }


def speed(images: int = 500, texts: int = 2000, width: int = 512) -> Record:
    """Seconds to rank texts of images that are encoded: without contrasts, and each against 9 siblings."""
    import torch

    from finercam_clip.concepts import Concept

    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(images, width)).astype(np.float32) for _ in range(2))
    directions = torch.from_numpy(rng.normal(size=(texts, width)).astype(np.float32))
    named = tuple(f"text {i}" for i in range(texts))
    space = finercam_clip.load().loaded.space
    seconds = {}
    for name, group in (("no contrasts", 1), ("9 siblings", 10), ("all as siblings", texts)):
        contrasts = tuple(tuple(j for j in range(i - i % group, i - i % group + group) if j != i) for i in range(texts))
        kin = np.arange(texts) // group
        concepts = tuple(Concept((text,)) for text in named)
        candidates = Candidates(space, named, concepts, directions, contrasts, kin, Options())
        began = time.perf_counter()
        rank(candidates.scores(a), candidates.scores(b), kin, most=8)
        seconds[name] = time.perf_counter() - began
    return {"seconds": seconds, "images": 2 * images, "texts": texts, "threads": torch.get_num_threads()}


# ---------------------------------------------------------------------------------------------------------- photographs


def cub_traits() -> list[tuple[str, Trait]]:
    """The attribute table as texts: the part that each is about, and each value of a group against the others."""
    traits = []
    for group in GROUPS:
        texts = [describe(((group.name, value),)) for value in group.phrases]
        traits += [
            (group.part, Trait(f"{group.name} {i}", text, tuple(other for other in texts if other != text)))
            for i, text in enumerate(texts)
        ]
    return traits


def of_cub(data: Path, explainer: Explainer, output: Path, pairs: int, images: int) -> Record:
    """Two species that differ clearly in one part: is a text about it among the first five rows?

    Args:
        data: CUB-200-2011, or a part of it in its own layout.
        explainer: A CLIP for photographs.
        output: Where the embeddings are kept.
        pairs: How many pairs of species, those with the clearest lead of one part.
        images: At most so many of each.
    """
    dataset = open_dataset(data)
    truth = find_truth(dataset)
    traits = cub_traits()
    candidates = candidates_of(explainer.loaded.space, [trait for _, trait in traits], None, Options())
    embeddings = _of_classes(dataset, explainer, output, images)
    leads = sorted(_leads(truth.classes, list(embeddings)), reverse=True)
    counted: Counter[str] = Counter()
    chosen = []
    for lead, one, other, part in leads:  # a fifth of them about one part at most: else nearly all would be of the beak
        if counted[part] < max(pairs // 5, 1) and len(chosen) < pairs:
            counted[part] += 1
            chosen.append((lead, one, other, part))
    records = []
    for lead, one, other, part in progress.each(chosen, "pairs", unit="pair"):
        scores = [candidates.scores(embeddings[name]) for name in (one, other)]
        ranking = rank(scores[0], scores[1], candidates.kin, most=8)
        rows = [traits[i] for i in ranking.order[:5]]
        found = any(own == part for own, _ in rows)
        records.append({"pair": [one, other], "part": part, "lead": lead, "found": found})
    by_part = {part: _share([r["found"] for r in records if r["part"] == part]) for part in sorted(counted)}
    chance = float(np.mean([np.mean([own == r["part"] for own, _ in traits]) for r in records]))
    unseen = {name for name in dataset.classes if name.partition(".")[2] not in trained_species()}
    apart = [record["found"] for record in records if unseen >= {*record["pair"]}]
    never = {"the same, neither species was in the training of birds": _share(apart)} if apart else {}
    return {
        "differing part within five rows": _share([record["found"] for record in records]),
        **never,
        "by part": by_part,
        "share of the texts about it": chance,
        "pairs": records,
    }


def _of_classes(dataset: DataSet, explainer: Explainer, output: Path, images: int) -> dict[str, NDArray[np.float32]]:
    path = output / "cub.npz"
    kept: dict[str, NDArray[np.float32]] = dict(np.load(path)) if path.exists() else {}
    for name in progress.each(dataset.classes, "species", unit="species"):
        items = [item for item in dataset.items if item.target == name][:images]
        if name not in kept and items:
            encodings = explainer.encode([item.read() for item in items])
            kept[name] = np.stack([encoding.embedding.detach().float().cpu().numpy() for encoding in encodings])
            np.savez(path, **kept)  # type: ignore[arg-type]
    return kept


def _leads(classes: dict[str, Any], known: list[str]) -> Iterator[tuple[float, str, str, str]]:
    """Pairs of classes, the part that they differ in most, and by how much more than in the next."""
    listed = [name for name in classes if name in known]
    for i, one in enumerate(listed):
        for other in listed[i + 1 :]:
            every = sorted(((value, part) for part, value in differences(classes[one], classes[other]).items()))
            if len(every) > 1:
                yield every[-1][0] - every[-2][0], one, other, every[-1][1]


def _share(hits: list[bool]) -> Interval | None:
    return share(np.array(hits, bool)) if hits else None


# -------------------------------------------------------------------------------------------------------------- command


NAMES = {
    "one": "two sets of 100 that differ in one trait",
    "contrasts": "two sets of 100 that differ in one trait, and what is subtracted from a logit",
    "null": "two sets of 100 of the same kind",
    "two": "two sets that differ in two traits",
    "speed": "2 x 500 images, 2,000 texts",
    "cub": "two species that differ most in one part",
}


def table(figures: Record) -> str:
    """What was measured, in Markdown."""
    rows = []
    for name, record in sorted(figures.items(), key=lambda pair: list(NAMES).index(pair[0])):
        trials = f", {record['trials']} trials" if "trials" in record else ""
        for figure, value in record.items():
            if isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(v, float) for v in value):
                rows.append([NAMES[name] + trials, figure, f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"])
        for how, seconds in record.get("seconds", {}).items():
            rows.append([f"{NAMES[name]}, encoded before", f"seconds, {how}", f"{seconds:.1f}"])
    return markdown(["what", "figure", "share, 95 % interval"], rows, numbers=1)


def kept_table() -> str:
    """The table of the last measurements."""
    return table(json.loads(FIGURES.read_text(encoding="utf-8")))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--only", action="append", help="one, contrasts, null, two, speed, cub; repeatable (all but cub)"
    )
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--pool", type=int, default=2688, help="drawn birds (%(default)s)")
    parser.add_argument("--data", type=Path, help="CUB's folder")
    parser.add_argument("--model")
    parser.add_argument("--pretrained")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--table", action="store_true", help="only the table")
    arguments = parser.parse_args()
    figures: Record = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    if arguments.table:
        print(kept_table())
        return
    make_folder(arguments.output)
    only = arguments.only or ["one", "contrasts", "null", "two", "speed"]
    steps: dict[str, Callable[[], Record]] = {"speed": speed}
    if set(only) & {"one", "contrasts", "null", "two"}:
        pool = Pool(finercam_clip.load(), arguments.output / "pool.npz", arguments.pool)
        drawn = {"one": one_trait, "contrasts": contrasts, "null": same_kind, "two": two_traits}
        steps |= {name: partial(measure, pool, arguments.trials) for name, measure in drawn.items()}
    if "cub" in only:
        model = finercam_clip.load(arguments.model, arguments.pretrained)
        steps["cub"] = partial(of_cub, arguments.data, model, arguments.output, arguments.pairs, 30)
    for name in only:
        figures[name] = steps[name]()
        write_whole(FIGURES, (json.dumps(figures, indent=1) + "\n").encode())
        print(table({name: figures[name]}), flush=True)


if __name__ == "__main__":
    main()
