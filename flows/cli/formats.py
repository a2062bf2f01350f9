"""Writes the result of a query for other programs (CSV, JSON, Parquet), batch by batch."""

from itertools import chain
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from schemas import UserError


def write(reader: pa.RecordBatchReader, how: str, out: BinaryIO) -> None:
    """Writes the batches as csv, json (one object per line) or parquet.

    Raises:
        UserError: the statement fails half-way through, or the format cannot hold a column.
    """
    try:
        if how == "parquet":
            with pa.parquet.ParquetWriter(out, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
            return
        header = pa.RecordBatch.from_pylist([], reader.schema)
        for number, batch in enumerate(chain([header], reader)):
            frame = pl.DataFrame(pa.Table.from_batches([batch]))
            if how == "json":
                frame.write_ndjson(out)
            else:
                frame.write_csv(out, include_header=number == 0)
    except (pl.exceptions.PolarsError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--format {how} cannot hold this answer ({reason}); try another, or cast the column to text"
        ) from None
