"""The command line: what it prints and writes, and one line and exit code 2 for every mistake a user can make."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shlex
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from finercam_clip.prompts import read_prompts
from PIL import Image
from safetensors.torch import save_file

import finercam_clip
import finercam_clip.explainer
import finercam_clip.models
from finercam_clip.cli import build_parser, main
from finercam_clip.explainer import load

SMALL = "ViT-S-32-alt"  # the architecture of open_clip that is built fastest
TARGET, CONTRAST = "a bird with a red crown", "a bird with a blue crown"
QUESTION = ["--target", TARGET, "--contrast", CONTRAST]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in this process, with every warning shown as at a user's prompt: exit code, stdout, stderr."""

    def run_command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield run_command


_load_once = lru_cache(load)


@pytest.fixture
def bundled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tests about the question, not about loading, share one bundled model."""
    monkeypatch.setattr(finercam_clip.explainer, "load", _load_once)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user who has some pictures and some files that are none."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (90, 140, 3), dtype=np.uint8)).save(tmp_path / "bird.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "bird.jpg").read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("a bird\n")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "float.tif").write_bytes(_encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(run: Run, folder: Path, arguments: list[str | Path], *fragments: str) -> str:
    """Asserts exit code 2, one line on stderr with `fragments` in it, silence on stdout, and an untouched folder."""
    before = contents(folder)
    code, out, err = run(*arguments)
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("finercam-clip")
    assert "error: " in err
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err
    assert contents(folder) == before
    return err


# ------------------------------------------------------------------------------------------------------------ mistakes

WRONG_PICTURES = {
    "missing file": ("missing.jpg", "no such file"),
    "folder": ("pictures", "is a folder"),
    "truncated JPEG": ("cut.jpg", "cut short"),
    "text named .jpg": ("text.jpg", "not an image"),
    "0 bytes": ("empty.jpg", "0 bytes"),
    "floating point": ("float.tif", "floating-point"),
    "endless name": ("b" * 300 + ".jpg", "cannot be read"),
}


@pytest.mark.parametrize(("name", "said"), WRONG_PICTURES.values(), ids=WRONG_PICTURES)
@pytest.mark.parametrize("extra", [["--json"], ["--output", "crown.png"]], ids=["json", "output"])
def test_a_file_that_is_no_picture_is_refused(run: Run, folder: Path, name: str, said: str, extra: list[str]) -> None:
    refused(run, folder, ["explain", name, *QUESTION, *extra], name, said)


WRONG_MODELS: dict[str, tuple[list[str], list[str]]] = {
    "unknown architecture": (["--model", "ViT-B16"], ["'ViT-B16'", "did you mean", "ViT-B-16"]),
    "nothing like an architecture": (["--model", "!"], ["'!'", "finercam-clip models"]),
    "architecture without weights": (
        ["--model", "ViT-B-16"],
        ["ViT-B-16 needs weights", "openai", "laion2b_s34b_b88k"],
    ),
    "architecture without any tag": (["--model", SMALL], [f"{SMALL} needs weights", "none are published"]),
    "unknown tag": (["--model", "ViT-B-32", "--pretrained", "opnai"], ["'opnai'", "openai", "laion2b_s34b_b79k"]),
    "missing checkpoint": (["--model", "ViT-B-32", "--pretrained", "mine.pt"], ["mine.pt", "no such checkpoint"]),
    "missing checkpoint folder": (["--model", "ViT-B-32", "--pretrained", "a/b"], ["a/b", "no such checkpoint"]),
    "endless checkpoint name": (["--model", "ViT-B-32", "--pretrained", "c" * 300], ["c" * 40]),
    "weights for the bundled model": (["--pretrained", "openai"], ["the bundled model has its own weights"]),
    "weights for a model of the hub": (["--model", "hf-hub:a/b", "--pretrained", "openai"], ["hf-hub:a/b"]),
    "missing model folder": (["--model", "local-dir:nowhere"], ["local-dir:nowhere"]),
    "unknown precision": (["--precision", "fp8"], ["'fp8'", "fp32, fp16, bf16"]),
    "unknown device": (["--device", "gpu"], ["'gpu'", "leave it out"]),
}


@pytest.mark.parametrize(("model", "said"), WRONG_MODELS.values(), ids=WRONG_MODELS)
def test_a_model_that_cannot_be_loaded_is_refused(run: Run, folder: Path, model: list[str], said: list[str]) -> None:
    refused(run, folder, ["explain", "bird.jpg", *QUESTION, *model], *said)


@pytest.mark.parametrize("which", ["a folder of the user", "the bundled model"])
def test_a_model_without_its_weights_never_explains_with_random_ones(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    config = finercam_clip.models.BUNDLED_FOLDER / "open_clip_config.json"
    (folder / "model").mkdir()
    (folder / "model" / config.name).write_bytes(config.read_bytes())
    monkeypatch.setattr(finercam_clip.models, "BUNDLED_FOLDER", folder / "model")
    model = [] if which == "the bundled model" else ["--model", f"local-dir:{folder / 'model'}"]
    refused(run, folder, ["explain", "bird.jpg", *QUESTION, *model], "weights")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(run: Run, folder: Path) -> None:
    refused(run, folder, ["explain", "bird.jpg", *QUESTION, "--device", "cuda"], "'cuda'", "cannot be used here")


WRONG_QUESTIONS: dict[str, tuple[list[str], list[str]]] = {
    "empty target": (["--target", " "], ["the target is an empty text"]),
    "empty contrast": (["--target", TARGET, "--contrast", ""], ["the contrast is an empty text"]),
    "contrast equal to the target": (["--target", TARGET, "--contrast", TARGET.upper()], ["is the target itself"]),
    "contrast given twice": ([*QUESTION, "--contrast", CONTRAST], [CONTRAST, "is given twice"]),
    "too long": (["--target", "red " * 40], ["red red", "42 tokens", "reads 32"]),
    "negative gamma": ([*QUESTION, "--gamma", "-0.5"], ["gamma", "-0.5"]),
    "gamma that is no number": ([*QUESTION, "--gamma", "nan"], ["gamma", "nan"]),
    "unknown method": ([*QUESTION, "--method", "lime"], ["'lime'", "gradcam", "hirescam"]),
    "unknown refinement": ([*QUESTION, "--refine", "crf"], ["'crf'", "affinity"]),
    "unknown layer": ([*QUESTION, "--layer", "stem"], ["no layer stem", "transformer.resblocks.0.ln_1"]),
    "a layer without gradient": ([*QUESTION, "--layer", "ln_post"], ["no gradient reaches", "resblocks.4.ln_1"]),
    "a layer of a method without": ([*QUESTION, "--layer", "-2", "--method", "rollout"], ["has no target layer"]),
    "unknown objective": ([*QUESTION, "--objective", "coarse"], ["'coarse'", "finer"]),
    "broken cells": ([*QUESTION, "--image-size", "100"], ["image_size 100", "multiples of 8"]),
    "too large": ([*QUESTION, "--image-size", "4096"], ["choose a smaller"]),
    "unknown pooling": ([*QUESTION, "--pooling", "max"], ["'max'", "model, mean"]),
    "nearest without vocabulary": (["--target", TARGET, "--nearest", "2"], ["vocabulary"]),
    "nearest and contrasts": ([*QUESTION, "--nearest", "2", "--vocabulary", "aviary"], ["not both"]),
    "none nearest": (["--target", TARGET, "--nearest", "0", "--vocabulary", "aviary"], ["contrasts=0"]),
    "too many nearest": (["--target", TARGET, "--nearest", "9999", "--vocabulary", "aviary"], ["contrasts=9999"]),
    "unknown vocabulary": (["--target", TARGET, "--nearest", "2", "--vocabulary", "fish"], ["'fish'", "aviary"]),
    "unknown templates": ([*QUESTION, "--templates", "fish"], ["'fish'", "templates-general"]),
    "a vocabulary as templates": ([*QUESTION, "--templates", "aviary"], ["where the concept goes"]),
}


@pytest.mark.parametrize(("question", "said"), WRONG_QUESTIONS.values(), ids=WRONG_QUESTIONS)
@pytest.mark.usefixtures("bundled_once")
def test_a_question_that_cannot_be_asked_is_refused(
    run: Run, folder: Path, question: list[str], said: list[str]
) -> None:
    refused(run, folder, ["explain", "bird.jpg", *question], *said)


@pytest.mark.usefixtures("bundled_once")
def test_method_layers_refinement_and_scenery(run: Run, drawn_bird: str) -> None:
    def ask(*options: str) -> dict[str, Any]:
        code, out, err = run("explain", drawn_bird, *QUESTION, "--json", *options)
        assert (code, err) == (0, "")
        return dict(json.loads(out))

    plain = ask()
    assert plain["options"]["method"] == "hirescam"
    assert ask("--layer", "-1")["grid"] == pytest.approx(np.array(plain["grid"]), abs=1e-4)
    both = ask("--layer", "-2", "--layer", "transformer.resblocks.4.ln_1")
    assert both["options"]["layer"] == [-2, "transformer.resblocks.4.ln_1"]
    assert np.array(ask("--refine", "affinity")["grid"]).min() >= 0
    preset = ask("--method", "clip-es")
    wanted = {"method": "gradcam", "objective": "probability", "pooling": "mean", "refine": "affinity"}
    assert preset["options"] | wanted == preset["options"]
    assert ask("--background", "aviary")["contrasts"][0] == plain["contrasts"][0]


def test_the_methods_are_listed_with_their_sources(run: Run) -> None:
    code, out, err = run("methods")
    assert (code, err) == (0, "")
    assert "| `legrad` | Bousselham et al., ICCV 2025 | transformers |" in out


def test_a_wrong_option_is_refused_before_anything_is_loaded(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_may_load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded for a question that cannot be asked")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", nothing_may_load)
    refused(run, folder, ["explain", "bird.jpg", *QUESTION, "--method", "lime"], "'lime'")


def test_a_word_that_the_bundled_model_never_saw_is_refused(run: Run, folder: Path) -> None:
    refused(run, folder, ["explain", "bird.jpg", "--target", "a helicopter"], "does not know 'helicopter'", "--model")


WRONG_OUTPUTS = {
    "wrong ending": ("crown.gif", ".png"),
    "no ending": ("crown", ".png"),
    "missing folder": ("missing/crown.png", "there is no folder missing"),
    "file for a folder": ("bird.jpg/crown.png", "bird.jpg/crown.png"),
    "folder": ("pictures.png", "is a folder"),
}


@pytest.mark.parametrize(("output", "said"), WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS)
@pytest.mark.parametrize("command", [["demo"], ["explain", "bird.jpg", *QUESTION]], ids=["demo", "explain"])
def test_an_output_that_cannot_be_written_is_refused(
    run: Run, folder: Path, command: list[str], output: str, said: str
) -> None:
    (folder / "pictures.png").mkdir()
    refused(run, folder, [*command, "--output", output], output, said)


@pytest.mark.usefixtures("bundled_once")
def test_a_disk_that_fills_up_leaves_no_half_picture(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    refused(run, folder, ["explain", "bird.jpg", *QUESTION, "--output", "crown.png"], "crown.png", "No space left")


WRONG_ARGUMENTS: dict[str, list[str]] = {
    "no command": [],
    "unknown command": ["exlain"],
    "no image": ["explain", *QUESTION],
    "no target": ["explain", "bird.jpg"],
    "two images": ["explain", "bird.jpg", "bird.jpg", *QUESTION],
    "unknown option": ["explain", "bird.jpg", *QUESTION, "--alpha", "0.6"],
    "gamma in words": ["explain", "bird.jpg", *QUESTION, "--gamma", "strong"],
    "option without its value": ["explain", "bird.jpg", "--target"],
    "half a bird": ["explain", "bird.jpg", "--target", TARGET, "--nearest", "1.5"],
    "argument to models": ["models", "ViT-B-16"],
}


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_and_point_to_the_help(run: Run, folder: Path, arguments: list[str]) -> None:
    refused(run, folder, list(arguments), "--help")


# --------------------------------------------------------------------------------------------------------- checkpoints


class Code:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["torch.pt", "torch.bin", "pickle.pt", "pickle.safetensors", "pickle.npz"])
def test_code_in_a_checkpoint_is_never_executed(run: Run, folder: Path, name: str) -> None:
    marker, path = folder / "executed", folder / name
    save = torch.save if name.startswith("torch") else pickle.dump
    with path.open("wb") as file:
        save({"state_dict": Code(marker)}, file)
    refused(run, folder, ["explain", "bird.jpg", *QUESTION, "--model", SMALL, "--pretrained", path], str(path))
    assert not marker.exists()


def test_the_code_of_these_tests_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Code(tmp_path / "executed")))
    assert (tmp_path / "executed").is_dir()


def bundled_state() -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in _load_once().loaded.model.state_dict().items()}


WRONG_CHECKPOINTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "of another architecture": ("other.pt", lambda path: torch.save(bundled_state(), path), "another architecture"),
    "of another architecture, safetensors": (
        "other.safetensors",
        lambda path: save_file(bundled_state(), path),
        "another architecture",
    ),
    "of something else": ("head.pt", lambda path: torch.save({"weight": torch.zeros(3)}, path), "another architecture"),
    "without tensors": ("empty.pt", lambda path: torch.save({}, path), "cannot be read as a checkpoint"),
    "one tensor": ("tensor.pt", lambda path: torch.save(torch.zeros(3), path), "cannot be read as a checkpoint"),
    "text": ("text.pt", lambda path: path.write_text("weights") and None, "checkpoint"),
    "0 bytes": ("empty.bin", lambda path: path.touch(), "cannot be read as a checkpoint"),
    "text, safetensors": ("text.safetensors", lambda path: path.write_text("weights") and None, "cannot be read"),
}


@pytest.mark.parametrize(("name", "write", "said"), WRONG_CHECKPOINTS.values(), ids=WRONG_CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_is_refused(
    run: Run, folder: Path, name: str, write: Callable[[Path], None], said: str
) -> None:
    write(folder / name)
    refused(run, folder, ["explain", "bird.jpg", *QUESTION, "--model", SMALL, "--pretrained", name], name, said)


def test_a_checkpoint_that_fits_gives_open_clips_own_similarities(run: Run, folder: Path) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(SMALL)
    torch.save({"state_dict": model.state_dict()}, folder / "mine.pt")
    code, out, err = run("explain", "bird.jpg", *QUESTION, "--model", SMALL, "--pretrained", "mine.pt", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["pretrained"] == "mine.pt"
    model.eval()
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.open("bird.jpg"))[None], normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(SMALL)([TARGET, CONTRAST]), normalize=True)
    assert list(json.loads(out)["similarities"].values()) == pytest.approx((texts @ image[0]).tolist(), abs=1e-4)


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.fixture
def drawn_bird(folder: Path) -> Path:
    """A bird of the bundled model's own world, wider than high."""
    from finercam_clip.aviary import world

    scene = world.draw(world.sample_bird(np.random.default_rng(5)), 5, size=160)
    wide = np.pad(scene.image, ((0, 0), (40, 40), (0, 0)), mode="edge")
    Image.fromarray(wide).save(folder / "drawn.png")
    return folder / "drawn.png"


def test_explain_writes_a_picture_and_a_summary(run: Run, folder: Path, drawn_bird: Path) -> None:
    before = contents(folder)
    code, out, err = run("explain", drawn_bird, *QUESTION, "--output", "crown.png")
    assert (code, err) == (0, "")
    assert set(contents(folder)) - set(before) == {folder / "crown.png"}
    with Image.open(folder / "crown.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 4 * 200
    lines = out.splitlines()
    assert lines[0].startswith("target")
    assert lines[0].endswith(TARGET)
    assert lines[1].startswith("contrast")
    assert lines[1].endswith(CONTRAST)
    assert any(line.startswith("peak") for line in lines)
    assert lines[-1].split() == ["picture", "crown.png"]


@pytest.mark.usefixtures("bundled_once")
def test_the_picture_is_named_after_the_image_and_lies_in_the_working_folder(
    run: Run, folder: Path, drawn_bird: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "pictures")
    code, out, _ = run("explain", drawn_bird, *QUESTION)
    assert code == 0
    assert [path.name for path in Path.cwd().iterdir()] == ["drawn-finercam.png"]
    assert "drawn-finercam.png" in out


def test_json_says_everything_and_writes_nothing(run: Run, folder: Path, drawn_bird: Path) -> None:
    before = contents(folder)
    code, out, err = run("explain", drawn_bird, *QUESTION, "--json", "--gamma", "0.8", "--method", "hirescam")
    assert (code, err) == (0, "")
    assert contents(folder) == before
    answer = json.loads(out)
    assert answer["target"] == TARGET
    assert answer["contrasts"] == [CONTRAST]
    assert list(answer["similarities"]) == list(answer["probabilities"]) == [TARGET, CONTRAST]
    assert all(-1 <= cosine <= 1 for cosine in answer["similarities"].values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert np.array(answer["grid"]).shape == _load_once().encode(drawn_bird).grid
    assert answer["image_size"] == {"width": 240, "height": 160}
    assert answer["seen"] == [40, 0, 200, 160]
    assert answer["options"]["gamma"] == 0.8
    assert answer["options"]["method"] == "hirescam"
    assert (answer["model"], answer["pretrained"]) == ("aviary", "bundled")
    if answer["peak"] is not None:
        assert 40 <= answer["peak"][0] < 200
    for x0, y0, x1, y1, score in answer["boxes"]:
        assert 0 <= x0 < x1 <= 240
        assert 0 <= y0 < y1 <= 160
        assert 0.5 <= score <= 1


@pytest.mark.usefixtures("bundled_once")
def test_json_is_what_the_python_api_says(run: Run, drawn_bird: Path) -> None:
    _, out, _ = run("explain", drawn_bird, *QUESTION, "--json")
    explanation = _load_once().explain(drawn_bird, [TARGET], [CONTRAST])
    said = json.loads(out)
    np.testing.assert_allclose(said.pop("grid"), explanation.grid, atol=1e-4)
    expected = json.loads(explanation.to_json())
    expected.pop("grid")
    assert said == expected


@pytest.mark.usefixtures("bundled_once")
def test_json_and_output_together_give_both(run: Run, folder: Path, drawn_bird: Path) -> None:
    code, out, _ = run("explain", drawn_bird, *QUESTION, "--json", "--output", "crown.webp")
    assert code == 0
    assert json.loads(out)["target"] == TARGET
    assert (folder / "crown.webp").stat().st_size > 0


@pytest.mark.usefixtures("bundled_once")
def test_several_targets_are_an_ensemble_and_several_contrasts_are_several(run: Run, drawn_bird: Path) -> None:
    more = ["--target", "a red crown", "--contrast", "a green crown"]
    answer = json.loads(run("explain", drawn_bird, *QUESTION, *more, "--json")[1])
    assert answer["target"] == f"{TARGET} / a red crown"
    assert answer["contrasts"] == [CONTRAST, "a green crown"]
    assert len(answer["probabilities"]) == 3


@pytest.mark.usefixtures("bundled_once")
def test_without_contrasts_gamma_does_not_matter(run: Run, drawn_bird: Path) -> None:
    grids = [
        json.loads(run("explain", drawn_bird, "--target", TARGET, "--gamma", gamma, "--json")[1])["grid"]
        for gamma in ("0", "0.9")
    ]
    assert grids[0] == grids[1]


@pytest.mark.usefixtures("bundled_once")
def test_nearest_takes_contrasts_from_the_vocabulary(run: Run, drawn_bird: Path) -> None:
    nearest = ["--nearest", "2", "--vocabulary", "aviary"]
    answer = json.loads(run("explain", drawn_bird, "--target", TARGET, *nearest, "--json")[1])
    assert len(set(answer["contrasts"])) == 2
    assert set(answer["contrasts"]) <= set(read_prompts("aviary")) - {TARGET}


@pytest.mark.usefixtures("bundled_once")
def test_templates_change_how_a_concept_is_written_and_not_its_name(run: Run, folder: Path, drawn_bird: Path) -> None:
    (folder / "mine.txt").write_text("a photo of {}\n{}.\n")
    plain, written = (
        json.loads(run("explain", drawn_bird, *QUESTION, "--json", *extra)[1])
        for extra in ([], ["--templates", "mine.txt"])
    )
    assert written["similarities"].keys() == plain["similarities"].keys()
    assert written["similarities"] != plain["similarities"]
    assert written["options"]["templates"] == "mine.txt"


def test_every_concept_of_the_aviary_vocabulary_is_known_to_the_bundled_model() -> None:
    embedded = _load_once().embed(read_prompts("aviary"))
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(embedded)))


def test_the_demo_writes_its_picture_and_finds_the_part(run: Run, folder: Path) -> None:
    before = contents(folder)
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    assert set(contents(folder)) - set(before) == {folder / "finercam-demo.png"}
    assert "on the bird's crown" in out
    assert "finercam-demo.png" in out
    with Image.open(folder / "finercam-demo.png") as picture:
        assert picture.width > 4 * 200


def test_random_weights_explain_with_a_warning_and_say_that_the_map_means_nothing(run: Run, folder: Path) -> None:
    before = contents(folder)
    random_model = ["--model", "ViT-B-32", "--pretrained", "random"]
    code, out, err = run("explain", "bird.jpg", *QUESTION, *random_model, "--json")
    assert code == 0
    assert len(err.splitlines()) == 1
    assert "RANDOM" in err
    assert contents(folder) == before
    answer = json.loads(out)
    assert (answer["model"], answer["pretrained"]) == ("ViT-B-32", "random")
    assert "random weights" in answer["caution"]
    assert np.array(answer["grid"]).shape == (7, 7)
    assert np.isfinite(answer["grid"]).all()
    assert answer["image_size"] == {"width": 140, "height": 90}
    assert answer["seen"] == pytest.approx([25, 0, 115, 90], abs=1)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["options"] == {
        "method": "hirescam",
        "gamma": 0.6,
        "objective": "finer",
        "pooling": "model",
        "image_size": None,
        "layer": None,
        "refine": None,
        "background": None,
        "templates": None,
        "vocabulary": None,
        "similar_by": None,
    }


@pytest.mark.slow
def test_sixty_megapixels_go_all_the_way(run: Run, folder: Path) -> None:
    ramp = np.linspace(0, 255, 10000, dtype=np.uint8)[None, :, None]
    Image.fromarray(np.ascontiguousarray(np.broadcast_to(ramp, (6000, 10000, 3)))).save(folder / "large.jpg")
    code, out, err = run("explain", "large.jpg", *QUESTION, "--output", "crown.png")
    assert (code, err) == (0, "")
    assert "crown.png" in out
    with Image.open(folder / "crown.png") as picture:
        assert max(picture.size) < 3000


# -------------------------------------------------------------------------------------------------------------- models


def test_models_lists_families_tags_and_the_bundled_model(run: Run) -> None:
    code, out, err = run("models")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split(maxsplit=2) for line in out.splitlines() if line}
    assert rows["aviary"][1:] == ["vit", "bundled"]
    assert rows["ViT-B-16"][1] == "vit"
    assert "openai" in rows["ViT-B-16"][2]
    assert rows["RN50"][1] == "resnet"
    assert "not yet" not in out
    assert set(open_clip.list_models()) <= set(rows)


def test_the_readme_has_the_table_of_families_as_the_command_prints_it(run: Run) -> None:
    code, out, err = run("models", "--families")
    assert (code, err) == (0, "")
    assert out in (Path(__file__).parents[1] / "README.md").read_text()


def test_models_as_json_say_the_same_for_scripts(run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "--json")[1])}
    assert rows["aviary"] == {"name": "aviary", "family": "vit", "weights": ["bundled"]}
    assert rows["ViT-B-16"]["family"] == rows["ViT-B-16-quickgelu"]["family"] == "vit"
    assert rows["ViT-B-16"]["weights"] == open_clip.list_pretrained_tags_by_model("ViT-B-16")
    assert rows["ViT-B-16-SigLIP2"]["family"] == "timm-vit"
    assert set(open_clip.list_models()) == set(rows) - {"aviary"}


# ---------------------------------------------------------------------------------------------------- as a real process


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_help_answers_in_under_a_second() -> None:
    fastest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        done = process("-m", "finercam_clip", "--help")
        fastest = min(fastest, time.perf_counter() - start)
        assert done.returncode == 0
        assert all(command in done.stdout for command in ("demo", "explain", "models", "bench"))
    assert fastest < 1


def test_arguments_are_parsed_before_anything_heavy_is_imported() -> None:
    parse = "import sys; from finercam_clip.cli import build_parser; build_parser().parse_args(['models']); "
    heavy = "print([m for m in ('torch', 'open_clip', 'cv2', 'numpy', 'PIL') if m in sys.modules])"
    assert process("-c", parse + heavy).stdout.strip() == "[]"


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"finercam-clip {finercam_clip.__version__}\n", "")


def test_a_mistake_leaves_the_process_with_code_2_and_one_line(tmp_path: Path) -> None:
    done = process("-m", "finercam_clip", "explain", "missing.jpg", *QUESTION, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "finercam-clip: error: missing.jpg: no such file\n"
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- help and quiet


def _commands() -> dict[str, Any]:
    """The subcommands' own parsers, by name."""
    (found,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def test_help_fits_one_screen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("--help")
    assert code == 0
    assert len(out.splitlines()) <= 30
    assert all(command in out for command in _commands())


@pytest.mark.parametrize("name", _commands())
def test_the_help_of_every_command_ends_in_examples_that_are_understood(name: str) -> None:
    text = _commands()[name].format_help()
    examples = [line.strip() for line in text[text.index("\nexample") :].splitlines()[2:]]
    assert examples
    for example in examples:
        program, *arguments = shlex.split(example.split(" | ")[0])
        assert program == "finercam-clip"
        assert build_parser().parse_args(arguments).command == name


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_for_a_terminal_and_not_for_the_quiet(quiet: bool, tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    keeper, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    (tmp_path / "birds").mkdir()
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "birds" / "grey.png")
    maps = ["generate", "birds", "--target", TARGET, "--contrast", CONTRAST, "--output", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "finercam_clip", *maps, *(["--quiet"] if quiet else [])],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(finercam_clip.__file__).parents[1])},
        check=False,
    )
    os.set_blocking(keeper, False)
    said = ""
    with suppress(OSError):  # no more to read
        while True:
            said += os.read(keeper, 1 << 16).decode(errors="replace")
    os.close(terminal)
    os.close(keeper)
    assert done.returncode == 0
    assert "1 of 1 images" in done.stdout
    assert ("loading" in said and "1/1" in said) if not quiet else said == ""
