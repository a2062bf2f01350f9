"""The recipes that come with reval, by name."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from reval.config import Config, load
from schemas import UserError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe(name: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of a recipe: one of `names()`, or the path of a TOML file.

    Raises:
        UserError: there is none of that name (the nearest is given), or a setting is wrong.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names())}, or a path that ends in .toml"
        raise UserError(f"unknown recipe {name!r}; {hint}")
    return load(path, overrides)
