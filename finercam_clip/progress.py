"""Progress bars: for a person at a terminal only, and not where they were switched off (`finercam-clip --quiet`)."""

from __future__ import annotations

import os
from typing import Any

SWITCH = "TQDM_DISABLE"  # tqdm's own environment variable, so that one word silences other libraries' bars as well


def bar(total: int, **settings: Any) -> Any:
    """A tqdm bar to `total`."""
    from tqdm import tqdm  # here, so that the switch is thrown before tqdm reads it

    return tqdm(total=total, disable=True if os.environ.get(SWITCH) else None, **settings)
