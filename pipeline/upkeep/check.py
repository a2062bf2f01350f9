"""Checks that the archive is whole: files against the log, rows against one another, weights against digests.

It reads everything once, reports its findings and changes nothing; `repair` does the repairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive import weights as weights_
from pipeline.archive.files import crc32
from pipeline.archive.store import Store
from pipeline.progress import bar
from pipeline.query import db
from pipeline.query import states as versions
from reval.weights import weights_digest
from schemas import TABLES

SHOWN = 5


class Kind(StrEnum):
    ORPHAN = "orphan"  # a file in a table's folder that no version of it names
    DAMAGED = "damaged"  # a file that the log names: missing, or not as it was written
    ROW = "row"  # a row that does not fit the others
    WEIGHTS = "weights"  # a policy's folder: missing, or not as it was written
    STATE = "state"  # a snapshot of a state that the archive does not have


@dataclass(frozen=True)
class Finding:
    """One fault; `where` is a path, a check or an id."""

    kind: Kind
    where: str
    what: str


def check(store: Store, at: str | None = None) -> Iterator[Finding]:
    """All faults of the archive as it was `at` a snapshot, label or time (None: now).

    Raises:
        UserError: `at` names no state.
    """
    state = versions.resolve(store, at).versions
    whole = True
    for finding in files(store, state):
        whole &= finding.kind is not Kind.DAMAGED
        yield finding
    if whole:
        yield from rows(store, state)
        yield from weights(store, state)
    else:
        yield Finding(Kind.STATE, store.layout.root, "rows were not compared: files they are in are damaged")
    yield from states(store)


def files(store: Store, state: dict[str, int]) -> Iterator[Finding]:
    """Compares each table's files with its log: those that the log names, and those that it does not."""
    logged = {name: store.logged(name, state.get(name)) for name in TABLES}
    n_done, n_files = 0, sum(len(found) for found in logged.values())
    with bar("check files") as progress:
        for name, found in logged.items():
            there = {path: size for path, size in store.files.listing(name).items() if "/_delta_log/" not in path}
            checksums = store.checksums(name)
            for path in sorted(set(there) - set(checksums)):
                yield Finding(Kind.ORPHAN, path, "no version of the table names it; its run commits it when it goes on")
            for path, (size, n_rows, *_) in found.items():
                if what := _damage(store, path, there.get(path), size, n_rows, checksums.get(path)):
                    yield Finding(Kind.DAMAGED, path, what)
                n_done += 1
                progress(n_done, n_files)


def _damage(
    store: Store, path: str, size: int | None, logged_size: int, logged_rows: int | None, checksum: int | None
) -> str | None:
    if size is None:
        return "missing"
    if size != logged_size:
        return f"{size:,} bytes, not the {logged_size:,} that were committed"
    try:
        with store.files.open(path) as file:
            if checksum is not None and crc32(file) != checksum:
                return "its checksum is not that of what was committed"
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group)
            n_rows = parquet.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        return f"cannot be read: {str(error).splitlines()[0]}"
    if logged_rows is not None and n_rows != logged_rows:
        return f"{n_rows:,} rows, not the {logged_rows:,} that were committed"
    return None


def rows(store: Store, state: dict[str, int]) -> Iterator[Finding]:
    """Runs every query of sql/checks and looks for keys that occur twice."""
    connection = db.connect(store, state)
    queries = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "sql" / "checks").glob("*.sql"))}
    queries |= {f"{name}_have_unique_keys": unique(name) for name in TABLES}
    with bar("check rows") as progress:
        for n_done, (name, query) in enumerate(queries.items()):
            progress(n_done, len(queries))
            found = connection.execute(query).fetchall()
            for row, problem in found[:SHOWN]:
                yield Finding(Kind.ROW, f"{name}: {row}", problem)
            if len(found) > SHOWN:
                yield Finding(Kind.ROW, name, f"and {len(found) - SHOWN:,} more like these")


def unique(name: str) -> str:
    """A query for the keys that a table has more than once."""
    return (
        f"SELECT {db.key_text(name)} AS row, 'there ' || count(*) || ' times' AS problem "
        f'FROM "{name}" GROUP BY {", ".join(db.key(name))} HAVING count(*) > 1'
    )


def weights(store: Store, state: dict[str, int]) -> Iterator[Finding]:
    """Compares the weights in the archive with their digests, and looks for weights that were pruned only in part."""
    for address in weights_.cut_short(store):
        yield Finding(Kind.WEIGHTS, address, "it was pruned, and part of it is left; its run takes that when it goes on")
    pruned = weights_.pruned(store)
    query = "SELECT policy_id, location, weights_digest FROM policies"
    found = db.connect(store, state, only=query).execute(query).fetchall()
    with bar("check weights") as progress:
        for n_done, (policy_id, location, expected) in enumerate(found):
            progress(n_done, len(found))
            if location is None or location in pruned:
                continue
            folder = store.weights(location)
            if not folder.is_dir():
                yield Finding(Kind.WEIGHTS, policy_id, f"its folder {folder} is gone")
            elif weights_digest(folder) != expected:
                yield Finding(Kind.WEIGHTS, policy_id, f"the weights in {folder} are not those that were written")


def states(store: Store) -> Iterator[Finding]:
    """Looks for snapshots of versions that no table has."""
    newest = store.versions()
    query = "SELECT snapshot_id, versions FROM snapshots"
    for snapshot_id, named in db.connect(store, only=query).execute(query).fetchall():
        for name, version in (named or {}).items():
            if version > newest.get(name, -1):
                yield Finding(Kind.STATE, f"snapshot {snapshot_id}", f"version {version} of {name} is not there")
