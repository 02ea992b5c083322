"""The repository's address, in one place. Once there is one, set it here and run `python docs/assets.py links`.

It writes the address into README and pages (badges of Colab), notebooks (badges, installation), CITATION.cff and the
example of a Space. Without an address the badges open Colab's own dialog, which takes the notebook as a file.
"""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = ""  # "owner/name" on GitHub
BRANCH = "main"

ROOT = Path(__file__).parents[1]
LINKED = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    ROOT / "CITATION.cff",
    ROOT / "examples" / "space" / "requirements.txt",
)
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = "https://colab.research.google.com/#upload=true"  # its dialog for a notebook that lies in a file
_BADGES = re.compile(r"\[!\[Open (\w+) in Colab\]\([^)]*\)\]\([^)]*\)")
_NAME = r"finercam_clip(\[[\w,]+\])?"
_INSTALLED = re.compile(rf'(%pip install [^\n]*?\\"){_NAME}(?: @ [^"\\]*)?(?=\\")')  # in the JSON of a notebook
_REQUIRED = re.compile(rf"^(){_NAME}(?: @ .*)?$", flags=re.MULTILINE)
_CITED = re.compile(r"^repository-code: .*\n", flags=re.MULTILINE)


def linked(text: str, file: str, repository: str = REPOSITORY) -> str:
    """The text of a file with the repository's address in its places.

    Args:
        text: What stands in the file.
        file: Its name.
        repository: "owner/name", or "" where there is none.
    """
    web = f"https://github.com/{repository}"
    colab = f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/notebooks"

    def badge(match: re.Match[str]) -> str:
        target = f"{colab}/{match[1]}.ipynb" if repository else COLAB
        return f"[![Open {match[1]} in Colab]({BADGE})]({target})"

    def package(match: re.Match[str]) -> str:
        return f"{match[1]}finercam_clip{match[2] or ''}" + (f" @ git+{web}" if repository else "")

    text = _BADGES.sub(badge, text)
    if file.endswith(".ipynb"):
        text = _INSTALLED.sub(package, text)
    if file == "requirements.txt":
        text = _REQUIRED.sub(package, text)
    if file == "CITATION.cff":
        text = _CITED.sub("", text)
        if repository:
            text = text.replace("license: ", f'repository-code: "{web}"\nlicense: ', 1)
    return text
