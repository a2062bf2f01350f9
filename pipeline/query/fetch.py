"""Fetches the responses of given rollouts, and reads only the row groups that hold them."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.store import Store
from pipeline.query import db
from schemas import TABLES

TOKEN_IDS = ("prompt_token_ids", "response_token_ids")


def fetch(store: Store, trajectory_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The columns of responses for these rollouts, in their order; an id given twice gets two rows.

    Raises:
        LookupError: a rollout has no response.
    """
    return read(store, locate(store, trajectory_ids), columns)


def locate(store: Store, trajectory_ids: Sequence[str]) -> pa.Table:
    """Where the response of each rollout is: path, and row in that file, in the rollouts' order. Reads only ids.

    Raises:
        LookupError: a rollout has no response.
    """
    shards = store.shards("responses")
    if not shards:
        raise LookupError("there are no responses")
    connection = db.database()
    db.attach(connection, store, "responses", shards, columns="trajectory_id, filename, file_row_number")
    wanted = pa.table({"trajectory_id": pa.array(trajectory_ids, pa.string()), "place": range(len(trajectory_ids))})
    connection.register("wanted", wanted)
    found = connection.sql(
        "SELECT w.trajectory_id, r.filename AS path, r.file_row_number AS row "
        "FROM wanted w LEFT JOIN responses r USING (trajectory_id) ORDER BY w.place"
    ).to_arrow_table()
    if found["path"].null_count or len(found) != len(wanted):
        raise LookupError(f"{found['path'].null_count} of {len(wanted)} rollouts have no response")
    paths = addresses(store, shards)
    return found.set_column(1, "path", pa.array([paths[path] for path in found["path"].to_pylist()]))


def addresses(store: Store, shards: Iterable[str]) -> dict[str, str]:
    """Paths of files of responses, by the value of the column `filename` in the view `responses`."""
    return {f"{store.layout.root}/{path}": path for path in shards} | {f"responses://{path}": path for path in shards}


def read(store: Store, located: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The columns of responses at places that `locate` found. The cost depends on the row groups, not on the archive."""
    paths = located["path"].to_pylist()
    rows = located["row"].to_numpy()
    places: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        places.setdefault(path, []).append(place)

    schema = pa.schema([TABLES["responses"].schema.field(name) for name in columns])

    def one(path: str) -> pa.Table:
        with store.files.open(path) as file:
            found = _rows(pq.ParquetFile(file, pre_buffer=True), rows[places[path]], columns)
        return found.select(schema.names).cast(schema)  # an older file does not allow null where newer ones do

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        parts = list(threads.map(one, places))
    order = np.argsort([place for part in places.values() for place in part])
    return pa.concat_tables(parts).take(order) if parts else schema.empty_table()


def _rows(parquet: pq.ParquetFile, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Rows of a file, in the given order; reads only the row groups that hold them."""
    ends = np.cumsum([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)])
    groups = np.searchsorted(ends, rows, side="right")
    wanted = np.unique(groups)
    read = parquet.read_row_groups(wanted.tolist(), columns=list(columns), use_threads=False)
    sizes = np.diff(ends, prepend=0)[wanted]
    starts = np.cumsum(sizes) - sizes  # where each group begins in `read`
    in_group = rows - (ends - np.diff(ends, prepend=0))[groups]
    return read.take(starts[np.searchsorted(wanted, groups)] + in_group)
