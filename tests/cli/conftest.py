"""A user's working folder and command line."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finercam_clip.aviary import drawing, world
from finercam_clip.cli import main

from .command import Refused, Run, contents


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in this process, with every warning shown as at a user's prompt: exit code, stdout, stderr."""

    def run_command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield run_command


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


@pytest.fixture
def drawn_bird(folder: Path) -> Path:
    """A bird of the bundled model's own world, wider than high."""
    scene = drawing.draw(world.sample_bird(np.random.default_rng(5)), 5, size=160)
    wide = np.pad(scene.image, ((0, 0), (40, 40), (0, 0)), mode="edge")
    Image.fromarray(wide).save(folder / "drawn.png")
    return folder / "drawn.png"


@pytest.fixture
def refused(run: Run, folder: Path) -> Refused:
    """Asserts exit code 2, one line on stderr with the fragments in it, silence on stdout, and an untouched folder."""

    def check(arguments: list[str | Path], *fragments: str) -> None:
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

    return check
