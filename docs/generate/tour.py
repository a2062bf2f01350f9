"""docs/tour.md: what each folder is for, and each file's first line."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docs.generate.markdown import code, prose
from tests.test_arrows import LAYERS, WINGS

ROOT = Path(__file__).parent.parent.parent
TOPS = (*LAYERS, "benchmarks", "tests")
INTRODUCTION = f"""
From the lowest to the highest; each imports only those before it:

    {" < ".join(LAYERS)} < benchmarks, tests

The folders of `pipeline/`, its wings, have an order too:

    {" < ".join(WINGS[:7])}
      < {" < ".join(WINGS[7:])}

`tests/test_arrows.py` enforces both. To see what a run does, begin with `flows/iterate.py`, then read `pipeline/stages/`,
a file for each stage. The method itself is in `reval/bellman.py` (the loss) and `reval/trainer.py` (a training pass).
"""


def page() -> Iterator[str]:
    yield "# A tour of the code"
    yield prose(INTRODUCTION)
    for room, files in rooms().items():
        path = room.relative_to(ROOT)
        yield f"{'#' * (len(path.parts) + 1)} {path}/"
        yield prose(docstring(room / "__init__.py"))
        if files:
            yield "\n".join(f"- [`{f.relative_to(room)}`](../{f.relative_to(ROOT)}): {first_line(f)}" for f in files)
        if queries := sorted(room.glob("sql/**/*.sql")):
            names = (code(str(query.relative_to(room / "sql").with_suffix(""))) for query in queries)
            yield prose(f"Queries, in `sql/`: {', '.join(names)}.")


def rooms() -> dict[Path, list[Path]]:
    """The folders whose `__init__.py` has a docstring, in the order of imports, with their files.

    Files of other folders count as files of the folder above.
    """
    found: dict[Path, list[Path]] = {}
    for top in TOPS:
        files = sorted((ROOT / top).rglob("*.py"))
        inside = {ROOT / top, *(path.parent for path in files if path.name == "__init__.py" and docstring(path))}
        for room in sorted(inside, key=lambda room: (_place(room), room)):
            found[room] = []
        for file in files:
            if file.name != "__init__.py":
                found[next(room for room in file.parents if room in inside)].append(file)
    return found


def _place(room: Path) -> int:
    """The place of a wing in the order of imports; what is above the wings comes first."""
    parts = room.relative_to(ROOT).parts
    return WINGS.index(parts[1]) if parts[0] == "pipeline" and len(parts) > 1 else -1


@cache
def docstring(path: Path) -> str:
    """A module's docstring. Only that is parsed: the whole code takes a second."""
    found = re.match(r'r?""".*?"""', path.read_text(), re.DOTALL)
    return inspect.cleandoc(ast.literal_eval(found.group())) if found else ""


def first_line(path: Path) -> str:
    return docstring(path).partition("\n")[0]
