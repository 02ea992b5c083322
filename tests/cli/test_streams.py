"""What is printed: one line per error that every terminal can take, and an exit code where nobody can read it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .command import QUESTION, Refused, Run, contents

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of shell in which $F is the command."""
    path = os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))
    own = {"F": f"{sys.executable} -m finercam_clip", "PYTHONPATH": path}
    return subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=os.environ | own | environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


def _slow(words: str) -> Any:
    """Each starts a process, which imports torch: one of a kind is in the ordinary run."""
    return pytest.param(words, marks=pytest.mark.slow)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", ["methods", *map(_slow, ["models", "methods --help", "dataset check ."])])
def test_a_full_stdout_is_one_line_and_exit_code_1(words: str, folder: Path) -> None:
    done = shell(f"$F {words} > /dev/full", folder)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("finercam-clip: error: ")
    assert "No space left on device" in line


@pytest.mark.parametrize("words", ["models", *map(_slow, ["methods", "models --json"])])
def test_a_reader_that_has_enough_ends_the_command_in_silence(words: str, folder: Path) -> None:
    done = shell(f"{{ $F {words}; echo code $? >&2; }} | head -c 10 > /dev/null", folder)
    assert done.stderr.decode().split() in (["code", "0"], ["code", "1"])


@pytest.mark.parametrize("where", [">&-", "2>&-", ">&- 2>&-", "2> /dev/full", "<&-"])
@pytest.mark.parametrize(
    "words", ["dataset check nowhere", *map(_slow, ["explain nowhere.png --target x", "explain", "nothing"])]
)
def test_a_mistake_is_exit_code_2_whoever_reads_it(words: str, where: str, folder: Path) -> None:
    done = shell(f"$F {words} {where}", folder)
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


LONG = {
    "command": ["y" * 200_000],
    "image": ["explain", "y" * 100_000, *QUESTION],
    "method": ["explain", "bird.jpg", *QUESTION, "--method", "y" * 100_000],
    "layer": ["explain", "bird.jpg", *QUESTION, "--layer", "y" * 100_000],
    "model": ["explain", "bird.jpg", *QUESTION, "--model", "y" * 100_000],
    "target": ["explain", "bird.jpg", "--target", "y " * 50_000],
    "device": ["explain", "bird.jpg", *QUESTION, "--device", "y" * 100_000],
    "size": ["explain", "bird.jpg", *QUESTION, "--image-size", "9" * 100_000],
    "seed": ["evaluate", "aviary", "--seed", "9" * 4000],
    "lines": ["explain", "a\nb\r\x1b[31mc\u2028d", *QUESTION],
    "bytes": ["explain", os.fsdecode(b"\xff\xfe"), *QUESTION],
}


@pytest.mark.parametrize("words", LONG.values(), ids=LONG)
@pytest.mark.usefixtures("bundled_once")
def test_an_error_is_one_line_that_a_terminal_can_take(words: list[str], run: Run, folder: Path) -> None:
    before = contents(folder)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    line = err[:-1]
    assert len(line) <= 400
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", line)
    assert contents(folder) == before


EMPTY = [
    ["explain", "bird.jpg", *QUESTION, "--output", ""],
    ["explain", "", *QUESTION],
    ["explain", "bird.jpg", *QUESTION, "--classifier", ""],
    ["explain", "bird.jpg", *QUESTION, "--head", ""],
    ["explain", "bird.jpg", *QUESTION, "--model", ""],
    ["explain", "bird.jpg", *QUESTION, "--pretrained", ""],
    ["explain", "bird.jpg", *QUESTION, "--classes", ""],
    ["explain", "bird.jpg", *QUESTION, "--templates", ""],
    ["explain", "bird.jpg", *QUESTION, "--background", ""],
    ["explain", "bird.jpg", *QUESTION, "--null", ""],
    ["explain", ".", "--concepts", ""],
    ["generate", ".", "--output", ""],
    ["generate", "", "--output", "run"],
    ["visualize", ""],
    ["dataset", "check", ""],
    ["demo", "--output", ""],
]


@pytest.mark.parametrize("words", EMPTY, ids=" ".join)
@pytest.mark.usefixtures("bundled_once")
def test_an_empty_value_is_never_taken_for_none(words: list[str], refused: Refused) -> None:
    refused(list(words))


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["explain", "bird.jpg", *QUESTION, "--image-size", "32x32x32"], "3 sides"),
        (["evaluate", "sanity", "--kind", "attribute"], "leave them out"),
        (["evaluate", "sanity", "--objective", "finer"], "leave them out"),
        (["evaluate", "sanity", "--method", "gradcam"], "leave them out"),
    ],
)
@pytest.mark.usefixtures("bundled_once")
def test_what_is_given_is_never_ignored(words: list[str], fragment: str, refused: Refused) -> None:
    refused(list(words), fragment)


@pytest.mark.parametrize("name", ["n" * 250 + ".jpg", os.fsdecode(b"caf\xe9.jpg"), "\u8d64\u3044\u9ce5" * 27 + ".jpg"])
@pytest.mark.usefixtures("bundled_once")
def test_an_image_of_any_name_is_explained(name: str, run: Run, folder: Path) -> None:
    (folder / name).write_bytes((folder / "bird.jpg").read_bytes())
    code, _, err = run("explain", name, *QUESTION)
    assert (code, err) == (0, "")
    assert len(list(folder.glob("*-finercam.png"))) == 1


@pytest.mark.slow
def test_names_of_any_bytes_in_a_locale_without_them(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes((folder / "bird.jpg").read_bytes())
    (folder / "\u8d64.jpg").write_bytes((folder / "bird.jpg").read_bytes())
    for locale in ("C", "POSIX"):
        done = shell(
            "$F dataset check . && echo complete", folder, LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
        )
        assert done.returncode == 1  # some of the user's files are no pictures
        assert b"Traceback" not in done.stderr
        assert b"\nimages" in done.stdout


@pytest.mark.slow
def test_the_bench_prints_its_table_and_nothing_of_torchs_own(folder: Path) -> None:
    done = shell("$F bench --runs 1 --methods hirescam", folder)
    assert done.returncode == 0
    assert done.stderr == b""
    assert all(line.startswith("|") for line in done.stdout.decode().splitlines())
