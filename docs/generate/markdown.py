"""Markdown from words and rows."""

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A line break or a bar in a cell would end the cell."""
    cells = [[cell.replace("\n", " ").replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *cells))


def prose(text: str) -> str:
    """Paragraphs, folded at 120. An indented one is code and stays as it is."""
    fold = textwrap.TextWrapper(120, break_long_words=False, break_on_hyphens=False).fill
    parts = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(part if part.startswith("    ") else fold(part) for part in parts)


def code(text: str) -> str:
    return f"`{text}`"


def toml(value: Any) -> str:
    """A value as a recipe has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
