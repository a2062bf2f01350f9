"""Entries of Delta's log: reads the entries of a table's files, and makes the entry of a new file."""

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from pipeline.archive.files import Files
from schemas import TABLES

# Whether a file may hold wanted rows, from the least and the greatest value of its span.
FileFilter = Callable[[Any, Any], bool]


def holding(values: Iterable[str]) -> FileFilter:
    """A filter for files that may hold one of these values."""
    wanted = sorted(values)

    def may_hold(least: str, greatest: str) -> bool:
        place = bisect_left(wanted, least)
        return place < len(wanted) and wanted[place] <= greatest

    return may_hold


class Logged(NamedTuple):
    """A file's entry in the log: bytes, rows, and the least and greatest value of its table's span (None: not known)."""

    size: int
    n_rows: int
    least: Any
    greatest: Any


def logged(table: DeltaTable, name: str) -> dict[str, Logged]:
    """The files of a table, by path within the archive."""
    adds = pa.table(table.get_add_actions(flatten=True))
    span = TABLES[name].span
    columns = ("path", "size_bytes", "num_records", f"min.{span}", f"max.{span}")
    values = (adds[c].to_pylist() if c in adds.column_names else [None] * len(adds) for c in columns)
    return {f"{name}/{path}": Logged(*rest) for path, *rest in zip(*values, strict=True)}


def entry(files: Files, path: str, n_rows: int | None = None, *, data_change: bool = True) -> AddAction:
    """The entry for a file that is in place; n_rows None: the number is read from the file."""
    size = files.size(path)
    assert size is not None, path
    name, _, inside = path.partition("/")
    stats: dict[str, Any] = {"numRecords": n_rows}
    if n_rows is None or TABLES[name].span:
        with files.open(path) as file:
            footer = pq.read_metadata(file)
        stats = {"numRecords": footer.num_rows, **_span(footer, TABLES[name].span)}
    return AddAction(
        inside,
        size,
        partition_values={},
        modification_time=int(time.time() * 1000),
        data_change=data_change,
        stats=json.dumps(stats),
    )


def _span(footer: pq.FileMetaData, column: str | None) -> dict[str, dict[str, Any]]:
    """The least and greatest value of a column; empty if there is no such column, or a row has no value in it."""
    if column is None:
        return {}
    place = footer.schema.to_arrow_schema().names.index(column)
    found = [footer.row_group(i).column(place).statistics for i in range(footer.num_row_groups)]
    if not found or any(s is None or not s.has_min_max or s.null_count for s in found):
        return {}
    return {"minValues": {column: min(s.min for s in found)}, "maxValues": {column: max(s.max for s in found)}}
