"""The command as a process of its own: how fast it answers, what it imports, its help, and its progress."""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

import finercam_clip
from finercam_clip.cli import build_parser

from .command import CONTRAST, QUESTION, TARGET, Run, process

COMMANDS = re.findall(r"^    (\w+)", build_parser().format_help(), flags=re.MULTILINE)


@pytest.mark.timing
def test_help_answers_in_under_a_second() -> None:
    fastest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        process("-m", "finercam_clip", "--help")
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 1


def test_help_names_every_command() -> None:
    done = process("-m", "finercam_clip", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in ("demo", "explain", "models", "bench"))


def test_arguments_are_parsed_before_anything_heavy_is_imported() -> None:
    parse = "import sys; from finercam_clip.cli import build_parser; build_parser().parse_args(['models']); "
    heavy = "print([m for m in ('torch', 'open_clip', 'cv2', 'numpy', 'PIL') if m in sys.modules])"
    assert process("-c", parse + heavy).stdout.strip() == "[]"


def test_a_mistake_leaves_the_process_with_code_2_and_one_line(tmp_path: Path) -> None:
    done = process("-m", "finercam_clip", "explain", "missing.jpg", *QUESTION, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "finercam-clip: error: missing.jpg: no such file\n"
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------- help


def test_help_fits_one_screen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("--help")
    assert code == 0
    assert len(out.splitlines()) <= 30
    assert {"demo", "explain", "generate", "visualize", "models", "ui"} <= set(COMMANDS)
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_ends_in_examples_that_are_understood(run: Run, name: str) -> None:
    code, text, _ = run(name, "--help")
    assert code == 0
    examples = [line.strip() for line in text[text.index("\nexample") :].splitlines()[2:]]
    assert examples
    for example in examples:
        program, *arguments = shlex.split(example.split(" | ")[0])
        assert program == "finercam-clip"
        assert build_parser().parse_args(arguments).command == name


# ------------------------------------------------------------------------------------------------------------ progress


def _on_a_terminal(arguments: list[str], cwd: Path) -> tuple[subprocess.CompletedProcess[str], str]:
    """Runs a command whose stderr is a terminal. Returns the process and what the terminal got."""
    import fcntl
    import pty
    import termios

    keeper, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    done = subprocess.run(
        [sys.executable, "-m", "finercam_clip", *arguments],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(finercam_clip.__file__).parents[1])},
        check=False,
    )
    os.set_blocking(keeper, False)
    shown = ""
    with suppress(OSError):  # no more to read
        while True:
            shown += os.read(keeper, 1 << 16).decode(errors="replace")
    os.close(terminal)
    os.close(keeper)
    return done, shown


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_for_a_terminal_and_not_for_the_quiet(quiet: bool, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "birds" / "grey.png")
    maps = ["generate", "birds", "--target", TARGET, "--contrast", CONTRAST, "--output", "run"]
    done, shown = _on_a_terminal([*maps, *(["--quiet"] if quiet else [])], tmp_path)
    assert done.returncode == 0
    assert "1 of 1 images" in done.stdout
    if quiet:
        assert shown == ""
    else:
        assert "loading the bundled model" in shown
        assert "1/1" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_an_error_line_stands_alone_where_progress_was(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    done, shown = _on_a_terminal(["explain", "grey.png", "--target", "a helicopter"], tmp_path)
    assert done.returncode == 2
    progress, _, line = shown.rpartition("\r\033[K")
    assert "loading the bundled model" in progress
    assert line.startswith("finercam-clip: error: ")
    assert len(line.splitlines()) == 1
