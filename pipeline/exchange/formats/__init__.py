"""Formats of files that other programs wrote, one short module each. `files` reads rows, `values` checks values.

A rollouts format is a module with `matches(row, file)`, whether a row has this format, and `rollouts(row, columns,
file)`, the rollouts of the row. This module lists the formats, and finds out a file's format from its first row.
"""

from types import ModuleType

from pipeline.exchange.formats import gsm8k, names, prime_rl, rows, trl, values, verl
from pipeline.exchange.formats.files import SUFFIXES, Reject, Row, SourceFile, find, read, reject, suffix, survey
from pipeline.exchange.formats.rows import Rollout
from pipeline.exchange.formats.values import BadRow, Columns

__all__ = [
    "ROLLOUTS",
    "SUFFIXES",
    "BadRow",
    "Columns",
    "Reject",
    "Rollout",
    "Row",
    "SourceFile",
    "detect",
    "find",
    "named_by_run",
    "names",
    "read",
    "reject",
    "suffix",
    "survey",
    "values",
]

# They are tried in this order; the last takes any row.
ROLLOUTS: dict[str, ModuleType] = {"prime-rl": prime_rl, "verl": verl, "trl": trl, "gsm8k": gsm8k, "rows": rows}


def detect(row: Row) -> str:
    """The rollouts format of a file whose first row this is."""
    return next(name for name, module in ROLLOUTS.items() if module.matches(row.values, row.file))


def named_by_run(format_: str) -> bool:
    """Whether rollouts of a format are by the policy of their run at their step, unless the policy is named."""
    return format_ in ("prime-rl", "verl", "trl")
