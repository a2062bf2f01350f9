"""The archive's tables: Delta Lake, one writer's discipline.

A shard is a set of Parquet files, one per table it adds to, committed under one name. Guarantees:
- all of a shard's files are complete and on disk (fsync) before the first commit names one of them;
- each commit carries the shard's name as an application transaction id, so a shard is committed once or not at all;
- a file's name is a digest of its shard's, so a run killed between two commits of a shard is finished from the files
  on disk, and what one table already shows is never made anew for the other. The last table of a shard is the one
  through which readers look, so nothing is half visible.
Not guaranteed here: two processes writing shards of the same name at the same time.
"""

import datetime
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.transaction import AddAction

from pipeline.layout import Layout
from schemas import TABLES, UserError, conform, digest

Versions = dict[str, int]

# Reading a log costs what came after its last checkpoint. Measured over 400 snapshots: 33 ms each at 100 commits, which
# is Delta's default, 18 ms at 25; at 10 it is 15 ms, and the log grows twice as fast.
CHECKPOINT_COMMITS = 25


class Store:
    """Handles on the tables of one archive. Cheap to make; holds no locks and no open files."""

    def __init__(self, root: str | Path) -> None:
        """Opens an existing archive.

        Raises:
            UserError: `root` is not an archive, or was written by a newer reval.
        """
        self.layout = Layout(Path(root).expanduser().resolve())
        self.layout.check()
        self._tables: dict[str, DeltaTable] = {}
        self._n_rows: dict[str, tuple[int, int]] = {}

    @classmethod
    def create(cls, root: str | Path) -> "Store":
        """Opens the archive at `root`, making an empty one first where there is nothing.

        Raises:
            UserError: `root` holds other files, or an archive of a newer format.
        """
        if cls.vacant(root):
            layout = Layout(Path(root).expanduser().resolve())
            try:
                layout.root.mkdir(parents=True, exist_ok=True)
                for table in TABLES.values():
                    DeltaTable.create(
                        str(layout.table(table.name)),
                        table.schema,
                        mode="ignore",
                        name=table.name,
                        description=table.doc,
                        configuration={"delta.checkpointInterval": str(CHECKPOINT_COMMITS)},
                    )
                layout.claim()
            except OSError as error:
                raise UserError(f"archive {root} cannot be made: {error}; choose another with --archive") from error
        return cls(root)

    @staticmethod
    def vacant(root: str | Path) -> bool:
        """Whether an archive can be made at `root`: there is nothing, or one that was begun and never finished."""
        layout = Layout(Path(root).expanduser().resolve())
        if layout.marker.exists() or not layout.root.exists():
            return not layout.root.exists()
        return layout.root.is_dir() and {path.name for path in layout.root.iterdir()} <= {*TABLES, "reval.tmp"}

    def _table(self, name: str) -> DeltaTable:
        """The table at its newest version."""
        if name in self._tables:
            self._tables[name].update_incremental()
        else:
            self._tables[name] = DeltaTable(str(self.layout.table(name)))
        return self._tables[name]

    def versions(self) -> Versions:
        """The newest version of every table except snapshots, which names the others' versions."""
        return {name: self._table(name).version() for name in TABLES if name != "snapshots"}

    def files(self, name: str, version: int | None = None) -> list[str]:
        """Addresses of the Parquet files that make up a table, in the same order every time."""
        table = self._table(name)
        if version is not None and version != table.version():
            table = DeltaTable(str(self.layout.table(name)), version=version)
        return sorted(table.file_uris())

    def n_rows(self, name: str, version: int) -> int:
        """Rows of a table at a version, as its log has them."""
        if self._n_rows.get(name, (-1, 0))[0] != version:
            self._n_rows[name] = (version, self._table(name).count())
        return self._n_rows[name][1]

    def committed(self, shard: str, table: str) -> bool:
        """Whether the shard's rows in `table` are visible."""
        return self._table(table).transaction_version(shard) is not None

    def recover(self, shard: str, tables: tuple[str, ...]) -> bool:
        """Finishes a shard whose files were all written before its writer died.

        Returns whether the shard is committed now; if not, it has to be made.
        """
        if self.committed(shard, tables[-1]):
            return True
        if all(self._file(shard, name).exists() for name in tables):
            self._commit(shard, tables)
            return True
        return False

    def write(self, shard: str, rows: Mapping[str, pa.Table]) -> None:
        """Writes and commits a shard: the tables in the mapping's order, the one readers look through last.

        Raises:
            SchemaError: rows do not fit their table. Nothing is written then.
        """
        fitted = {name: conform(table, name) for name, table in rows.items()}
        for name, table in fitted.items():
            self._write_file(self._file(shard, name), table)
        self._commit(shard, tuple(fitted))

    # STAND-IN, to be replaced by the real lock: same name and signature.
    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
        """Holds the archive's lock of that name for as long as the block runs."""
        return nullcontext()

    def snapshot(
        self,
        shard: str,
        stage: str,
        *,
        run_id: str | None = None,
        iteration: int | None = None,
        seconds: float | None = None,
    ) -> str:
        """Names the present state of all tables; returns the snapshot's id. Under a name already used, does nothing."""
        snapshot_id = digest("snapshot", shard)[:12]
        if not self.recover(shard, ("snapshots",)):
            row = {
                "snapshot_id": snapshot_id,
                "created_at": datetime.datetime.now(datetime.UTC),
                "stage": stage,
                "run_id": run_id,
                "iteration": iteration,
                "seconds": seconds,
                "versions": list((versions := self.versions()).items()),
                "n_rows": [(name, self.n_rows(name, version)) for name, version in versions.items()],
            }
            self.write(shard, {"snapshots": pa.Table.from_pylist([row], TABLES["snapshots"].schema)})
        return snapshot_id

    def _file(self, shard: str, table: str) -> Path:
        return self.layout.table(table) / f"part-{digest(shard)}.parquet"

    def _write_file(self, path: Path, rows: pa.Table) -> None:
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(rows, temporary, compression="zstd")
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)

    def _commit(self, shard: str, tables: tuple[str, ...]) -> None:
        for name in tables:
            if self.committed(shard, name):
                continue
            path = self._file(shard, name)
            status = path.stat()
            n_rows = pq.read_metadata(path).num_rows
            add = AddAction(
                path.name,
                status.st_size,
                partition_values={},
                modification_time=int(time.time() * 1000),
                data_change=True,
                stats=f'{{"numRecords": {n_rows}}}',
            )
            self._table(name).create_write_transaction(
                [add],
                mode="append",
                schema=self._table(name).schema(),
                commit_properties=CommitProperties(app_transactions=[Transaction(shard, 1)]),
                post_commithook_properties=PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False),
            )


def sync(path: Path) -> None:
    """Has the operating system put a file, or a directory's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
