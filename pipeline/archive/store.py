"""The archive's tables in Delta Lake, and how rows are committed to them.

A shard is a set of Parquet files, one per table it adds to, committed under one name. Guarantees:
- all of a shard's files are complete and on disk (fsync, or an object store's promise) before a commit names one;
- each commit carries the shard's name as an application transaction id, so a shard is committed once or not at all;
- a file's name is a digest of its shard's name, so a shard whose run was killed between two commits is completed from the
  files on disk, and no rows are made a second time. Readers find rows through the last table of a shard, so a shard is
  never visible in part.
Two processes never write shards of the same name at a time: the run's lock protects its own shards, `lock` all others.
"""

import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.archive import commits, entries, files, marker, torn
from pipeline.archive.folder import Folder
from pipeline.archive.layout import MARKER, Layout, shard_file, tombstone
from pipeline.archive.locks import Held
from pipeline.archive.parquet import write_parquet
from pipeline.progress import log
from schemas import TABLES, UserError, conform, digest

Versions = dict[str, int]
Sizes = dict[str, int]
# Tables that name states. They are not part of a state, and are always read at their newest version.
NAMES = ("snapshots", "labels")
# Reading a log costs as much as the commits after its last checkpoint. Measured over 400 snapshots: 33 ms each at 100
# commits, which is Delta's default, 18 ms at 25; at 10 it is 15 ms, and the log grows twice as fast.
CHECKPOINT_COMMITS = 25
# How often delta-rs tries again when others commit at the same moment. At its default of 15, ten processes that appended
# 200 times each had 91 of 2,000 refused; at 1,000 none.
RETRIES, ATTEMPTS = 1000, 5
HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


class Store:
    """The tables of one archive. Cheap to make; holds no open files."""

    def __init__(self, root: str | Path, options: Mapping[str, str] | None = None) -> None:
        """Opens an existing archive. An archive of an older reval first gets the columns added since, with a message.

        Args:
            root: a folder, or the URL of one in an object store.
            options: Delta's storage options, in addition to those from the environment.

        Raises:
            UserError: `root` is not an archive, or was written by a newer reval, or by one that is too old.
        """
        self.files = files_at(root, options)
        self.layout = Layout(self.files.uri, self.files.local)
        self.marker = self._read_marker()
        self._tables: dict[str, DeltaTable] = {}
        self._n_rows: dict[str, tuple[int, int]] = {}
        self._made: dict[str, int] = {}  # the CRC-32 of files made and not committed yet
        self._past: dict[tuple[str, int], dict[str, entries.Logged]] = {}
        self._newest: dict[str, tuple[int, dict[str, entries.Logged]]] = {}  # with the version
        if self.marker.outdated:
            self._migrate()

    def _read_marker(self) -> marker.Marker:
        content = self.files.read(MARKER)
        return marker.parse(self.files.uri, content, exists=content is not None or not _absent(self.files))

    @classmethod
    def create(cls, root: str | Path, options: Mapping[str, str] | None = None) -> "Store":
        """Opens the archive at `root`; if there is none, makes an empty one first.

        Raises:
            UserError: `root` holds other files, or an archive of a newer format.
        """
        there = files_at(root, options)
        if cls.vacant(root, options):
            try:
                with there.lock("base", wait=True):  # another process may be making it
                    if cls.vacant(root, options):
                        for name in TABLES:
                            _create_table(there, name)
                        _write_marker(there)
            except (OSError, DeltaError) as error:
                raise UserError(f"archive {root} cannot be made: {error}; choose another with --archive") from error
        return cls(root, options)

    @staticmethod
    def vacant(root: str | Path, options: Mapping[str, str] | None = None) -> bool:
        """Whether an archive can be made at `root`: it is empty, or its creation was begun and never finished."""
        there = files_at(root, options)
        if there.read(MARKER) is not None:
            return False
        return _absent(there) or there.names() <= {*TABLES, files.LOCKS, f".{MARKER}.tmp"}

    def _migrate(self) -> None:
        """Adds to every table the columns it lacks; they are null in the rows written before."""
        with self.lock("migration"):
            self.marker = self._read_marker()  # another process may have done it by now
            for name in self.marker.outdated:
                if name not in self.marker.tables:
                    _create_table(self.files, name)
                    continue
                table = self._table(name)
                before = table.version()
                there = {field.name: field for field in table.schema().fields}
                ours = Schema.from_arrow(TABLES[name].schema).fields
                if added := [field for field in ours if field.name not in there]:
                    table.alter.add_columns(added)
                for field in ours:
                    if field.nullable and field.name in there and not there[field.name].nullable:
                        table.alter.drop_column_not_null(field.name)
                torn.settle(self.files, name, before)
            if self.marker.outdated:
                _write_marker(self.files)
                log.info(
                    "archive %s is of an older reval: its tables %s now have the columns added since; no row was changed",
                    self.layout.root,
                    ", ".join(self.marker.outdated),
                )
                self.marker, self._tables = marker.Marker(), {}

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Lets no run start or go on inside this context.

        Raises:
            UserError: a run is going on; the message says which run, and who started it.
        """
        with ExitStack() as stack:
            # Every run takes the lock `base` when it begins, also the first run of the archive.
            for name in sorted({"base", *self.files.locks()} - {torn.LOCK}):
                try:
                    stack.enter_context(self.lock(name, wait=False))
                except Held as error:
                    raise UserError(f"{what}: {error} now; wait until it is done") from None
            yield

    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
        """Holds a lock on a name within the archive; a lock ends when its process dies.

        Raises:
            Held: another process has it, and `wait` is false.
        """
        return self.files.lock(name, wait=wait)

    def weights(self, location: str) -> Path:
        """The folder of a policy whose row has this location: the user's own, or the archive's; it may not exist."""
        return Path(location) if Path(location).is_absolute() else self.files.bring(location)

    def pruned(self, address: str) -> str | None:
        """The rule that pruned a policy's weights or optimizer state; None: they were not pruned, or are the user's.

        The rule is noted before the first file is deleted, so files that are left may not be complete.
        """
        note = None if Path(address).is_absolute() else self.files.read(tombstone(address))
        return None if note is None else note.decode()

    def _table(self, name: str) -> DeltaTable:
        """The table at its newest version."""
        if name in self._tables:
            self._tables[name].update_incremental()
        else:
            self._tables[name] = self.at(name)
        return self._tables[name]

    def at(self, name: str, version: int | None = None) -> DeltaTable:
        """The table at a version (None: the newest). A commit that a loss of power left torn is moved to quarantine."""
        if name not in self._tables:
            torn.put_aside(self.files, name)
        address = f"{self.layout.root}/{name}"
        return DeltaTable(address, version=version, storage_options=self.files.options or None)

    def versions(self) -> Versions:
        """The newest version of every table except snapshots, which names the others' versions."""
        return {name: self._table(name).version() for name in TABLES if name != "snapshots"}

    def shards(self, name: str, version: int | None = None, *, wanted: entries.FileFilter | None = None) -> Sizes:
        """Paths of the Parquet files that make up a table, with their sizes in bytes, in the same order every time.

        Args:
            wanted: leaves out files that hold no wanted rows, by the least and greatest value of the table's `span`.
        """
        logged = sorted(self.logged(name, version).items())
        return {path: file.size for path, file in logged if wanted is None or file.least is None or wanted(*file[2:])}

    def logged(self, name: str, version: int | None = None) -> dict[str, entries.Logged]:
        """The log's entries for a table's files, by path."""
        if version is not None and (name, version) in self._past:  # a version never changes
            return self._past[name, version]
        table = self._table(name)
        if version is None:
            if self._newest.get(name, (-1, {}))[0] != table.version():
                self._newest[name] = (table.version(), entries.logged(table, name))
            return self._newest[name][1]
        found = entries.logged(table if version == table.version() else self.at(name, version), name)
        self._past[name, version] = found
        return found

    def n_rows(self, name: str, version: int) -> int:
        """The number of rows of a table, from its log. `version` must be its newest version."""
        if self._n_rows.get(name, (-1, 0))[0] != version:
            self._n_rows[name] = (version, self._table(name).count())
        return self._n_rows[name][1]

    def committed(self, shard: str, table: str) -> bool:
        """Whether the shard's rows in `table` are visible."""
        return self._table(table).transaction_version(shard) is not None

    def recover(self, shard: str, tables: tuple[str, ...]) -> bool:
        """Commits a shard whose files were all written before the process that wrote them died.

        Returns whether the shard is committed now; if not, its rows have to be made.
        """
        if self.committed(shard, tables[-1]):
            return True
        if all(self.files.size(shard_file(shard, name)) is not None for name in tables):
            self._commit(shard, dict.fromkeys(tables))
            return True
        return False

    def write(self, shard: str, rows: Mapping[str, pa.Table], *, also: Sequence[str] = ()) -> None:
        """Writes and commits a shard, table by table in the mapping's order; readers find rows through the last one.

        Args:
            also: names of other shards that have the same rows; they count as committed from then on.

        Raises:
            SchemaError: rows do not fit their table. In this case nothing is written.
        """
        fitted = {name: conform(table, name) for name, table in rows.items()}
        for name, table in fitted.items():
            path = shard_file(shard, name)
            self._made[path] = self.files.make(path, partial(write_parquet, table, name))
        self._commit(shard, {name: len(table) for name, table in fitted.items()}, also)

    def snapshot(
        self,
        shard: str,
        stage: str,
        *,
        run_id: str | None = None,
        iteration: int | None = None,
        seconds: float | None = None,
    ) -> str:
        """Names the present state of all tables; returns the snapshot's id. Does nothing if the name is used already."""
        if not self.recover(shard, ("snapshots",)):
            versions = self.versions()
            row = {
                "snapshot_id": snapshot_id(shard),
                "created_at": datetime.datetime.now(datetime.UTC),
                "stage": stage,
                "run_id": run_id,
                "iteration": iteration,
                "seconds": seconds,
                "versions": list(versions.items()),
                "n_rows": [(name, self.n_rows(name, version)) for name, version in versions.items()],
            }
            self.write(shard, {"snapshots": pa.Table.from_pylist([row], TABLES["snapshots"].schema)})
        return snapshot_id(shard)

    def snapshot_now(self, stage: str, *, seconds: float | None = None) -> str:
        """Makes a snapshot that belongs to no run, named after the state; the same state gets only one snapshot."""
        return self.snapshot(f"{stage}/{digest(json.dumps(self.versions()))}", stage, seconds=seconds)

    def _commit(self, shard: str, tables: Mapping[str, int | None], also: Sequence[str] = ()) -> None:
        for name, n_rows in tables.items():
            self.append(name, {shard_file(shard, name): n_rows}, [shard, *also])

    def append(self, name: str, paths: Mapping[str, int | None], shards: list[str]) -> None:
        """Commits Parquet files that are in place, as shards of these names; does nothing if the first one is committed.

        Args:
            paths: the files, with their numbers of rows; None: the number is read from the file.

        Raises:
            UserError: the lock that allowed it was lost to another process.
        """
        adds: list[AddAction | RemoveAction] = [entries.entry(self.files, path, n_rows) for path, n_rows in paths.items()]
        transactions = [Transaction(shard, 1) for shard in shards]
        for attempt in range(ATTEMPTS):
            table = self._table(name)
            # Look up and commit on the same state: Delta does not refuse an id that this state already has.
            if table.transaction_version(shards[0]) is not None:
                return
            try:
                self._transact(table, name, adds, transactions)
                return
            except CommitFailedError:  # other commits were first too often, or the columns changed
                if attempt == ATTEMPTS - 1:
                    raise

    def replace(self, name: str, old: list[str], new: list[str]) -> bool:
        """Replaces files by new ones with the same rows; if `new` is empty, removes files that are lost.

        Earlier versions keep the old files. Returns whether it was done; it is not done if another process was first.
        """
        now, table = int(time.time() * 1000), self._table(name)
        if not set(old) <= set(entries.logged(table, name)):
            return False
        removed = [RemoveAction(path.split("/", 1)[1], data_change=not new, deletion_timestamp=now) for path in old]
        adds = [entries.entry(self.files, path, data_change=False) for path in new]
        try:
            # Delta lets two processes remove the same file, which would double its rows. It refuses this id twice.
            self._transact(table, name, [*adds, *removed], [Transaction("replace", 1)])
        except CommitFailedError:
            return False
        return True

    def _transact(
        self, table: DeltaTable, name: str, actions: list[AddAction | RemoveAction], transactions: list[Transaction]
    ) -> None:
        if self.files.lost:
            raise UserError(f"{self.layout.root}: this process was away too long and another took its lock; run it again")
        before = table.version()
        properties = CommitProperties(
            custom_metadata={
                "crc32": {add.path: self._crc32(f"{name}/{add.path}") for add in actions if isinstance(add, AddAction)}
            },
            app_transactions=transactions,
            max_commit_retries=RETRIES,
        )
        table.create_write_transaction(
            actions,
            mode="append",
            schema=table.schema(),
            commit_properties=properties,
            post_commithook_properties=HOOKS,
        )
        torn.settle(self.files, name, before)

    def _crc32(self, path: str) -> int:
        if path not in self._made:
            with self.files.open(path) as file:
                self._made[path] = files.crc32(file)
        return self._made[path]

    def checksums(self, name: str) -> dict[str, int | None]:
        """Every file that any version of a table names, with the CRC-32 noted at its commit; None: not known."""
        return dict.fromkeys(self.logged(name)) | commits.named(self.files, name)

    def ever_logged(self, name: str) -> set[str]:
        """Every file that any version of a table names."""
        return set(self.checksums(name))

    def transactions(self, name: str, version: int | None = None) -> set[str]:
        """The names of all shards that make up a table at a version."""
        return commits.transactions(self.files, name, version)


def snapshot_id(shard: str) -> str:
    """The id of the snapshot that is made under this shard name."""
    return digest("snapshot", shard)[:12]


def _create_table(there: files.Files, name: str) -> None:
    torn.put_aside(there, name)
    DeltaTable.create(
        f"{there.uri}/{name}",
        TABLES[name].schema,
        mode="ignore",
        name=name,
        description=TABLES[name].doc,
        configuration={"delta.checkpointInterval": str(CHECKPOINT_COMMITS)},
        storage_options=there.options or None,
    )
    torn.settle(there, name, 0)


def _absent(there: files.Files) -> bool:
    if isinstance(there, Folder):
        return not there.local.exists()
    return not there.names()


def _write_marker(there: files.Files) -> None:
    def write(path: Path) -> None:
        path.write_bytes(marker.Marker().dump())

    there.make(MARKER, write)


def files_at(root: str | Path, options: Mapping[str, str] | None = None) -> files.Files:
    """The files of the archive at `root`, a folder or a URL."""
    text = str(root)
    if "://" not in text or text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")).expanduser().resolve())
    from pipeline.archive.bucket import Bucket

    return Bucket(text.rstrip("/"), dict(options or {}))
