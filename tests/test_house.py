"""The house: imports lead downwards, no file is long, and no file reaches into another object's private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "finercam_clip"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES = 400

# From the ground up. A room may import rooms of lower floors, and its own files.
FLOORS = (
    "version errors processes",
    "checks paths",
    "options files progress tables batches tensors opencv significance",
    "presets",
    "images geometry objectives render",
    "preprocess concepts towers",
    "methods",
    "question explanation loaded resolve",
    "questions nulls",
    "explainer",
    "models",
    "datasets bench trial training",
    "traits",
    "runs",
    "evaluation exports differences",
    "fitting aviary birds",
    "ui",
    "cli",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}

# What a newcomer opens for explain(image, target, [contrast]) on a ViT by the default method, without the closed form.
PATH = (
    "explainer question resolve options loaded objectives geometry preprocess concepts/__init__ concepts/texts "
    "towers/tower towers/forward towers/tails towers/native_vit methods/__init__ methods/gradients"
)
OPEN_CLIPS_OWN = {"visual._pool", "visual._embeds"}  # no public name gives these


def _imports(path: Path) -> Iterator[str]:
    """The package's modules that a file imports, `TYPE_CHECKING` imports included, as "room" or "room.module"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finercam_clip"):
            inner = (node.module or "").removeprefix("finercam_clip").removeprefix(".")
            names = [f"{inner}.{alias.name}" if inner else alias.name for alias in node.names]
            yield from (name for name in names if name.split(".")[0] in FLOOR)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".", 1)[1] for a in node.names if a.name.startswith("finercam_clip."))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_room_has_a_floor() -> None:
    assert {_room(path) for path in FILES} - {"__init__", "__main__"} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_lead_downwards(path: Path) -> None:
    if _room(path) in ("__init__", "__main__"):  # the front door: its imports wait until they are asked for
        return
    for name in _imports(path):
        other = name.split(".")[0]
        assert other == _room(path) or FLOOR[other] < FLOOR[_room(path)], f"{_room(path)} imports {name}"


def test_no_file_is_part_of_a_circle() -> None:
    """Within a room, too."""
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
    }
    needs = {
        name: {module for other in _imports(path) for module in (other, other.rpartition(".")[0]) if module in modules}
        for name, path in modules.items()
    }
    while ready := {name for name, others in needs.items() if not others - {name} & needs.keys()}:
        needs = {name: others - ready for name, others in needs.items() if name not in ready}
    assert not needs, f"a circle among {sorted(needs)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_are_short_and_keep_to_public_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    reaches = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and ast.unparse(node.value) not in ("self", "cls")
    }
    assert not {reach for reach in reaches if reach.split(".", reach.count(".") - 1)[-1] not in OPEN_CLIPS_OWN}


def test_the_path_is_read_in_one_sitting() -> None:
    lengths = {name: len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in PATH.split()}
    assert lengths["explainer"] <= 250
    assert sum(lengths.values()) <= 1900


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_imports_the_front_door(path: Path) -> None:
    """It leads to every room, so whoever imports it is part of a circle."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "finercam_clip":
            assert {alias.name for alias in node.names} <= FLOOR.keys()
        elif isinstance(node, ast.Import):
            assert "finercam_clip" not in {alias.name for alias in node.names}


def test_no_file_imports_a_private_name() -> None:
    for path in FILES:
        for name in _imports(path):
            assert not name.rpartition(".")[2].startswith("_") or name.endswith("__"), f"{path.name} imports {name}"
