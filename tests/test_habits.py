"""What surrounds the package: citation, hooks, workflow, lowest versions, the example of a Space."""

from __future__ import annotations

import configparser
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import finercam_clip

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def read_yaml(path: str) -> Any:
    text = (ROOT / path).read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---")[1] if path.endswith(".md") else text)


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = read_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == finercam_clip.__version__
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text(encoding="utf-8").replace("*", "")


def test_the_hooks_run_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    assert list(hooks) == ["ruff", "ruff-format", "mypy"]
    for entry in hooks.values():
        words = entry.removesuffix(" --force-exclude")
        assert re.search(rf"^\t\$\(BIN\)/{re.escape(words)}", makefile, flags=re.MULTILINE), entry


def test_the_workflow_covers_systems_and_versions(setup: configparser.ConfigParser) -> None:
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    systems = {job["runs-on"] for job in jobs.values()} | set(jobs["others"]["strategy"]["matrix"]["os"])
    assert {system.split("-")[0] for system in systems if "matrix" not in system} == {"ubuntu", "macos", "windows"}
    oldest = setup["options"]["python_requires"].removeprefix(">=")
    listed = re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], flags=re.MULTILINE)
    for job in ("linux", "others"):
        assert jobs[job]["strategy"]["matrix"]["python"] == [oldest, listed[-1]]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for command in ("bash .ci/run", "python .ci/lowest.py > lowest.txt", "make docs", "make wheel"):
        assert command in steps
    for target in re.findall(r"make (\w+)", "\n".join(steps)):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_lowest_versions_are_those_of_setup_cfg(setup: configparser.ConfigParser) -> None:
    command = [sys.executable, ROOT / ".ci" / "lowest.py"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "torch==2.2.*" in lines
    assert "pytest==8.0.*" in lines
    bounds = setup["options"]["install_requires"] + "".join(setup["options.extras_require"].values())
    assert len(lines) == len({line.split(">=")[0] for line in bounds.split() if ">=" in line})


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_where_no_browser_can_be_had_the_set_up_goes_on(tmp_path: Path) -> None:
    """With an empty PATH there is neither a browser nor anything that could bring one."""
    bash = shutil.which("bash")
    subprocess.run([str(bash), str(ROOT / ".ci" / "browser")], env={"PATH": str(tmp_path)}, check=True, timeout=60)


def test_the_space_serves_the_page(setup: configparser.ConfigParser, monkeypatch: pytest.MonkeyPatch) -> None:
    front = read_yaml("examples/space/README.md")
    app = ROOT / "examples" / "space" / front["app_file"]
    assert front["sdk"] == "gradio"
    assert f"gradio>={front['sdk_version'].rsplit('.', 1)[0]}," in setup["options.extras_require"]["ui"]
    (requirement,) = (app.parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = re.search(r"\[([\w,]+)\]", requirement)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(setup["options.extras_require"])

    served: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr("finercam_clip.ui.models.first_model", lambda: "a model")
    monkeypatch.setattr("finercam_clip.ui.serve.serve", lambda model, **place: served.append((model, place)))
    runpy.run_path(str(app), run_name="__main__")
    assert served == [("a model", {"host": "0.0.0.0", "port": 7860})]
