"""Writes a state of the archive, or the rows of a query, as a folder of plain Parquet files with a manifest.

The folder appears only when it is complete. `manifest.json` names every file with its number of rows and its SHA-256. A
state has a folder per table, and `shards.parquet`: the names under which rows were committed, so that a run can go on in
the archive that imports it. Snapshots are exported as names only, since earlier states are not exported.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive import weights as weights_
from pipeline.archive.files import sync
from pipeline.archive.layout import tombstone
from pipeline.archive.parquet import write_parquet
from pipeline.archive.store import Store, snapshot_id
from pipeline.progress import bar, listed, log
from pipeline.query import db
from pipeline.query import states as versions
from schemas import READABLE_SINCE, TABLES, UserError, conform

EXPORT_FORMAT = 1
MANIFEST, SHARDS, ROWS = "manifest.json", "shards.parquet", "rows.parquet"
SHARDS_SCHEMA = pa.schema([("table", pa.string()), ("shard", pa.string())])
# Rows of a file; an import holds one file in memory.
FILE_ROWS = {name: 20_000 if name == "responses" else 500_000 for name in TABLES}


@dataclass(frozen=True)
class File:
    """A file of an export."""

    path: str
    n_rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of an export. snapshot_id None: the state had no name. query None: a whole state, no query's rows."""

    export_format: int
    readable_since: str
    snapshot_id: str | None
    query: str | None
    tables: dict[str, int]
    files: list[File]

    def of(self, table: str) -> list[File]:
        return [file for file in self.files if file.path.startswith(f"{table}/")]


def export_state(store: Store, at: str | None, out: Path, *, weights: bool = False) -> Manifest:
    """Writes every table as it was `at` a snapshot, label or time (None: now) to the folder `out`.

    Args:
        weights: also copy the policies' folders and optimizer states; if they were pruned, the note of that.

    Raises:
        UserError: there is no such state, or `out` exists and is not empty.
    """
    state = versions.resolve(store, at)
    connection = db.connect(store, state.versions)
    snapshots = _names(connection, state)
    connection.register("named", snapshots)
    with _folder(out) as folder, bar("export") as progress:
        files, shards = list[File](), list[dict[str, str]]()
        for n_done, name in enumerate(TABLES):
            progress(n_done, len(TABLES))
            if name == "snapshots":
                files += _write(iter([snapshots]), name, folder)
            else:
                only = "SEMI JOIN named USING (snapshot_id)" if name == "labels" else ""
                files += _write(_chunks(connection, f'SELECT * FROM "{name}" {only}', name), name, folder)
            shards += [{"table": name, "shard": shard} for shard in _shards(store, name, state, snapshots)]
        pq.write_table(pa.Table.from_pylist(shards, SHARDS_SCHEMA), folder / SHARDS)
        files.append(_file(folder, SHARDS, len(shards)))
        if weights:
            pruned = weights_.pruned(store)
            if missing := [policy for policy, address, _ in policy_files(store, connection) if address in pruned]:
                log.warning("without the weights of %s: they were pruned", listed(missing))
            for _, *addresses in policy_files(store, connection):
                for address in (tombstone(found) if found in pruned else found for found in addresses):
                    if (there := store.files.bring(address)).exists():
                        copy(there, folder / address)
        tables = {name: table.version for name, table in TABLES.items()}
        manifest = Manifest(EXPORT_FORMAT, READABLE_SINCE, state.snapshot_id, None, tables, files)
        _settle(folder, manifest)
    return manifest


def export_query(store: Store, at: str | None, query: str, out: Path) -> Manifest:
    """Writes the rows of a user's SELECT to the folder `out`.

    Raises:
        UserError: the query fails, there is no such state, or `out` exists and is not empty.
    """
    state = versions.resolve(store, at)
    reader = db.ask(store, query, state.versions)
    with _folder(out) as folder:
        n_rows = 0
        with pq.ParquetWriter(folder / ROWS, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                n_rows += len(batch)
        manifest = Manifest(EXPORT_FORMAT, READABLE_SINCE, state.snapshot_id, query, {}, [_file(folder, ROWS, n_rows)])
        _settle(folder, manifest)
    return manifest


def policy_files(store: Store, connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str, str]]:
    """Each policy whose weights are in the archive, with the addresses of its weights and its optimizer state."""
    inside = "SELECT policy_id, location FROM policies WHERE NOT starts_with(location, '/') ORDER BY policy_id"
    for policy_id, location in connection.execute(inside).fetchall():
        yield (policy_id, location, store.layout.relative(store.layout.optimizer(policy_id)))


def copy(there: Path, here: Path) -> None:
    """Copies a file or a folder."""
    here.parent.mkdir(parents=True, exist_ok=True)
    if there.is_dir():
        shutil.copytree(there, here)
    else:
        shutil.copy2(there, here)


def _names(connection: duckdb.DuckDBPyConnection, state: versions.State) -> pa.Table:
    """The snapshots up to a state, without table versions, which have no meaning in another archive."""
    rows = connection.sql("SELECT * FROM snapshots ORDER BY created_at, snapshot_id").to_arrow_table().to_pylist()
    kept = [
        {**row, "versions": None}
        for row in rows
        if row["versions"] is None or all(state.versions.get(name, 0) >= v for name, v in dict(row["versions"]).items())
    ]
    return pa.Table.from_pylist(kept, TABLES["snapshots"].schema)


def _shards(store: Store, name: str, state: versions.State, snapshots: pa.Table) -> Iterator[str]:
    if name == "snapshots":
        ids = set(snapshots["snapshot_id"].to_pylist())
        yield from (shard for shard in store.transactions(name) if snapshot_id(shard) in ids)
    elif name != "labels":
        yield from store.transactions(name, state.versions.get(name, 0))


def _chunks(connection: duckdb.DuckDBPyConnection, query: str, name: str) -> Iterator[pa.Table]:
    """A query's rows, in tables as large as a file may be."""
    waiting: list[pa.RecordBatch] = []
    n_rows = 0
    for batch in connection.sql(query).to_arrow_reader(20_000):
        waiting.append(batch)
        n_rows += len(batch)
        if n_rows >= FILE_ROWS[name]:
            yield pa.Table.from_batches(waiting)
            waiting, n_rows = [], 0
    if n_rows:
        yield pa.Table.from_batches(waiting)


def _write(chunks: Iterator[pa.Table], name: str, folder: Path) -> Iterator[File]:
    (folder / name).mkdir()
    for number, rows in enumerate(chunks):
        path = f"{name}/{number:05}.parquet"
        write_parquet(conform(rows, name), name, folder / path)
        yield _file(folder, path, len(rows))


def _file(folder: Path, path: str, n_rows: int) -> File:
    sync(folder / path)
    return File(path, n_rows, sha256(folder / path))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A temporary folder to write in; it becomes `out` if there is no error, else it is removed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"export: {out} is there already and not empty; name a folder that is not there yet")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
        sync(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    sync(folder / MANIFEST)
    sync(folder)
