"""Reads a recipe's TOML with overrides into a `Config`; an error is one line that says how to fix it."""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.recipes.config import Config, Section
from schemas import UserError


def load(recipe: Path, overrides: Iterable[tuple[str, Any]] = ()) -> Config:
    """The settings of a recipe file, with overrides: dotted names and their values.

    Raises:
        UserError: the file is not TOML, a key is unknown (the message suggests the nearest), or a value is out of range.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(recipe.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {recipe}: {error}") from None
    for dotted, value in overrides:
        *sections, key = dotted.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise UserError(f"override {dotted}: {section} is a value, not a section")
        branch[key] = value
    if "recipe" in tree:
        raise UserError(f"recipe {recipe.stem}: its name is its file's, so it cannot set 'recipe'")
    try:
        return Config(recipe=recipe.stem, **tree)
    except ValidationError as error:
        raise UserError(_explain(error, f"recipe {recipe.stem}")) from None


def parse(line: str) -> tuple[str, Any]:
    """`section.key=value` as a dotted name and a value, written as in TOML; a bare word is text.

    Raises:
        UserError: the line has no `=`.
    """
    dotted, equals, text = line.partition("=")
    if not equals:
        raise UserError(f"override {line!r}: write it as section.key=value, for example train.beta=0.5")
    try:
        return dotted.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return dotted.strip(), text.strip()


def _explain(error: ValidationError, where: str) -> str:
    """The first error in one line, with a way to fix it."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part in _names(first["loc"])]
    dotted = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(_fields(path[:-1]))
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown setting {dotted}; {hint}"
    if first["type"] == "value_error":
        return f"{where}: {dotted}: {first['ctx']['error']}"
    said = first["msg"].replace("valid tuple", "valid list")  # TOML has lists only
    return f"{where}: {dotted} = {first['input']!r}: {said[0].lower()}{said[1:]}"


def _names(loc: tuple[int | str, ...]) -> list[int | str]:
    """The parts of a pydantic location that are settings. After the last setting it has the branch of a union."""
    names: list[int | str] = []
    fields: Any = Config.model_fields
    for part in loc:
        names.append(part)
        kind = fields[part].annotation if part in fields else None
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            break
        fields = kind.model_fields
    return names


def _fields(path: Sequence[str]) -> Iterator[str]:
    fields: Any = Config.model_fields
    for part in path:
        fields = fields[part].annotation.model_fields
    yield from (name for name in fields if name != "recipe")
