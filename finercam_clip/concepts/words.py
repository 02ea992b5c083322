"""What is the same in two spellings of a name."""

from __future__ import annotations

import re
import unicodedata


def normalised(name: str) -> str:
    """Letters and digits only, without case, accents and a leading number as in "001.Black_footed_Albatross"."""
    return "".join(words_of(re.sub(r"^\s*\d+\s*\.", "", name)))


def words_of(name: str) -> list[str]:
    """Its words without case and accents."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return re.findall(r"[^\W_]+", "".join(letter for letter in plain if not unicodedata.combining(letter)))
