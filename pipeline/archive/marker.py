"""The archive's marker file: its tables and their versions; decides what to do with older and newer archives."""

import json
from dataclasses import dataclass, field

from schemas import ARCHIVE_FORMAT, READABLE_SINCE, TABLES, UserError


@dataclass(frozen=True)
class Marker:
    """`tables` has the version of each table."""

    tables: dict[str, int] = field(default_factory=lambda: {name: table.version for name, table in TABLES.items()})

    def dump(self) -> bytes:
        content = {"format": ARCHIVE_FORMAT, "readable_since": READABLE_SINCE, "tables": self.tables}
        return json.dumps(content).encode()

    @property
    def outdated(self) -> list[str]:
        """Tables that this reval has in a newer version, or at all."""
        return [name for name, table in TABLES.items() if self.tables.get(name, 0) < table.version]


def parse(root: str, content: bytes | None, *, exists: bool) -> Marker:
    """The marker of the archive at `root`.

    Raises:
        UserError: there is none, it is damaged, or it is of a reval newer than this one.
    """
    if content is None:
        what = "is not an archive (no reval.json in it)" if exists else "does not exist"
        raise UserError(f"archive {root} {what}; make one with `reval init --archive {root}`")
    try:
        found = json.loads(content)
        newest, tables = int(found["format"]), {str(k): int(v) for k, v in found.get("tables", FIRST).items()}
        needs = f"reval {found['readable_since']}" if "readable_since" in found else "a newer one"
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"archive {root}: reval.json is damaged; it should read {Marker().dump().decode()!r}") from None
    strange = [name for name in tables if name not in TABLES or tables[name] > TABLES[name].version]
    if newest > ARCHIVE_FORMAT or strange:
        what = f"format {newest}" if newest > ARCHIVE_FORMAT else f"table {strange[0]} version {tables[strange[0]]}"
        raise UserError(
            f"archive {root} has {what}: it was written by a newer reval than this {_version()}; it needs {needs}"
        )
    return Marker(tables)


# What reval 0.1 made; its marker said no more than the format.
FIRST = dict.fromkeys([name for name in TABLES if name not in ("steps", "labels", "imports", "rejects")], 1)


def _version() -> str:
    from importlib.metadata import version

    return version("reval")
