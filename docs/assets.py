"""Makes the pictures and tables of README, model card and documentation anew, by the commands that they show.

    make readme-assets                    # everything: about an hour on two CPU cores
    make readme-assets ONLY=demo,methods  # some of it
    make readme-assets ONLY=tables        # all tables, from the last measurements
    make readme-assets ONLY=links         # the repository's address (docs/addresses.py)

A table lies between `<!-- begin NAME -->` and `<!-- end NAME -->`; what was measured lies in docs/figures/NAME.json.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import addresses
import differ_study
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import finercam_clip
from finercam_clip import render, tables
from finercam_clip.aviary import benchmark, demo, drawing, questions, sanity, world
from finercam_clip.bench import CostRow
from finercam_clip.bench import format_table as costs_table
from finercam_clip.cli.tables import methods_table
from finercam_clip.errors import InputError
from finercam_clip.files import make_folder, write_whole
from finercam_clip.methods import METHODS
from finercam_clip.models.catalogue import families_table
from finercam_clip.options import Options
from finercam_clip.presets import PRESETS
from finercam_clip.traits import Trait

DOCS = Path(__file__).parent
ROOT = DOCS.parent
FIGURES = DOCS / "figures"
FILLED = (ROOT / "README.md", ROOT / "finercam_clip" / "aviary" / "MODEL_CARD.md", *sorted(DOCS.glob("*.md")))

Rows = list[dict[str, Any]]

FAST = [name for name in [*METHODS, *PRESETS] if name not in METHODS or not METHODS[name].slow]
SLOW = [name for name, method in METHODS.items() if method.slow]
_AVIARY = ["evaluate", "aviary", "--seed", "500000"]
_PAPERS = ["--objective", "similarity", "--objective", "finer", "--gamma", "0.6", "--no-causal"]
_CONTRASTED = [
    *(part for kind in ("attribute", "species", "unseen", "two birds") for part in ("--kind", kind)),
    *(part for name in ("finer", "finer-rectified", Options.objective) for part in ("--objective", name)),
]
_RANKED = [*_AVIARY, "--kind", "attribute", "--kind", "species", *_PAPERS]

# One tower of each kind, and what its questions go back through.
TOWERS = {
    "MobileCLIP-B": "a class token",
    "PE-Core-B-16": "an attention pool's latent",
    "RN50": "an attention pool's mean",
    "convnext_base": "an average of cells",
    "EVA02-B-16": "a class token, rotary positions",
    "vit_medium_patch16_gap_256": "an average of patches",
}

# What is measured: name -> the command lines whose rows, put together, are its figures.
MEASURED: dict[str, list[list[str]]] = {
    "bench": [["bench", "--model", "ViT-B-16", "--pretrained", "random"]],
    "batch": [["bench", "--model", "ViT-B-16", "--pretrained", "random", "--batch", "16"]],
    "towers": [["bench", "--model", name, "--pretrained", "random"] for name in TOWERS],
    "bench-methods": [["bench", "--methods", "all"]],
    "evaluate": [[*_AVIARY, "--questions", "500", "--method", "hirescam"]],
    "siblings": [[*_AVIARY, "--questions", "500", "--method", "hirescam", "--no-causal", "--siblings", *_CONTRASTED]],
    "ranking": [
        [*_RANKED, "--questions", "200", *(part for name in FAST for part in ("--method", name))],
        [*_RANKED, "--questions", "12", *(part for name in SLOW for part in ("--method", name))],
    ],
    "sanity": [["evaluate", "sanity"]],
}


def measure(name: str) -> None:
    """Runs the commands of a measurement and keeps their rows.

    Raises:
        InputError: a command failed, or the rows cannot be written.
    """
    make_folder(FIGURES)  # before hours of work, not after
    rows: Rows = []
    for command in MEASURED[name]:
        done = subprocess.run(
            [sys.executable, "-m", "finercam_clip", *command, "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode != 0:
            raise InputError(f"finercam-clip {shlex.join(command)} ended with exit code {done.returncode}")
        rows += json.loads(done.stdout)
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_whole(FIGURES / f"{name}.json", f"[\n{lines}\n]\n".encode())


def _kept(name: str) -> Rows:
    path = FIGURES / f"{name}.json"
    if not path.exists():
        raise InputError(f"{path} is not there: make readme-assets ONLY={name} measures it")
    rows: Rows = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _costs(name: str) -> str:
    nan = {"memory": float("nan"), "memory_ratio": float("nan")}
    return costs_table([CostRow(**(row if row["memory"] is not None else row | nan)) for row in _kept(name)])


def _tower_costs() -> str:
    """What 1, 32 and 1,000 questions cost in forward passes, a tower a row."""
    rows = [row for row in _kept("towers") if "grad-cam" not in row["name"]]
    bare = [i for i, row in enumerate(rows) if row["name"] == "encode_image"]
    cells = [
        (f"`{name}`", what, *(f"{row['ratio']:.2f}" for row in rows[first + 1 : first + 4]))
        for (name, what), first in zip(TOWERS.items(), bare, strict=True)
    ]
    return tables.markdown(("tower", "reads patches by", "1 question", "32", "1,000"), cells, numbers=3)


_COSTS = {"seconds": 3, "ratio": 1}  # figure -> digits


def _method_costs() -> str:
    """Seconds and multiples of one forward pass for 1 and 32 questions, a method a row."""
    rows = {row["name"]: row for row in _kept("bench-methods")}
    header = ("method", "1 question, s", "x encode_image", "32 questions, s", "x encode_image")
    cells = []
    for name in METHODS:
        one, many = rows.get(f"{name}, 1 question"), rows.get(f"{name}, 32 questions")
        if one and many:
            figures = [f"{row[figure]:.{digits}f}" for row in (one, many) for figure, digits in _COSTS.items()]
            cells.append((f"`{name}`", *figures))
    return tables.markdown(header, cells, numbers=4)


def _evaluation(name: str) -> list[benchmark.Row]:
    return [benchmark.Row(**row) for row in _kept(name)]


def _ranking() -> str:
    """Methods by how often their Finer map of species questions points into the part that differs."""
    rows = {(row.method, row.kind, row.objective): row for row in _evaluation("ranking")}

    def figure(method: str, kind: str, objective: str, name: str) -> tuple[float, float, float]:
        return rows[method, kind, objective].figures[name]

    def species(method: str) -> float:
        return figure(method, "species", "finer", "pointing")[0]

    table = []
    for method in sorted({row.method for row in rows.values()}, key=lambda name: (-species(name), name)):
        mean, low, high = figure(method, "species", "finer", "pointing")
        cells = [
            f"{figure(method, 'attribute', objective, 'pointing')[0]:.2f}" for objective in ("similarity", "finer")
        ]
        cells.append(f"{figure(method, 'species', 'similarity', 'pointing')[0]:.2f}")
        cells.append(f"**{mean:.2f}** ({low:.2f} to {high:.2f})")
        cells += [f"{figure(method, 'species', 'finer', name)[0]:.2f}" for name in ("near", "energy")]
        table.append((f"`{method}`", str(rows[method, "species", "finer"].questions), *cells))
    kinds = ("attribute: plain", "attribute: Finer", "species: plain", "species: Finer (95 % interval)")
    return tables.markdown(("method", "questions", *kinds, "near", "energy"), table, numbers=7)


def _summary() -> str:
    """The default's figures on every kind of question."""
    names = ("pair accuracy", "pointing", "near", "energy", "drop")
    table = []
    rows = {(row.kind, row.objective): row for row in _evaluation("evaluate")}
    for kind in questions.KINDS:
        if (kind, Options.objective) in rows:
            finer, plain = rows[kind, Options.objective], rows[kind, "similarity"]
            cells = [f"{finer.figures[name][0]:.3f}" if name in finer.figures else "" for name in names]
            cells += [f"{plain.figures['energy'][0]:.3f}", f"{finer.figures['chance'][0]:.3f}"]
            table.append((kind, *cells))
    return tables.markdown(("questions", *names, "energy, plain", "chance"), table, numbers=7)


def _sanity() -> str:
    rows = [{name: value for name, value in row.items() if name != "passed"} for row in _kept("sanity")]
    return sanity.format_table([sanity.Check(**row) for row in rows])


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods_table,
    "families": families_table,
    "bench": lambda: _costs("bench"),
    "batch": lambda: _costs("batch"),
    "towers": _tower_costs,
    "bench-methods": _method_costs,
    "evaluate": lambda: benchmark.format_table(_evaluation("evaluate")),
    "siblings": lambda: benchmark.format_table(_evaluation("siblings")),
    "summary": _summary,
    "differ": differ_study.kept_table,
    "ranking": _ranking,
    "sanity": _sanity,
}

DERIVED = {"summary": "evaluate"}  # tables of another one's measurement


def fill(text: str, name: str, table: str) -> str:
    """The text with a table in its place, if it has one for it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)


def fill_all(names: Sequence[str]) -> None:
    """Puts the tables into every file that has a place for them."""
    for path in FILLED:
        old = new = path.read_text(encoding="utf-8")
        for name in names:
            if f"<!-- begin {name} -->" in new:
                new = fill(new, name, TABLES[name]())
        if new != old:
            write_whole(path, new.encode())


def link_all() -> None:
    """Puts the repository's address into every file that has a place for it."""
    for path in addresses.LINKED:
        old = path.read_text(encoding="utf-8")
        new = addresses.linked(old, path.name)
        if new != old:
            write_whole(path, new.encode())


# ------------------------------------------------------------------------------------------------------------ pictures


def _demo() -> NDArray[np.uint8]:
    """What `finercam-clip demo` writes."""
    target, contrast = demo.question()
    return finercam_clip.load().explain(demo.IMAGE, target, [contrast]).panel()


def _gamma() -> NDArray[np.uint8]:
    """One species question at growing comparison strength."""
    target, contrast = demo.question()
    encoding = finercam_clip.load().encode(demo.IMAGE)
    tiles = [render.Tile(encoding.image, "image", target)]
    for gamma in (0.0, 0.3, 0.6, 1.0):
        explanation = encoding.explain(target, [contrast], gamma=gamma)
        tiles.append(render.Tile(explanation.overlay(), f"gamma {gamma:g}", f"not {contrast}", explanation.peak))
    return render.panel(tiles)


def _contrasts() -> NDArray[np.uint8]:
    """What a good contrast does: none, a sibling, the bird as such, and the nearest of a vocabulary."""
    encoding = finercam_clip.load().encode(demo.IMAGE)
    target, _ = demo.question()
    tiles = [render.Tile(encoding.image, "image", f"target: {target}")]
    vocabulary = [world.describe(((slot, demo.BIRD[slot]),)) for slot in ("wing", "beak")]
    for title, contrasts in (
        ("no contrast", []),
        ("contrast: a bird", ["a bird"]),
        ("contrast: what is shared", vocabulary),
        ("contrast: the sibling", [demo.question()[1]]),
    ):
        explanation = encoding.explain(target, contrasts, gamma=1.0)
        tiles.append(render.Tile(explanation.overlay(), title, " | ".join(contrasts) or "gamma 0", explanation.peak))
    return render.panel(tiles)


def _traits() -> NDArray[np.uint8]:
    """A table of traits over a few birds that have some of them, as `explain DIR --concepts` writes it."""
    from finercam_clip.datasets import open_dataset
    from finercam_clip.traits import picture, read_traits, trait_table

    birds = (
        {"crown": "red", "breast": "red", "breast pattern": "plain", "wing": "black", "tail": "red"},
        {"crown": "blue", "breast": "white", "breast pattern": "plain", "wing": "blue", "tail": "blue"},
        {"crown": "black", "breast": "yellow", "breast pattern": "plain", "wing": "black", "beak": "black"},
    )
    with tempfile.TemporaryDirectory() as folder:
        for i, traits in enumerate(birds):
            bird = demo.BIRD
            for slot, value in traits.items():
                bird = bird.with_trait(slot, value)
            scene = drawing.draw(bird, demo.SEED + 1 + i, size=320)
            Image.fromarray(scene.image).save(Path(folder) / f"bird-{i}.png")
        return picture(trait_table(finercam_clip.load(), open_dataset(folder), read_traits("birds-traits")))


def _significance() -> NDArray[np.uint8]:
    """A trait that is there and one that is not, each beside the maps of all other traits."""
    encoding = finercam_clip.load().encode(demo.IMAGE)
    tiles = [render.Tile(encoding.image, "image", "line: more than chance")]
    for title, traits in (
        ("there", (("beak", "orange"), ("back", "brown"))),
        ("not there", (("tail", "purple"),)),
    ):
        for trait in traits:
            answer = encoding.explain(world.describe((trait,)), null="aviary")
            standing = f"p-value {answer.p_value:.3f}, specific {answer.specific:.2f}"
            tiles.append(render.Tile(answer.overlay(), title, answer.target, note=standing))
    return render.panel(tiles)


def _differ() -> NDArray[np.uint8]:
    """Forty birds with a red crown and forty with a blue one, everything else at random: what tells them apart?"""
    sets = []
    for side, colour in enumerate(("red", "blue")):
        birds = [world.sample_bird(np.random.default_rng((i, side))).with_trait("crown", colour) for i in range(40)]
        sets.append([drawing.draw(bird, (i, side), size=256, masks=False).image for i, bird in enumerate(birds)])
    traits = [
        Trait(" ".join(trait), world.describe((trait,)), tuple(map(world.describe, _siblings(trait))))
        for trait in world.TRAITS
    ]
    return finercam_clip.differ(finercam_clip.load(), sets[0], sets[1], traits).picture(1)


def _siblings(trait: world.Trait) -> list[tuple[world.Trait]]:
    return [((trait[0], value),) for value in world.SLOTS[trait[0]] if value != trait[1]]


PICTURES: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "demo": _demo,
    "gamma": _gamma,
    "contrasts": _contrasts,
    "traits": _traits,
    "significance": _significance,
    "differ": _differ,
}


def main(arguments: list[str]) -> None:
    """Redoes what is named, or everything. Each measurement fills its tables when it is done: one that fails after an
    hour takes nothing else with it.

    Raises:
        InputError: there is no such thing, a command failed, or a table has not been measured yet.
    """
    known = [*PICTURES, *MEASURED, *TABLES, "tables", "links"]
    names = [name for part in arguments for name in part.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"there is no {', '.join(unknown)}; there are {', '.join(dict.fromkeys(known))}")
    if not names or "links" in names:
        link_all()
    for name, make in PICTURES.items():
        if not names or name in names:
            render.write_picture(DOCS / f"{name}.jpg", make())
    cheap = [name for name in TABLES if name not in MEASURED and name not in DERIVED]
    fill_all([name for name in cheap if not names or name in names])
    for name in MEASURED:
        if not names or name in names:
            measure(name)
            fill_all([name, *(table for table, source in DERIVED.items() if source == name)])
    fill_all(list(TABLES) if "tables" in names else [name for name in DERIVED if name in names])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"assets: error: {error}")
