"""What the tests of the command line share besides fixtures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TARGET, CONTRAST = "a bird with a red crown", "a bird with a blue crown"
QUESTION = ["--target", TARGET, "--contrast", CONTRAST]

Run = Callable[..., tuple[int, str, str]]  # words of a command -> exit code, stdout, stderr
Refused = Callable[..., None]  # words of a command as one list, then what its error line must say


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Every path below a folder, with the bytes of each file."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )
