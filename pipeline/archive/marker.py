"""The archive's marker file: its tables and their versions; decides what to do with older and newer archives.

An older archive is read: `Store` adds the columns it lacks. An archive of a newer reval is refused, and so is one from
before `OLDEST_READ`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from schemas import ARCHIVE_FORMAT, OLDEST_READ, READABLE_SINCE, TABLES, UserError


@dataclass(frozen=True)
class Marker:
    """The contents of the marker file; `tables` has the version of each table."""

    tables: dict[str, int] = field(default_factory=lambda: {name: table.version for name, table in TABLES.items()})

    def dump(self) -> bytes:
        content = {"format": ARCHIVE_FORMAT, "readable_since": READABLE_SINCE, "tables": self.tables}
        return json.dumps(content).encode()

    @property
    def outdated(self) -> list[str]:
        """Tables that this reval has in a newer version, or that the archive does not have."""
        return [name for name, table in TABLES.items() if self.tables.get(name, 0) < table.version]


def parse(root: str, content: bytes | None, *, exists: bool) -> Marker:
    """The marker of the archive at `root`.

    Raises:
        UserError: there is no marker, it is damaged, or the archive is of a newer reval than this one or too old for it.
    """
    if content is None:
        what = "is not an archive (no reval.json in it)" if exists else "does not exist"
        raise UserError(f"archive {root} {what}; make one with `reval init --archive {root}`")
    try:
        found = json.loads(content)
        since = found.get("readable_since", "0.1")  # reval 0.1 noted none
        tables = {str(name): int(number) for name, number in found.get("tables", {}).items()}
        check_readable(f"archive {root}", int(found["format"]), ARCHIVE_FORMAT, since, tables)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"archive {root}: reval.json is damaged; it should read {Marker().dump().decode()!r}") from None
    return Marker(tables)


def check_readable(what: str, number: int, known: int, readable_since: str, tables: Mapping[str, int]) -> None:
    """Refuses an archive or an export that this reval cannot read.

    Args:
        what: the name of the archive or export in the message.
        number: the number of its format.
        known: the newest format that this reval reads.
        readable_since: the first reval that reads it, as the one that wrote it noted.
        tables: the version of each of its tables.

    Raises:
        UserError: it is of a newer reval than this one, or too old for it.
        ValueError: `readable_since` is not a version.
    """
    is_too_old = _numbers(readable_since) < _numbers(OLDEST_READ)
    newer = [f"format {number}"] if number > known else []
    for name, of_table in tables.items():
        if name not in TABLES or of_table > TABLES[name].version:
            newer.append(f"table {name} version {of_table}")
    this = version("reval")
    if newer:
        raise UserError(
            f"{what} has {newer[0]}: it was written by a newer reval than this {this}; it needs reval {readable_since}"
        )
    if is_too_old:
        raise UserError(
            f"{what} is of a reval before {OLDEST_READ}, which this {this} does not read; "
            "write its rollouts to a file with the reval that made it, and bring them in with `reval import rollouts`"
        )


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split("."))
