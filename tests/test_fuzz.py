"""Thousands of odd inputs: every argument, every option, and every format of files that is read.

Whatever is given: no traceback, no input changed, and nothing written outside the output. Exit code 2 means that
nothing was written at all, and that one line says why.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference.damaged import READABLE, UNREADABLE, encoded, picture
from safetensors.torch import save

import finercam_clip
from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.images import read_image
from finercam_clip.methods import METHODS
from finercam_clip.runs import generate, read_manifest, read_maps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bundled_once")]

CASES = {
    "command lines": 800,
    "values": 400,
    "pictures": 500,
    "image files": 60,
    "tables": 250,
    "heads": 150,
    "records": 300,
    "runs": 60,
}
RED, BLUE = "a bird with a red crown", "a bird with a blue crown"
QUICK = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bundled: Explainer) -> Iterator[Path]:
    """A user's working folder: inputs of every format in in/, and nothing else."""
    root = tmp_path_factory.mktemp("fuzz")
    for i, name in enumerate(("a red crown/1.png", "a red crown/2.jpg", "a blue crown/3.webp")):
        (root / "in" / "birds" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / "birds" / name).write_bytes(encoded({"g": "JPEG", "p": "WEBP"}.get(name[-1], "PNG"), picture(i)))
    (root / "in" / "bird.png").write_bytes(encoded("PNG"))
    (root / "in" / "cut.jpg").write_bytes(UNREADABLE["cut.jpg"]())
    (root / "in" / "traits.yaml").write_text(f"crown: {{target: {RED}, contrasts: [{BLUE}]}}\n")
    (root / "in" / "words.txt").write_text(f"{RED}\n{BLUE}\n")
    (root / "in" / "templates.txt").write_text("a photo of {}\n")
    (root / "in" / "questions.csv").write_text(f"image,target,contrasts\nbird.png,{RED},{BLUE}\n")
    (root / "in" / "list.txt").write_text("birds/a red crown/1.png\n")
    torch.save({"weight": torch.ones(3, 4)}, root / "in" / "head.pth")
    generate(bundled, open_dataset(root / "in" / "birds"), root / "in" / "run")
    (root / "in" / "link.png").symlink_to("bird.png")
    before = Path.cwd()
    os.chdir(root)
    yield root
    os.chdir(before)


def state(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def _belongs(path: Path, output: Path) -> bool:
    """Whether a path is of an output: in it, above it, or the table beside its picture."""
    return path.is_relative_to(output) or output.is_relative_to(path) or path.with_suffix("") == output.with_suffix("")


def command(place: Path, words: list[str]) -> int:
    """Runs a command and checks all that is promised of it, whatever it was given."""
    before = state(place)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    after = state(place)
    new = sorted(set(after) - set(before), reverse=True)
    for path in new:  # the next case begins as this one did
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)
    assert code in (0, 1, 2), words
    assert {path: after.get(path) for path in before} == before, words  # no input is changed
    assert "Traceback" not in err.getvalue(), words
    assert all(len(line) <= 400 for line in err.getvalue().splitlines()), words
    if code == 2:
        assert not new, words
        assert out.getvalue() == "", words
        assert len(err.getvalue().splitlines()) == 1, (words, err.getvalue())
    allowed = [Path(words[i + 1]) for i, word in enumerate(words) if word == "--output"]
    for name in new:
        path = Path(name)
        assert (
            any(_belongs(path, output.resolve()) for output in allowed) or "-finercam." in name or "-traits." in name
        ), (words, name)
        if path.suffix == ".json":
            json.loads(after[name] or b"", parse_constant=pytest.fail)
    return code


# ------------------------------------------------------------------------------------------------------- command lines

ODD_TEXT = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", " ", "\0", "-", "--", "..", "/", "~", "%s{}", "=1+1", "x" * 5000, "\x1b[31m", "\udcff", "nan", "1e999"]
    ),
).filter(lambda text: not text.startswith("-"))
FILES = [
    "in/bird.png",
    "in/cut.jpg",
    "in/birds",
    "in/traits.yaml",
    "in/words.txt",
    "in/templates.txt",
    "in/questions.csv",
    "in/list.txt",
    "in/head.pth",
    "in/run",
    "in/link.png",
    "in",
    ".",
    "nowhere",
    "/dev/null",
    "/dev/zero",
    "/",
    "in/bird.png/x",
    "in/birds/a red crown/1.png",
    "x" * 300,
]
PATH = st.one_of(st.sampled_from(FILES), ODD_TEXT)
OUTPUT = st.one_of(
    st.sampled_from(["out/x.png", "out/x.csv", "out/run", "out", "out/a/b/c.webp", "in/x/../bird.png", *FILES]),
    ODD_TEXT,
).filter(lambda text: text.startswith(("out", "in/", ".", "/dev")) or "/" not in text)
TEXT = st.one_of(st.sampled_from([RED, BLUE, "a red crown", "a red crown."]), ODD_TEXT)
WORDS: dict[str, st.SearchStrategy[str]] = {
    "--target": TEXT,
    "--contrast": TEXT,
    "--gamma": st.one_of(st.sampled_from(["0.6", "0", "1e20", "nan", "inf", "1e6"]), ODD_TEXT),
    "--method": st.one_of(st.sampled_from(sorted(set(METHODS) - {"rise", "occlusion", "scorecam"})), ODD_TEXT),
    "--objective": st.one_of(st.sampled_from(["finer", "similarity", "probability"]), ODD_TEXT),
    "--pooling": st.one_of(st.sampled_from(["model", "mean", "token"]), ODD_TEXT),
    "--refine": st.one_of(st.just("affinity"), ODD_TEXT),
    "--layer": st.one_of(st.sampled_from(["-1", "0", "99", "-99", "\u00b2", "9" * 30, "visual"]), ODD_TEXT),
    "--image-size": st.one_of(
        st.sampled_from(["32", "33", "0", "-8", "64x32", "32x32x32", "x", "99999999999", "native"]), ODD_TEXT
    ),
    "--vocabulary": st.one_of(st.just("aviary"), PATH),
    "--templates": st.one_of(st.just("templates-general"), PATH),
    "--background": st.one_of(st.just("aviary"), PATH),
    "--similar-by": st.one_of(st.sampled_from(["logits", "concepts"]), ODD_TEXT),
    "--device": st.one_of(st.sampled_from(["cpu", "meta", "cuda:9", "xla"]), ODD_TEXT),
    "--precision": ODD_TEXT,
    "--model": ODD_TEXT,
    "--pretrained": PATH,
    "--head": PATH,
    "--classes": PATH,
}
OF_COMMAND: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "explain": {
        "--concepts": st.one_of(st.sampled_from(["birds-traits", "in/traits.yaml"]), PATH),
        "--nearest": st.one_of(st.sampled_from(["1", "0", "-1", "99999"]), ODD_TEXT),
        "--preset": st.one_of(st.sampled_from(["finer-default", "baseline"]), ODD_TEXT),
    },
    "generate": {"--split": ODD_TEXT, "--batch": st.one_of(st.sampled_from(["0", "1", "-5", "9" * 30]), ODD_TEXT)},
    "visualize": {"--dataset": PATH, "--limit": st.one_of(st.sampled_from(["0", "1", "-5", "9" * 30]), ODD_TEXT)},
    "evaluate": {
        "--figures": st.one_of(st.sampled_from(["drop", "place", "causes", "overlap"]), ODD_TEXT),
        "--about": st.one_of(st.sampled_from(["class", "prediction"]), ODD_TEXT),
        "--limit": st.one_of(st.sampled_from(["0", "1", "-5", "9" * 30]), ODD_TEXT),
        "--radius": st.one_of(st.sampled_from(["0.1", "0", "2", "nan"]), ODD_TEXT),
        "--seed": ODD_TEXT,
        "--split": ODD_TEXT,
        "--truth": PATH,
        "--labels": PATH,
    },
    "fit": {
        "--C": st.one_of(st.sampled_from(["1", "0", "nan"]), ODD_TEXT),
        "--held-out": st.one_of(st.sampled_from(["0.3", "0", "1", "nan"]), ODD_TEXT),
        "--features": OUTPUT,
        "--batch": st.one_of(st.sampled_from(["0", "1", "9" * 30]), ODD_TEXT),
        "--split": ODD_TEXT,
        "--test": ODD_TEXT,
        "--seed": ODD_TEXT,
        "--image-size": ODD_TEXT,
    },
}
_NOT_OF_DATASETS = ("--target", "--contrast", "--vocabulary", "--background", "--refine")  # no options of `evaluate`


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name = draw(
        st.sampled_from(
            ["explain", "explain", "generate", "generate", "visualize", "dataset", "demo", "aviary", "evaluate", "fit"]
        )
    )
    if name == "dataset":
        return ["dataset", "check", draw(PATH)]
    if name == "demo":
        return ["demo", "--output", draw(ODD_TEXT.filter(lambda text: not text.endswith(".png")))]
    if name == "aviary":
        option = draw(st.sampled_from(["--questions", "--seed", "--kind", "--method", "--objective"]))
        return ["evaluate", draw(st.sampled_from(["aviary", "sanity"])), "--questions", "1", option, draw(ODD_TEXT)]
    words = [name, draw(PATH)]
    if name == "fit":
        words += draw(st.sampled_from([["--classifier", "nomodel"], ["--model", "nomodel"], []]))
    options = OF_COMMAND[name] | (WORDS if name not in ("visualize", "fit") else {})
    if name == "evaluate":
        options = {option: values for option, values in options.items() if option not in _NOT_OF_DATASETS}
    for option in draw(st.lists(st.sampled_from(sorted(options)), max_size=4)):
        words += [option, draw(options[option])]
    if name == "explain" and "--concepts" not in words and draw(st.booleans()):
        words += ["--target", RED]
    if name != "explain" or draw(st.booleans()):
        words += ["--output", draw(OUTPUT)]
    return words


@settings(max_examples=CASES["command lines"], **QUICK)
@given(words=command_lines(), there=st.booleans())
def test_no_command_line_ends_in_a_traceback_or_loses_anything(place: Path, words: list[str], there: bool) -> None:
    if there:
        (place / "out").mkdir(exist_ok=True)
    elif (place / "out").is_dir():
        shutil.rmtree(place / "out")
    command(place, words)


# -------------------------------------------------------------------------------------------------------------- values

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=8),
        st.complex_numbers(),
        st.sampled_from(
            [np.int64(2), np.float32("nan"), np.zeros(3), np.zeros((2, 2, 3), np.uint8), torch.zeros(2), object()]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)),
    max_leaves=4,
)
CALLS: list[Callable[[Explainer, Any], object]] = [
    lambda e, value: e.explain(value, RED),
    lambda e, value: e.explain(picture(), value),
    lambda e, value: e.explain(picture(), RED, value),
    lambda e, value: e.explain(picture(), RED, 1, vocabulary=value),
    lambda e, value: e.explain_batch([picture()], value),
    lambda e, value: e.explain_batch(value, [(RED, [BLUE])]),
    lambda e, value: e.embed(value),
    lambda e, value: e.embed([RED], value),
    lambda e, value: e.encode(value),
    lambda e, value: e.encode(picture()).heatmaps(value),
    lambda e, value: e.encode(picture()).heatmaps([RED], value),
    lambda e, value: e.explain(picture(), RED).boxes(value),
    lambda e, value: finercam_clip.load(value, device="cpu"),
    *(
        lambda e, value, name=name: e.explain(picture(), RED, [BLUE], **{name: value})  # type: ignore[misc]
        for name in finercam_clip.Options.__dataclass_fields__
    ),
]


@settings(max_examples=CASES["values"], **QUICK)
@given(call=st.sampled_from(CALLS), value=VALUES)
def test_no_value_ends_in_anything_but_an_answer_or_one_line(
    tiny: Explainer, call: Callable[[Explainer, Any], object], value: object
) -> None:
    with contextlib.suppress(InputError):
        call(tiny, value)


# ------------------------------------------------------------------------------------------------------------- formats


@st.composite
def harmed(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that were cut short, changed in places, or have something between them."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["change", "cut", "insert", "remove", "repeat"]))
        if how == "change" and data:
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=20))
        elif how == "remove":
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = data[at : at + 40]
    return bytes(data)


WHOLE = {
    name: data()
    for name, data in {
        **{
            f"x.{kind.lower()}": (lambda kind=kind: encoded(kind))
            for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
        },  # type: ignore[misc]
        **{name: data for name, data in READABLE.items() if "exif" in name},
    }.items()
}


@settings(max_examples=CASES["pictures"], **QUICK)
@given(data=st.data(), name=st.sampled_from(sorted(WHOLE)))
def test_no_image_file_gives_anything_but_a_picture_or_one_line(place: Path, data: st.DataObject, name: str) -> None:
    path = place / f"odd-{name}"
    path.write_bytes(data.draw(harmed(WHOLE[name])))
    try:
        image = read_image(path)
        assert image.mode == "RGB"
        assert 0 not in image.size
    except InputError as error:
        assert name in str(error)  # noqa: PT017 - either is right
    finally:
        path.unlink()


@settings(max_examples=CASES["image files"], **QUICK)
@given(data=st.data(), name=st.sampled_from(sorted(WHOLE)))
def test_no_image_file_ends_a_run_and_all_agree_whether_it_can_be_read(
    place: Path, data: st.DataObject, name: str
) -> None:
    folder = place / "odd"
    folder.mkdir()
    try:
        (folder / "whole.png").write_bytes(encoded("PNG"))
        (folder / name).write_bytes(data.draw(harmed(WHOLE[name])))
        codes = {command(place, ["dataset", "check", "odd"])}
        codes.add(command(place, ["generate", "odd", "--target", RED, "--output", "out/run"]))
        codes.add(command(place, ["explain", "odd", "--concepts", "in/words.txt", "--output", "odd-traits.png"]))
        assert len(codes) == 1
    finally:
        shutil.rmtree(folder)


TABLES: dict[str, bytes] = {
    "t.csv": f'image,target,contrasts\nin/bird.png,{RED},{BLUE}|a green crown\n"in/bird.png","{RED}",\n'.encode(),
    "t.yaml": f"crown:\n  target: &a {RED}\n  contrasts: [{BLUE}, [a green crown]]\ntail: [*a, x]\n".encode(),
    "t.txt": f"# words\n{RED}\n{BLUE}\nin/bird.png\n".encode(),
    "templates.txt": b"a photo of {}\n{}.\n",
    "images.txt": b"1 a/1.png\n2 b/2.png\n",
    "classes.txt": b"1 001.a\n2 002.b\n",
    "image_class_labels.txt": b"1 1\n2 2\n",
    "train_test_split.txt": b"1 1\n2 0\n",
    "parts/parts.txt": b"1 beak\n2 tail\n",
    "parts/part_locs.txt": b"1 1 3.0 4.0 1\n2 2 5.0 6.0 0\n",
    "attributes/attributes.txt": b"1 has_colour::red\n",
    "attributes/image_attribute_labels.txt": b"1 1 1 3 2.5\n",
}


@settings(max_examples=CASES["tables"], **QUICK)
@given(data=st.data(), name=st.sampled_from(sorted(TABLES)))
def test_no_text_file_ends_in_a_traceback(place: Path, data: st.DataObject, name: str) -> None:
    folder = place / "cub"
    for other, content in TABLES.items():
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).write_bytes(content)
    try:
        (folder / name).write_bytes(data.draw(harmed(TABLES[name])))
        own = f"cub/{name}"
        if name == "t.yaml":
            command(place, ["explain", "in/bird.png", "--concepts", own, "--output", "x-traits.png"])
        elif name == "templates.txt":
            command(place, ["explain", "in/bird.png", "--target", RED, "--templates", own, "--json"])
        elif name in ("t.csv", "t.txt"):
            command(place, ["dataset", "check", own])
            command(place, ["generate", own, "--output", "out/run"])
            command(place, ["explain", "in/bird.png", "--target", RED, "--nearest", "1", "--vocabulary", own, "--json"])
        else:
            command(place, ["dataset", "check", "cub"])
    finally:
        shutil.rmtree(folder)


def _heads() -> dict[str, bytes]:
    tensors, torch_file, numpy_file = {"weight": torch.ones(3, 4), "bias": torch.zeros(3)}, io.BytesIO(), io.BytesIO()
    torch.save(tensors, torch_file)
    np.savez(numpy_file, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    return {"h.pth": torch_file.getvalue(), "h.npz": numpy_file.getvalue(), "h.safetensors": save(tensors)}


HEADS = _heads()


@settings(max_examples=CASES["heads"], **QUICK)
@given(data=st.data(), name=st.sampled_from(sorted(HEADS)))
def test_no_head_ends_in_a_traceback(place: Path, data: st.DataObject, name: str) -> None:
    (place / name).write_bytes(data.draw(harmed(HEADS[name])))
    words = ["explain", "in/bird.png", "--target", "1", "--classifier", "nomodel", "--head", name, "--json"]
    try:
        assert command(place, words) == 2
    finally:
        (place / name).unlink()


RUN_FILES = ["run.json", "maps/part-000000.parquet"]


@settings(max_examples=CASES["records"], **QUICK)
@given(data=st.data(), name=st.sampled_from(RUN_FILES))
def test_no_record_and_no_map_gives_anything_but_itself_or_one_line(
    place: Path, data: st.DataObject, name: str
) -> None:
    run = place / "damaged"
    for file in RUN_FILES:
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_bytes((place / "in" / "run" / file).read_bytes())
    try:
        (run / name).write_bytes(data.draw(harmed((run / name).read_bytes())))
        for record in read_manifest(run):
            assert all(np.isfinite(grid).all() for grid in read_maps(run, record).values())
    except InputError as error:
        assert "damaged" in str(error)  # noqa: PT017 - either is right
    finally:
        shutil.rmtree(run)


@settings(max_examples=CASES["runs"], **QUICK)
@given(data=st.data(), name=st.sampled_from(RUN_FILES))
def test_no_damaged_run_ends_in_a_traceback(place: Path, data: st.DataObject, name: str) -> None:
    shutil.copytree(place / "in" / "run", place / "run")
    try:
        (place / "run" / name).write_bytes(data.draw(harmed((place / "run" / name).read_bytes())))
        code = command(place, ["visualize", "run", "--output", "out/pictures"])
        assert code in (0, 1, 2)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert main(["generate", "in/birds", "--output", "run"]) in (0, 2)  # 2: it is of other settings now
        assert "Traceback" not in err.getvalue()
    finally:
        shutil.rmtree(place / "run")


def test_there_are_cases_enough() -> None:
    assert sum(CASES.values()) >= 2000
