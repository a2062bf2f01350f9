"""How a shard is written as Parquet and read back. Measurements are in benchmarks/LOG.md, "Layout"."""

from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import TABLES, conform

# To read one response, a pass reads its whole row group: small enough to read fast, large enough to compress well.
TOKENS_PER_GROUP = 65_536
GROUP_ROWS = 16, 4096
# Rows in a row group of the other tables: in a merged file of a long run, a query reads only the iterations it needs.
NARROW_ROWS = 65_536
# Columns with a different value in every row: a dictionary would repeat the whole column.
UNIQUE = {"trajectory_id", "group_id", "prompt_id", "response_text", "problem"}


def write_parquet(rows: pa.Table, name: str, path: Path) -> None:
    """Writes rows of table `name`, with a checksum in every page."""
    how = _responses(rows) if name == "responses" else _narrow(name)
    pq.write_table(rows, path, compression="zstd", compression_level=1, write_page_checksum=True, **how)


def read_parquet(source: Path | BinaryIO, name: str) -> pa.Table:
    """All rows of a file of table `name`; columns that were added to the table after the file was written are null.

    Raises:
        SchemaError: the file lacks a column that is never null, or its values do not fit.
    """
    rows, columns = pq.read_table(source), TABLES[name].columns
    for column in columns:
        if column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    return conform(rows.select([column.name for column in columns]), name)


def _responses(rows: pa.Table) -> dict[str, Any]:
    """How responses are written: numbers split into bytes by significance, small row groups, a filter for ids in each."""
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
    """Words in dictionaries, floats split into bytes; with the statistics a reader skips iterations and policies."""
    columns = TABLES[name].columns
    floats = [c.name for c in columns if c.type == pa.float64()]
    words = [c.name for c in columns if c.name not in UNIQUE and c.name not in floats and not pa.types.is_nested(c.type)]
    return {
        "use_dictionary": words or False,
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        "row_group_size": NARROW_ROWS,
    }
