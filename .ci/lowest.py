"""Prints the lowest versions that setup.cfg allows, as constraints for pip: python .ci/lowest.py > lowest.txt"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"


def lowest() -> list[str]:
    """One line for each requirement with a lower bound, of the package itself and of its extras.

    ">=4.8" gives "==4.8.*", for some packages have no 4.8 itself, only 4.8.0.74.
    """
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    requirements = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", "\n".join(requirements), flags=re.MULTILINE)
    return sorted({f"{name}=={version if '.' in version else version + '.0'}.*" for name, version in found})


if __name__ == "__main__":
    print("\n".join(lowest()))
