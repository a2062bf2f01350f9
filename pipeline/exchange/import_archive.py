"""Brings an export of `reval export` into an archive: adds the rows that are not there yet, unchanged.

If the archive has a row with the same key and other values, the import stops before anything is written: two archives may
use one name for two things. Runs go on in the new archive where they stopped in the old one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.layout import tombstone
from pipeline.archive.marker import check_readable
from pipeline.archive.parquet import read_parquet
from pipeline.archive.store import NAMES, Store
from pipeline.archive.weights import PRUNING
from pipeline.exchange.export import EXPORT_FORMAT, MANIFEST, SHARDS, File, Manifest, copy, policy_files, sha256
from pipeline.progress import bar
from pipeline.query import db
from schemas import TABLES, UserError, digest


@dataclass(frozen=True)
class ArchiveImportResult:
    """Numbers of rows, over all tables, that were added and that were there already."""

    n_added: int
    n_known: int
    snapshot_id: str | None


def is_export(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export; compares every file with it.

    Raises:
        UserError: the manifest is damaged, of a newer reval or too old, or a file is not as it was exported.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text())
        manifest = Manifest(**{**found, "files": [File(**file) for file in found["files"]]})
        check_readable(str(folder), manifest.export_format, EXPORT_FORMAT, manifest.readable_since, manifest.tables)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / MANIFEST} is not what `reval export` writes: {error}") from None
    with bar("check the export") as progress:
        for n_done, file in enumerate(manifest.files):
            progress(n_done, len(manifest.files))
            path = folder / file.path
            if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
                raise UserError(f"{path} is missing; the export is not whole")
            if sha256(path) != file.sha256:
                raise UserError(f"{path} is not as it was exported (SHA-256 differs); export again")
    return manifest


def import_archive(archive: str, folder: Path, manifest: Manifest) -> ArchiveImportResult:
    """Adds all rows of an exported state that the archive lacks. If there is no archive, one is made.

    Args:
        manifest: the folder's, from `read_manifest`.

    Raises:
        UserError: the archive has a row with the same key and other values.
    """
    store = Store.create(archive)
    stem = f"export/{digest(*(file.sha256 for file in manifest.files))}"
    with store.lock("import"):
        was_empty = not any(store.shards(name) for name in TABLES)
        if not was_empty:
            _refuse_other_values(store, folder, manifest)
        shards = pq.read_table(folder / SHARDS).to_pylist()
        n_added = n_rows = 0
        with bar("import") as progress:
            for name in TABLES:
                carried = [row["shard"] for row in shards if row["table"] == name]
                files = manifest.of(name)
                for number, file in enumerate(files):
                    rows = _new(store, name, folder / file.path)
                    if name == "snapshots" and was_empty:
                        rows = _as_here(rows, manifest.snapshot_id, store)
                    last = number == len(files) - 1
                    if len(rows):
                        store.write(f"{stem}/{file.path}", {name: rows}, also=carried if last else [])
                    n_added, n_rows = n_added + len(rows), n_rows + file.n_rows
                    progress(n_rows, sum(each.n_rows for each in manifest.files))
        for _, *addresses in policy_files(store, db.connect(store, only="policies")):
            for address in addresses:
                _bring_weights(store, folder, address)
        store.snapshot(f"{stem}/snapshot", "import")
    return ArchiveImportResult(n_added, n_rows - n_added, manifest.snapshot_id)


def _bring_weights(store: Store, folder: Path, address: str) -> None:
    """Copies a policy's weights or optimizer state from the export, or the note that they were pruned."""
    note = tombstone(address)
    pruned_here = store.pruned(address) is not None
    if not pruned_here and store.files.bring(address).exists():
        return
    if (folder / address).exists():
        with store.lock(PRUNING):
            store.files.clear(address)  # an interrupted pruning may have left files
            copy(folder / address, kept := store.layout.local / address)
            store.files.persist(kept)
            store.files.remove(note)
    elif (folder / note).exists() and not pruned_here:
        store.files.make(note, lambda path: copy(folder / note, path))


def _incoming(store: Store, name: str, path: Path) -> duckdb.DuckDBPyConnection:
    connection = db.connect(store, only=f'"{name}"')
    connection.register("incoming", read_parquet(path, name))
    return connection


def _new(store: Store, name: str, path: Path) -> pa.Table:
    """The rows of a file whose keys the archive does not have."""
    query = f'SELECT * FROM incoming ANTI JOIN "{name}" here ON {db.same_key(name, "incoming", "here")}'
    return _incoming(store, name, path).sql(query).to_arrow_table()


def _refuse_other_values(store: Store, folder: Path, manifest: Manifest) -> None:
    for name in TABLES:
        if name in NAMES:
            continue  # a snapshot may have a state here, and only a name in the export
        query = (
            f"SELECT {db.key_text(name, 'a')} FROM (SELECT *, hash(incoming) AS hashed FROM incoming) a "
            f'JOIN (SELECT *, hash(t) AS hashed FROM "{name}" t) b ON {db.same_key(name, "a", "b")} '
            "WHERE a.hashed <> b.hashed LIMIT 1"
        )
        for file in manifest.of(name):
            if found := _incoming(store, name, folder / file.path).execute(query).fetchone():
                raise UserError(
                    f"{folder / file.path}: {name} {found[0]} is another one in {store.layout.root}; nothing was imported"
                )


def _as_here(rows: pa.Table, snapshot_id: str | None, store: Store) -> pa.Table:
    """Gives the exported snapshot the versions of a new archive, whose state it is after all other tables came in."""
    versions = [(name, version) for name, version in store.versions().items() if name not in NAMES]
    found = [row | ({"versions": versions} if row["snapshot_id"] == snapshot_id else {}) for row in rows.to_pylist()]
    return pa.Table.from_pylist(found, TABLES["snapshots"].schema)
