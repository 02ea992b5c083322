"""A folder as people have them: 500 photographs, 20 of them damaged in 20 ways, and what is none at all.

`generate`, the table of traits and `dataset check` finish, agree on what cannot be read, list it, and exit with 1.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from pathlib import Path

import pytest
from reference.damaged import READABLE, UNREADABLE, encoded, picture, write

from finercam_clip.cli import main
from finercam_clip.datasets import check, open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.paths import text_of
from finercam_clip.runs import read_manifest, read_unreadable

pytestmark = pytest.mark.slow

PHOTOGRAPHS = 500
LONG = "n" * 250 + ".jpg"  # 254 bytes
LATIN_1 = os.fsdecode(b"caf\xe9.jpg")  # no UTF-8


def state(root: Path) -> dict[str, str]:
    """Every path below a folder: a digest of a file, and of others their kind."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path.lstat().st_mode)
        for path in root.rglob("*")
    }


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The folder, and the names of what in it cannot be read."""
    root = tmp_path_factory.mktemp("photographs")
    write(root / "a red crown", UNREADABLE)
    write(root / "a blue crown", READABLE)
    names = [f"{i:03}.jpg" for i in range(PHOTOGRAPHS - len(UNREADABLE) - len(READABLE) - 2)]
    for i, name in enumerate([*names, LONG, LATIN_1]):
        (root / "a red tail" / name).parent.mkdir(exist_ok=True)
        (root / "a red tail" / name).write_bytes(encoded("JPEG", picture(i)))
    assert sum(path.is_file() for path in root.rglob("*")) == PHOTOGRAPHS
    unreadable = {f"a red crown/{name}" for name in UNREADABLE} | {"a red tail/pipe.jpg", "a red tail/nowhere.jpg"}
    os.mkfifo(root / "a red tail" / "pipe.jpg")
    (root / "a red tail" / "nowhere.jpg").symlink_to("gone.jpg")
    (root / "a red tail" / "folder.jpg").mkdir()
    if os.geteuid() != 0:  # nothing is locked for root
        write(root / "locked", {"1.jpg": lambda: encoded("JPEG")})
        (root / "locked").chmod(0)
        unreadable.add("locked/")
    return root, unreadable


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and names of bytes")
def test_everything_that_reads_a_folder_agrees_on_what_cannot_be_read(
    photographs: tuple[Path, set[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: Explainer,
) -> None:
    root, unreadable = photographs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finercam_clip.models.load", lambda *_, **__: tiny)
    before = state(root)

    def command(*words: str) -> tuple[str, str]:
        capsys.readouterr()
        assert main(list(words)) == 1
        captured = capsys.readouterr()
        return captured.out, captured.err

    report = check(open_dataset(root))
    assert set(report.unreadable) | set(report.missing) == unreadable
    out, _ = command("dataset", "check", str(root))
    assert out.rstrip().endswith("not complete")

    _, err = command("generate", str(root), "--output", "run")
    assert set(read_unreadable("run")) == {name for name in unreadable if not name.endswith("/")}
    assert len(err.splitlines()) == len(unreadable)
    assert all(any(name.rstrip("/").rsplit("/", 1)[-1] in line for line in err.splitlines()) for name in unreadable)
    done = {record["image"] for record in read_manifest("run")}
    assert len(done) == PHOTOGRAPHS - len(UNREADABLE)
    assert {f"a red tail/{LONG}", f"a red tail/{text_of(LATIN_1)}"} <= done

    Path("traits.txt").write_text("a red crown\n")
    _, err = command("explain", str(root), "--concepts", "traits.txt", "--output", "table.csv")
    assert len(err.splitlines()) == len(unreadable)
    with Path("table.csv").open(encoding="utf-8", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == done

    assert state(root) == before
