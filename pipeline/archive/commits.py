"""Reads from Delta's log what Delta's own readers do not show: which shards were committed, and every file ever named."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from pipeline.archive.files import Files
from pipeline.archive.layout import delta_log


def _entries(files: Files, table: str, kind: str) -> dict[int, str]:
    """The log's files with this ending, by version, in order."""
    names = {path: path.rsplit("/", 1)[1].partition(".") for path in files.listing(delta_log(table))}
    return dict(sorted((int(head), path) for path, (head, _, ends) in names.items() if head.isdigit() and ends == kind))


def _actions(files: Files, table: str, *, after: int = -1, until: int | None = None) -> Iterator[dict[str, Any]]:
    """The actions of the commits of versions above `after` and up to `until` (None: the newest)."""
    for version, path in _entries(files, table, "json").items():
        if version > after and (until is None or version <= until):
            for line in (files.read(path) or b"").splitlines():
                yield json.loads(line)


def is_newest(files: Files, table: str, version: int) -> bool:
    """Whether no commit came after this version. It looks for one file; to open the table would read the whole log."""
    return files.size(f"{delta_log(table)}/{version + 1:020}.json") is None


def named(files: Files, table: str) -> dict[str, int | None]:
    """Every file that a commit added or removed, with its CRC-32; None: another tool made the commit and noted none."""
    found: dict[str, int | None] = {}
    for action in _actions(files, table):
        for kind in ("add", "remove"):
            if kind in action:
                found.setdefault(f"{table}/{action[kind]['path']}", None)
        noted = action.get("commitInfo", {}).get("crc32", {})
        found |= {f"{table}/{path}": value for path, value in noted.items()}
    return found


def transactions(files: Files, table: str, until: int | None) -> set[str]:
    """The names of all shards that make up a table at a version (None: the newest)."""
    found: set[str] = set()
    checkpoints = {
        v: path for v, path in _entries(files, table, "checkpoint.parquet").items() if until is None or v <= until
    }
    newest = max(checkpoints, default=-1)
    if checkpoints:
        with files.open(checkpoints[newest]) as file:
            column = pq.ParquetFile(file).read(columns=["txn.appId"])["txn"]
        found |= {row["appId"] for row in column.to_pylist() if row and row["appId"] is not None}
    return found | {a["txn"]["appId"] for a in _actions(files, table, after=newest, until=until) if "txn" in a}
