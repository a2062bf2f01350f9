"""How a shard is laid out as Parquet. Measured: see benchmarks/LOG.md, "Layout"."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(rows: pa.Table, name: str, path: Path) -> None:
    """Writes rows of table `name`, with a checksum in every page."""
    pq.write_table(rows, path, compression="zstd", write_page_checksum=True)
