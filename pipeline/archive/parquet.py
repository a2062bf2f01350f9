"""How a shard is written as Parquet and read back. What was tried is in benchmarks/LOG.md, "Layout"."""

from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import TABLES, conform

# A row group of responses is what a pass reads to get at one row of it: small enough to read, large enough to compress.
TOKENS_PER_GROUP = 65_536
GROUP_ROWS = 16, 4096
# And of narrow tables: a merged file of a long run can be passed over but for the iterations that are asked for.
NARROW_ROWS = 65_536
# Of another value in every row: a dictionary of them is the column once more.
UNIQUE = {"trajectory_id", "group_id", "prompt_id", "response_text", "problem"}


def write_parquet(rows: pa.Table, name: str, path: Path) -> None:
    """Writes rows of table `name`, with a checksum in every page."""
    how = _responses(rows) if name == "responses" else _narrow(name)
    pq.write_table(rows, path, compression="zstd", compression_level=1, write_page_checksum=True, **how)


def read_parquet(source: Path | BinaryIO, name: str) -> pa.Table:
    """All rows of a file of table `name`; null in the columns that the table got since the file was written.

    Raises:
        SchemaError: it lacks a column that is never null, or its values do not fit.
    """
    rows, columns = pq.read_table(source), TABLES[name].columns
    for column in columns:
        if column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    return conform(rows.select([column.name for column in columns]), name)


def _responses(rows: pa.Table) -> dict[str, Any]:
    """Bytes of numbers apart by significance, few rows to a group, and a filter for ids in each."""
    lengths = pc.list_value_length(rows["response_token_ids"])
    n_tokens = pc.mean(lengths).as_py() or 0.0
    n_rows = max(GROUP_ROWS[0], min(GROUP_ROWS[1], int(TOKENS_PER_GROUP // max(1.0, n_tokens))))
    numbers = ("prompt_token_ids", "response_token_ids", "behaviour_logprobs")
    return {
        "use_dictionary": False,
        "column_encoding": {f"{column}.list.element": "BYTE_STREAM_SPLIT" for column in numbers},
        "write_statistics": ["trajectory_id"],
        "row_group_size": n_rows,
        "bloom_filter_options": {"trajectory_id": {"ndv": n_rows, "fpp": 0.01}},
    }


def _narrow(name: str) -> dict[str, Any]:
    """Words in dictionaries, floats split into bytes; statistics let a reader pass over iterations and policies."""
    columns = TABLES[name].columns
    floats = [c.name for c in columns if c.type == pa.float64()]
    words = [c.name for c in columns if c.name not in UNIQUE and c.name not in floats and not pa.types.is_nested(c.type)]
    return {
        "use_dictionary": words or False,
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        "row_group_size": NARROW_ROWS,
    }
