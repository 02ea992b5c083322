"""Wheel and source archive: they hold what a user needs, and work from any folder once installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import finercam_clip

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LIMIT = 12_000_000  # bytes
LEFT_OUT = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "aviary-weights", "birds-weights", "tests"
)


def succeed(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of a copy of the sources: building in place would leave, and use, a build folder."""
    source = tmp_path_factory.mktemp("source") / "finercam-clip"
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    _build("--sdist", source)
    (built,) = (source / "dist").glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built of the source archive: what the archive lacks, the wheel lacks."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as held:
        held.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    _build("--wheel", source)
    (built,) = (source / "dist").glob("*.whl")
    return built


def _build(what: str, source: Path) -> None:
    isolation = ["--no-isolation"] if find_spec("setuptools") else []
    succeed(sys.executable, "-m", "build", what, *isolation, cwd=source)


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    succeed(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel, cwd=target)
    return target


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < LIMIT


def test_the_source_archive_holds_weights_prompts_and_licence(archive: Path) -> None:
    with tarfile.open(archive) as held:
        names = {name.split("/", 1)[1] for name in held.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "setup.cfg"} <= names
    for model in ("aviary", "birds"):
        assert f"finercam_clip/{model}/weights/open_clip_model.safetensors" in names
    assert {f"prompts/{path.name}" for path in (ROOT / "prompts").glob("*.*")} <= names


def test_every_module_and_prompt_file_is_in_the_wheel(contents: set[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "finercam_clip").rglob("*.py")}
    prompts = {f"finercam_clip/prompt_files/{path.name}" for path in (ROOT / "prompts").glob("*.*")}
    assert len(prompts) >= 6
    assert modules | prompts <= contents


def test_types_license_and_the_models_config_are_in_the_wheel(contents: set[str]) -> None:
    assert "finercam_clip/py.typed" in contents
    assert "finercam_clip/aviary/weights/open_clip_config.json" in contents
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


def test_the_bundled_weights_and_picture_are_in_the_wheel(contents: set[str]) -> None:
    assert "finercam_clip/aviary/weights/open_clip_model.safetensors" in contents
    assert "finercam_clip/birds/weights/species.txt" in contents
    assert "finercam_clip/aviary/demo.png" in contents


def test_nothing_else_is_in_the_wheel(contents: set[str]) -> None:
    assert {name.split("/")[0] for name in contents if ".dist-info/" not in name} == {"finercam_clip"}
    assert not any("__pycache__" in name for name in contents)


def test_an_installed_wheel_answers_from_another_folder(installed: Path, tmp_path: Path) -> None:
    listed = succeed(sys.executable, "-m", "finercam_clip", "models", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "ViT-B-16" in listed
    assert not list(tmp_path.iterdir())


def test_an_installed_wheel_finds_its_own_prompts(installed: Path, tmp_path: Path) -> None:
    code = """
import json, finercam_clip
from finercam_clip.concepts.vocabulary import prompt_files, read_prompts
found = {name: [str(path), len(read_prompts(name))] for name, path in prompt_files().items()}
print(json.dumps([finercam_clip.__file__, found]))
"""
    package, found = json.loads(succeed(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)))
    assert Path(package).is_relative_to(installed)
    assert set(found) == {path.stem for path in (ROOT / "prompts").glob("*.txt")}
    for path, entries in found.values():
        assert Path(path).is_relative_to(installed)
        assert entries > 0


def test_the_version_is_the_same_everywhere(wheel: Path, installed: Path, tmp_path: Path) -> None:
    said = succeed(sys.executable, "-m", "finercam_clip", "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert said == f"finercam-clip {finercam_clip.__version__}\n"
    assert wheel.name.startswith(f"finercam_clip-{finercam_clip.__version__}-")
    assert f"## {finercam_clip.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_an_installed_wheel_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    succeed(sys.executable, "-m", "finercam_clip", "demo", cwd=tmp_path, PYTHONPATH=str(installed))
    assert [path.name for path in tmp_path.iterdir()] == ["finercam-demo.png"]


TYPED = """
import finercam_clip
from finercam_clip import Explanation

explanation: Explanation = finercam_clip.load().explain("bird.jpg", "a red crown", ["a blue crown"], gamma=0.6)
reveal_type(explanation.peak)
reveal_type(finercam_clip.load_classifier("photos").encode(["a.jpg"]))
finercam_clip.load().explain("bird.jpg", "a red crown", gama=0.6)
finercam_clip.load(precision="fp31")
"""


def test_types_are_seen_from_outside(installed: Path, tmp_path: Path) -> None:
    """A script of a user: mypy follows the package's types because of py.typed, and finds its two mistakes."""
    pytest.importorskip("mypy", reason="the extra `lint`")
    script = tmp_path / "script.py"
    script.write_text(TYPED, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", script.name]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(installed)},
        timeout=600,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "py.typed" not in said, said
    assert 'Revealed type is "tuple[int, int] | None"' in said.replace("builtins.", "").replace("Union[", ""), said
    assert "list[finercam_clip.explainer.ImageEncoding]" in said.replace("builtins.", ""), said
    errors = [line for line in said.splitlines() if ": error:" in line]
    assert [line.split(":")[1] for line in errors] == ["8", "9"], said
