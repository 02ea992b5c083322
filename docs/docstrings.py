"""For the API reference: a docstring's lines "name: what it is" become a list, each name an item."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_NAMES = r"(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)"


def as_list(text: str, names: set[str]) -> str:
    """The docstring with a list item for each "name: ..." or "name, name: ..." of `names` at the beginning of a line or
    after a semicolon. A line that is indented or begins in lower case goes on with its item; all others, and so the
    sections "Raises:" and the like, stay as they are."""
    text = re.sub(f"; {_NAMES}", lambda found: f"\n{found[0][2:]}" if _known(found, names) else found[0], text)
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        found = re.match(_NAMES, line)
        if found and _known(found, names):
            if not inside and lines and lines[-1]:
                lines.append("")  # Markdown begins a list after an empty line only
            labels = ", ".join(f"`{name}`" for name in found["names"].split(", "))
            lines.append(f"* {labels}: {line[found.end() :]}")
            inside = True
        elif inside and line and not line[0].isupper():
            lines.append(f"    {line.strip()}")
        else:
            if inside and line:
                lines.append("")
            lines.append(line)
            inside = False
    return "\n".join(lines)


def _known(found: re.Match[str], names: set[str]) -> bool:
    return set(found["names"].split(", ")) <= names


class Lists(Extension):
    """What mkdocs.yml names."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Every function's parameters and class's attributes are names of items."""
        if obj.docstring is None:
            return
        names = set(obj.members) | {parameter.name for parameter in getattr(obj, "parameters", [])}
        obj.docstring.value = as_list(obj.docstring.value, names)
