"""An answer in a format for other programs, written as it comes."""

from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet


def write(reader: pa.RecordBatchReader, how: str, out: BinaryIO) -> None:
    """Writes the batches as csv, json (one object a line) or parquet.

    Raises:
        UserError: the statement fails half-way through.
    """
    if how == "parquet":
        with pa.parquet.ParquetWriter(out, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        return
    first = True
    for batch in reader:
        frame = pl.DataFrame(pa.Table.from_batches([batch]))
        if how == "json":
            frame.write_ndjson(out)
        else:
            frame.write_csv(out, include_header=first)
        first = False
    if first and how == "csv":
        out.write((",".join(reader.schema.names) + "\n").encode())
