"""README and documentation: their code runs, their commands are understood, their tables and pictures are there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import finercam_clip
from finercam_clip.cli import build_parser
from finercam_clip.concepts.vocabulary import prompt_files
from finercam_clip.errors import InputError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "llms.txt", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^>]+?) -->\s*$")
sys.path.insert(0, str(ROOT / "docs"))

import addresses  # noqa: E402
import assets  # noqa: E402


def _blocks(page: Path, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """Code blocks of some languages: what stands before each, and its code."""
    text = page.read_text(encoding="utf-8")
    blocks = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text[: block.start()], block[2]) for block in blocks if block[1] in kinds]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "from_pretrained" in page.read_text(encoding="utf-8"):
        _small_models_of_hugging_face(monkeypatch, request)
    (tmp_path / "finercam_clip" / "aviary").mkdir(parents=True)
    picture = "finercam_clip/aviary/demo.png"
    (tmp_path / picture).write_bytes((ROOT / picture).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finercam_clip.methods.METHODS", finercam_clip.methods.METHODS | {})  # pages add to these two
    monkeypatch.setattr("finercam_clip.towers.FAMILIES", [*finercam_clip.towers.FAMILIES])
    names: dict[str, object] = {"finercam_clip": finercam_clip}
    for before, code in _blocks(page, ("python",)):
        compiled = compile(code, str(page), "exec")
        if not NOT_RUN.search(before):
            exec(compiled, names)


def _small_models_of_hugging_face(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """`from_pretrained` gives random weights of the true architecture: there is no hub."""
    from reference.hub import hub_model, transformers

    processor = request.getfixturevalue("processors")["clip"]
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda name: hub_model("clip"))
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda name: processor)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_lines_are_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = [line for _, code in _blocks(page, ("", "sh", "bash")) for line in code.splitlines()]
    lines += re.findall(r"`(finercam-clip [^`]+)`", text)
    for line in lines:
        command = line.split("#")[0].split(" | ")[0].strip()
        if command.startswith("finercam-clip "):
            build_parser().parse_args(shlex.split(command)[1:])


def _anchors(page: Path) -> set[str]:
    """The names that a page's headings have in links."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_pages_and_headings_that_are_linked_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            other = page.parent / name if name else page
            assert other.exists(), target
            assert not anchor or anchor in _anchors(other), target


def test_the_readme_is_read_in_two_minutes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert len(CODE.sub("", text).split()) <= 1100


def test_the_first_screen_leads_to_a_heatmap_of_ones_own_photograph_in_three_lines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first_screen = "\n".join(text.splitlines()[:30])
    block = next(iter(re.findall(r"^```\n(.*?)^```$", first_screen, flags=re.MULTILINE | re.DOTALL)))
    lines = block.splitlines()
    assert len(lines) == 3
    assert any("pip install" in line and "[photos]" in line for line in lines)
    assert lines[-1].startswith("finercam-clip explain photo.jpg --classifier photos ")
    assert "6 GB" in text
    assert "--index-url https://download.pytorch.org/whl/cpu" in text


def test_the_pictures_of_the_readmes_commands_exist() -> None:
    for line in "\n".join(code for _, code in _blocks(ROOT / "README.md", ("",))).splitlines():
        for name in re.findall(r"\S+/\S+\.png", line):
            assert (ROOT / name).exists(), line


def test_every_vocabulary_and_file_of_prompts_that_is_named_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"--(?:vocabulary|templates|background) ([\w-]+)", page.read_text(encoding="utf-8")):
            assert name in prompt_files(), name


@pytest.mark.parametrize("name", ["methods", "families"])
def test_tables_are_what_the_commands_print(name: str) -> None:
    for page in assets.FILLED:
        text = page.read_text(encoding="utf-8")
        assert assets.fill(text, name, assets.TABLES[name]()) == text, f"make readme-assets ONLY={name}"


@pytest.mark.parametrize("name", [name for name in assets.TABLES if name not in ("methods", "families")])
def test_measured_tables_are_consistent_with_the_figures_that_are_kept(name: str) -> None:
    """Consistency only: that the kept figures are true is for whoever measures again (`make readme-assets`)."""
    for page in assets.FILLED:
        text = page.read_text(encoding="utf-8")
        if f"<!-- begin {name} -->" in text:
            assert assets.fill(text, name, assets.TABLES[name]()) == text, f"make readme-assets ONLY={name}"


def test_the_repositorys_address_is_the_same_everywhere() -> None:
    for path in addresses.LINKED:
        text = path.read_text(encoding="utf-8")
        assert addresses.linked(text, path.name) == text, "make readme-assets ONLY=links"


def test_an_address_reaches_badges_notebooks_citation_and_space_and_can_be_changed() -> None:
    linked = {
        path: addresses.linked(path.read_text(encoding="utf-8"), path.name, "someone/name") for path in addresses.LINKED
    }
    for name in ("quickstart", "classifier"):
        notebook = f"https://colab.research.google.com/github/someone/name/blob/main/notebooks/{name}.ipynb"
        assert f"]({notebook})" in linked[ROOT / "README.md"]
        text = linked[ROOT / "notebooks" / f"{name}.ipynb"]
        assert f"]({notebook})" in text
        installed = [line for cell in json.loads(text)["cells"] for line in cell["source"] if "%pip" in line]
        assert len(installed) == 1
        assert ' @ git+https://github.com/someone/name"' in installed[0]
    assert 'repository-code: "https://github.com/someone/name"\n' in linked[ROOT / "CITATION.cff"]
    space = ROOT / "examples" / "space" / "requirements.txt"
    assert linked[space] == "finercam_clip[ui,photos] @ git+https://github.com/someone/name\n"
    for path, text in linked.items():
        assert addresses.linked(text, path.name) == path.read_text(encoding="utf-8"), "back to what it is"


def test_a_table_is_put_between_its_marks_and_nowhere_else() -> None:
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
    filled = assets.fill(text, "x", "new \\1")
    assert filled == text.replace("old", "new \\1")
    assert assets.fill(text, "z", "new") == text


def test_a_measurement_is_the_command_that_its_page_shows() -> None:
    pages = [" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES]
    for name, commands in assets.MEASURED.items():
        for page in (page for page in pages if f"<!-- begin {name} -->" in page):
            above = page.split(f"<!-- begin {name} -->")[0]
            shown = f"`finercam-clip {shlex.join(commands[0])}`" if len(commands) == 1 else f"ONLY={name}`"
            assert shown in above, name


def test_what_was_measured_is_kept_and_fills_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin sanity -->\n<!-- end sanity -->\n<!-- begin methods -->\n<!-- end methods -->\n")
    row = {"check": "a check", "figure": "a figure", "value": 0.25, "bound": None, "above": False, "passed": True}
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    monkeypatch.setattr(assets, "FILLED", (page,))
    monkeypatch.setattr(assets, "FIGURES", tmp_path / "docs" / "figures")
    with pytest.raises(InputError, match="ONLY=sanity"):
        assets.main(["tables"])
    done = subprocess.CompletedProcess([], 0, json.dumps([row]))
    monkeypatch.setattr(assets.subprocess, "run", lambda *_, **__: done)
    assets.main(["sanity"])
    assert "a check" in page.read_text()
    assert "hirescam" not in page.read_text(), "only what was asked for"
    assert json.loads((tmp_path / "docs" / "figures" / "sanity.json").read_text()) == [row]
    done.returncode = 2
    with pytest.raises(InputError, match="finercam-clip evaluate sanity ended"):
        assets.main(["sanity"])
    with pytest.raises(InputError, match="there are"):
        assets.main(["nothing-like-it"])


def test_the_address_is_written_on_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("[![Open quickstart in Colab](old)](old)\n")
    monkeypatch.setattr(addresses, "LINKED", (page,))
    assets.main(["links"])
    assert page.read_text() == f"[![Open quickstart in Colab]({addresses.BADGE})]({addresses.COLAB})\n"
