"""One line on stderr and exit code 2 for every mistake a user can make, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import open_clip
import pytest
import timm
import torch

from finercam_clip.models import catalogue, openclip

from .command import CONTRAST, QUESTION, TARGET, Refused, Run

WRONG_PICTURES = {
    "missing file": ("missing.jpg", "no such file"),
    "folder": ("pictures", "is a folder"),
    "truncated JPEG": ("cut.jpg", "cut short"),
    "text named .jpg": ("text.jpg", "not an image"),
    "0 bytes": ("empty.jpg", "0 bytes"),
    "floating point": ("float.tif", "floating-point"),
    "endless name": ("b" * 300 + ".jpg", "cannot be read"),
}


@pytest.mark.parametrize(("name", "fragment"), WRONG_PICTURES.values(), ids=WRONG_PICTURES)
@pytest.mark.parametrize("extra", [["--json"], ["--output", "crown.png"]], ids=["json", "output"])
def test_a_file_that_is_no_picture_is_refused(refused: Refused, name: str, fragment: str, extra: list[str]) -> None:
    refused(["explain", name, *QUESTION, *extra], name, fragment)


# -------------------------------------------------------------------------------------------------------------- models

WRONG_MODELS: dict[str, tuple[list[str], list[str]]] = {
    "unknown architecture": (["--model", "ViT-B16"], ["'ViT-B16'", "did you mean", "ViT-B-16"]),
    "nothing like an architecture": (["--model", "!"], ["'!'", "finercam-clip models"]),
    "architecture without weights": (
        ["--model", "ViT-B-16"],
        ["ViT-B-16 needs weights", "openai", "laion2b_s34b_b88k"],
    ),
    "architecture without any tag": (
        ["--model", "ViT-S-32-alt"],
        ["ViT-S-32-alt needs weights", "none are published"],
    ),
    "unknown tag": (["--model", "ViT-B-32", "--pretrained", "opnai"], ["'opnai'", "openai", "laion2b_s34b_b79k"]),
    "missing checkpoint": (["--model", "ViT-B-32", "--pretrained", "mine.pt"], ["mine.pt", "no such checkpoint"]),
    "missing checkpoint folder": (["--model", "ViT-B-32", "--pretrained", "a/b"], ["a/b", "no such checkpoint"]),
    "endless checkpoint name": (["--model", "ViT-B-32", "--pretrained", "c" * 300], ["c" * 40]),
    "weights for the bundled model": (["--pretrained", "openai"], ["a bundled model has its own weights"]),
    "weights for a model of the hub": (["--model", "hf-hub:a/b", "--pretrained", "openai"], ["hf-hub:a/b"]),
    "missing model folder": (["--model", "local-dir:nowhere"], ["local-dir:nowhere"]),
    "unknown precision": (["--precision", "fp8"], ["'fp8'", "fp32, fp16, bf16"]),
    "unknown device": (["--device", "gpu"], ["'gpu'", "leave it out"]),
}


@pytest.mark.parametrize(("model", "fragments"), WRONG_MODELS.values(), ids=WRONG_MODELS)
def test_a_model_that_cannot_be_loaded_is_refused(refused: Refused, model: list[str], fragments: list[str]) -> None:
    refused(["explain", "bird.jpg", *QUESTION, *model], *fragments)


@pytest.mark.parametrize("which", ["a folder of the user", "the bundled model"])
def test_a_model_without_its_weights_never_explains_with_random_ones(
    refused: Refused, folder: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    config = catalogue.BUNDLED_MODELS[catalogue.BUNDLED] / "open_clip_config.json"
    (folder / "model").mkdir()
    (folder / "model" / config.name).write_bytes(config.read_bytes())
    monkeypatch.setitem(openclip.BUNDLED_MODELS, catalogue.BUNDLED, folder / "model")
    model = [] if which == "the bundled model" else ["--model", f"local-dir:{folder / 'model'}"]
    refused(["explain", "bird.jpg", *QUESTION, *model], "weights")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(refused: Refused) -> None:
    refused(["explain", "bird.jpg", *QUESTION, "--device", "cuda"], "'cuda'", "cannot be used here")


# ----------------------------------------------------------------------------------------------------------- questions

WRONG_QUESTIONS: dict[str, tuple[list[str], list[str]]] = {
    "empty target": (["--target", " "], ["the target is an empty text"]),
    "empty contrast": (["--target", TARGET, "--contrast", ""], ["the contrast is an empty text"]),
    "contrast equal to the target": (["--target", TARGET, "--contrast", TARGET.upper()], ["is the target itself"]),
    "contrast given twice": ([*QUESTION, "--contrast", CONTRAST], [CONTRAST, "is given twice"]),
    "too long": (["--target", "red " * 40], ["red red", "42 tokens", "reads 32"]),
    "unknown word": (["--target", "a helicopter"], ["does not know 'helicopter'", "--model"]),
    "unknown layer": ([*QUESTION, "--layer", "stem"], ["no layer stem", "transformer.resblocks.0.ln_1"]),
    "a layer without gradient": ([*QUESTION, "--layer", "ln_post"], ["no gradient reaches", "resblocks.4.ln_1"]),
    "broken cells": ([*QUESTION, "--image-size", "100"], ["image_size 100", "multiples of 8"]),
    "too large": ([*QUESTION, "--image-size", "4096"], ["choose a smaller"]),
    "nearest without vocabulary": (["--target", TARGET, "--nearest", "2"], ["vocabulary"]),
    "none nearest": (["--target", TARGET, "--nearest", "0", "--vocabulary", "aviary"], ["contrasts=0"]),
    "too many nearest": (["--target", TARGET, "--nearest", "9999", "--vocabulary", "aviary"], ["contrasts=9999"]),
    "unknown vocabulary": (["--target", TARGET, "--nearest", "2", "--vocabulary", "fish"], ["'fish'", "aviary"]),
    "unknown null": ([*QUESTION, "--null", "fish"], ["'fish'", "everyday"]),
    "a null of unknown words": ([*QUESTION, "--null", "everyday"], ["'everyday'", "needs 19"]),
    "a CLIP's classes as null": ([*QUESTION, "--null", "classes"], ["for classifiers", "'traits'"]),
    "unknown templates": ([*QUESTION, "--templates", "fish"], ["'fish'", "templates-general"]),
    "a vocabulary as templates": ([*QUESTION, "--templates", "aviary"], ["where the concept goes"]),
}


@pytest.mark.parametrize(("question", "fragments"), WRONG_QUESTIONS.values(), ids=WRONG_QUESTIONS)
@pytest.mark.usefixtures("bundled_once")
def test_a_question_that_cannot_be_asked_is_refused(
    refused: Refused, question: list[str], fragments: list[str]
) -> None:
    refused(["explain", "bird.jpg", *question], *fragments)


WRONG_OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "negative gamma": (["--gamma", "-0.5"], ["gamma", "-0.5"]),
    "gamma that is no number": (["--gamma", "nan"], ["gamma", "nan"]),
    "unknown method": (["--method", "lime"], ["'lime'", "gradcam", "hirescam"]),
    "unknown refinement": (["--refine", "crf"], ["'crf'", "affinity"]),
    "a layer of a method without": (["--layer", "-2", "--method", "rollout"], ["has no target layer"]),
    "unknown objective": (["--objective", "coarse"], ["'coarse'", "finer"]),
    "unknown pooling": (["--pooling", "max"], ["'max'", "model, mean"]),
    "unknown similarity": (["--similar-by", "sound"], ["'sound'", "logits or concepts"]),
}
EXPLAIN = ["explain", "bird.jpg", *QUESTION]
ASKING: dict[str, list[str]] = {
    "explain": EXPLAIN,
    "explain --concepts": ["explain", ".", "--concepts", "birds-traits"],
    "generate": ["generate", ".", "--target", TARGET, "--output", "run"],
}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that a command begins to load. None of them is loaded."""
    names: list[str] = []

    def refuse(name: str, *_: object, **__: object) -> None:
        names.append(name)
        raise RuntimeError("nothing is loaded in this test")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    monkeypatch.setattr(timm, "create_model", refuse)
    return names


@pytest.mark.parametrize(("option", "fragments"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
@pytest.mark.parametrize("command", ASKING.values(), ids=ASKING)
def test_a_wrong_option_is_refused_before_anything_is_loaded(
    refused: Refused, loads: list[str], command: list[str], option: list[str], fragments: list[str]
) -> None:
    refused([*command, *option], *fragments)
    assert loads == []


WRONG_TOGETHER: dict[str, tuple[list[str], list[str]]] = {
    "nearest and contrasts": ([*EXPLAIN, "--nearest", "2", "--vocabulary", "aviary"], ["not both"]),
    "preset and contrasts": ([*EXPLAIN, "--preset", "finer-default"], ["not both"]),
    "unknown preset": (
        ["explain", "bird.jpg", "--target", TARGET, "--preset", "finest"],
        ["'finest'", "finer-default"],
    ),
    "traits and a target": (["explain", ".", "--concepts", "birds-traits", "--target", TARGET], ["leave the others"]),
    "the image as output": ([*EXPLAIN, "--output", "bird.jpg"], ["never overwritten"]),
    "CLIP and classifier": ([*EXPLAIN, "--model", "ViT-B-32", "--classifier", "photos"], ["not both"]),
    "classes of a CLIP": ([*EXPLAIN, "--classes", "names.txt"], ["--vocabulary"]),
    "labels of one image": ([*EXPLAIN, "--labels", "map.csv"], ["--labels go with --concepts"]),
    "labels and a target": ([*ASKING["generate"], "--labels", "map.csv", "--target", TARGET], ["or --target"]),
    "labels without a model": (["dataset", "check", "pictures", "--labels", "map.csv"], ["--classifier photos"]),
    "no data set": (["generate", "--output", "run"], ["which data set?"]),
    "no images in a batch": ([*ASKING["generate"], "--batch", "0"], ["--batch", "not 0"]),
    "contrast without target": (["generate", ".", "--contrast", CONTRAST, "--output", "run"], ["goes with --target"]),
    "no rounds": (["bench", "--runs", "0"], ["--runs", "not 0"]),
    "methods in batches": (["bench", "--methods", "all", "--batch", "2"], ["--batch", "not 2"]),
}


@pytest.mark.parametrize(("arguments", "fragments"), WRONG_TOGETHER.values(), ids=WRONG_TOGETHER)
def test_arguments_that_do_not_go_together_are_refused_before_anything_is_loaded(
    refused: Refused, loads: list[str], arguments: list[str], fragments: list[str]
) -> None:
    refused(list(arguments), *fragments)
    assert loads == []


@pytest.mark.parametrize(
    "model",
    [[], ["--model", "ViT-B-32", "--pretrained", "random"], ["--classifier", "resnet18"]],
    ids=["bundled", "CLIP", "classifier"],
)
@pytest.mark.parametrize("command", ASKING.values(), ids=ASKING)
@pytest.mark.filterwarnings("ignore:.*RANDOM weights")
def test_these_commands_do_load_a_model_if_nothing_is_wrong(
    run: Run, folder: Path, loads: list[str], command: list[str], model: list[str]
) -> None:
    """Otherwise the tests above would prove nothing."""
    code, *_ = run(*command, *model)
    assert code == 2
    assert len(loads) == 1


def test_visualize_without_a_run_or_with_a_limit_of_0_is_refused(refused: Refused) -> None:
    refused(["visualize"], "which run?")
    refused(["visualize", "pictures", "--limit", "0"], "--limit", "not 0")
    refused(["visualize", "pictures"], "holds no run")


# ------------------------------------------------------------------------------------------------------------- outputs

WRONG_OUTPUTS = {
    "wrong ending": ("crown.gif", ".png"),
    "no ending": ("crown", ".png"),
    "missing folder": ("missing/crown.png", "there is no folder missing"),
    "file for a folder": ("bird.jpg/crown.png", "bird.jpg/crown.png"),
    "folder": ("pictures.png", "is a folder"),
}


@pytest.mark.parametrize(("output", "fragment"), WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS)
@pytest.mark.parametrize("command", [["demo"], EXPLAIN], ids=["demo", "explain"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(
    refused: Refused, folder: Path, loads: list[str], command: list[str], output: str, fragment: str
) -> None:
    (folder / "pictures.png").mkdir()
    refused([*command, "--output", output], output, fragment)
    assert loads == []


@pytest.mark.usefixtures("bundled_once")
def test_a_disk_that_fills_up_leaves_no_half_picture(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    refused([*EXPLAIN, "--output", "crown.png"], "crown.png", "No space left")


# ----------------------------------------------------------------------------------------------------------- arguments

WRONG_ARGUMENTS: dict[str, list[str]] = {
    "no command": [],
    "unknown command": ["exlain"],
    "no image": ["explain", *QUESTION],
    "no target": ["explain", "bird.jpg"],
    "two images": ["explain", "bird.jpg", "bird.jpg", *QUESTION],
    "unknown option": [*EXPLAIN, "--alpha", "0.6"],
    "gamma in words": [*EXPLAIN, "--gamma", "strong"],
    "option without its value": ["explain", "bird.jpg", "--target"],
    "half a bird": ["explain", "bird.jpg", "--target", TARGET, "--nearest", "1.5"],
    "argument to models": ["models", "ViT-B-16"],
}


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_and_point_to_the_help(refused: Refused, arguments: list[str]) -> None:
    refused(list(arguments), "--help")
