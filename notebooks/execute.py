"""Executes the notebooks and writes their outputs into them: `make notebooks`. The tests execute them the same way."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NAMES = ("quickstart", "classifier")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook after a run from top to bottom without a hub, as on a machine without a network.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    book = nbformat.read(path, as_version=4)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}  # no weights but the packaged ones: the same outputs everywhere
    client = NotebookClient(book, timeout=300, record_timing=False, resources={"metadata": {"path": path.parent}})
    client.execute(env=environment)
    book.metadata.language_info = {"name": "python"}  # not the version of whoever ran it
    book.metadata.pop("widgets", None)  # a widget is nothing without its kernel
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if _WIDGET not in out.get("data", {})]
    return book


if __name__ == "__main__":
    for name in NAMES:
        nbformat.write(executed(FOLDER / f"{name}.ipynb"), FOLDER / f"{name}.ipynb")
        print(f"notebooks/{name}.ipynb")
