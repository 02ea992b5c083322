"""Checkpoint files as --pretrained: what does not fit is refused, code is never executed, what fits is open_clip's."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from reference.models import model_of
from safetensors.torch import save_file

from finercam_clip.explainer import Explainer

from .command import CONTRAST, QUESTION, TARGET, Refused, Run

SMALL = "ViT-S-32-alt"  # the architecture of open_clip that is built fastest
EXPLAIN = ["explain", "bird.jpg", *QUESTION, "--model", SMALL, "--pretrained"]


class Code:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["torch.pt", "torch.bin", "pickle.pt", "pickle.safetensors", "pickle.npz"])
def test_code_in_a_checkpoint_is_never_executed(refused: Refused, folder: Path, name: str) -> None:
    marker, path = folder / "executed", folder / name
    save = torch.save if name.startswith("torch") else pickle.dump
    with path.open("wb") as file:
        save({"state_dict": Code(marker)}, file)
    refused([*EXPLAIN, path], str(path))
    assert not marker.exists()


def test_the_code_of_these_tests_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Code(tmp_path / "executed")))
    assert (tmp_path / "executed").is_dir()


State = dict[str, torch.Tensor]
# name of the file, how it is written (the state is the bundled model's), what the error line says
WRONG_CHECKPOINTS: dict[str, tuple[str, Callable[[Path, State], object], str]] = {
    "of another architecture": ("other.pt", lambda path, state: torch.save(state, path), "another architecture"),
    "of another architecture, safetensors": (
        "other.safetensors",
        lambda path, state: save_file(state, path),
        "another architecture",
    ),
    "of something else": (
        "head.pt",
        lambda path, _: torch.save({"weight": torch.zeros(3)}, path),
        "another architecture",
    ),
    "without tensors": ("empty.pt", lambda path, _: torch.save({}, path), "cannot be read as a checkpoint"),
    "one tensor": ("tensor.pt", lambda path, _: torch.save(torch.zeros(3), path), "cannot be read as a checkpoint"),
    "text": ("text.pt", lambda path, _: path.write_text("weights"), "checkpoint"),
    "0 bytes": ("empty.bin", lambda path, _: path.touch(), "cannot be read as a checkpoint"),
    "text, safetensors": ("text.safetensors", lambda path, _: path.write_text("weights"), "cannot be read"),
}


@pytest.mark.parametrize(("name", "write", "fragment"), WRONG_CHECKPOINTS.values(), ids=WRONG_CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_is_refused(
    refused: Refused,
    folder: Path,
    bundled: Explainer,
    name: str,
    write: Callable[[Path, State], object],
    fragment: str,
) -> None:
    write(folder / name, {key: value.contiguous() for key, value in model_of(bundled).state_dict().items()})
    refused([*EXPLAIN, name], name, fragment)


def test_a_checkpoint_that_fits_gives_open_clips_own_similarities(run: Run, folder: Path) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(SMALL)
    torch.save({"state_dict": model.state_dict()}, folder / "mine.pt")
    code, out, err = run(*EXPLAIN, "mine.pt", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["pretrained"] == "mine.pt"
    model.eval()
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.open("bird.jpg"))[None], normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(SMALL)([TARGET, CONTRAST]), normalize=True)
    assert list(answer["similarities"].values()) == pytest.approx((texts @ image[0]).tolist(), abs=1e-4)
