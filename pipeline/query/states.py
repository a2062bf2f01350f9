"""States of the archive by name (a snapshot's id, a label or a time), and the differences between two states."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from pipeline.archive import commits
from pipeline.archive.store import NAMES, Store, Versions
from pipeline.query import db
from schemas import TABLES, UserError, check_name

NOW = "now"


@dataclass(frozen=True)
class State:
    """One state of an archive; snapshot_id None: the present state, or a state without a name."""

    snapshot_id: str | None
    versions: Versions


def resolve(store: Store, at: str | None) -> State:
    """The state that `at` names: a snapshot, a label, a time in ISO 8601 (UTC unless it says), `now` or None.

    A time means the last snapshot made until then.

    Raises:
        UserError: it names no state, or one that is not in this archive or was freed.
    """
    if at is None or at == NOW:
        return State(None, store.versions())
    found = db.query(store, "snapshot_named", name=at).to_pylist()
    if not found and (time := _time(at)) is not None:
        found = db.query(store, "snapshot_at", time=time).to_pylist()
        if not found:
            raise UserError(f"--at {at}: the archive's first snapshot is younger; `reval snapshots` lists them")
    if not found:
        raise UserError(
            f"snapshot {at!r} is not in the archive, nor is it a label or a time like 2026-11-22T18:00; "
            "`reval snapshots` lists them"
        )
    if found[0]["versions"] is None:
        raise UserError(
            f"snapshot {found[0]['snapshot_id']} came with an import: its name is here, its state is not; use --at now"
        )
    state = State(found[0]["snapshot_id"], dict(found[0]["versions"]))
    if (path := _freed(store, state)) is not None:
        raise UserError(
            f"snapshot {state.snapshot_id}: it can no longer be read: `reval vacuum` freed {path}; "
            "`reval snapshots` lists others"
        )
    return state


def _freed(store: Store, state: State) -> str | None:
    """A file of the state that the archive no longer has, None if there is none. Skips files of the present state."""
    for name, version in state.versions.items():
        if commits.is_newest(store.files, name, version):
            continue
        older = set(store.shards(name, version)) - set(store.shards(name))
        if older and (freed := older - set(store.files.listing(name))):
            return min(freed)
    return None


def _time(text: str) -> datetime | None:
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def tag(store: Store, at: str, label: str) -> str:
    """Gives a snapshot a label; returns the snapshot's id. A label names one snapshot for ever.

    Raises:
        UserError: there is no such snapshot, or the label names another one, or it has another meaning in a command.
    """
    check_name("label", label)
    if label == NOW or _time(label) is not None:
        raise UserError(f"label {label!r} would be read as a time; choose another")
    if label in ("all", "labelled") or label.isdigit():
        raise UserError(f"label {label!r} means something else to `reval vacuum --keep-snapshots`; choose another")
    with store.lock("labels"):
        snapshot_id = resolve(store, at).snapshot_id or _newest(store)
        taken = db.query(store, "snapshot_named", name=label).to_pylist()
        if taken and taken[0]["snapshot_id"] != snapshot_id:
            raise UserError(f"label {label!r} is taken: it names snapshot {taken[0]['snapshot_id']}; choose another")
        if not taken:
            row = {"label": label, "snapshot_id": snapshot_id, "created_at": datetime.now(UTC)}
            store.write(f"label/{label}", {"labels": pa.Table.from_pylist([row], TABLES["labels"].schema)})
    return snapshot_id


def _newest(store: Store) -> str:
    found = db.query(store, "newest_snapshot")["snapshot_id"].to_pylist()
    if not found:
        raise UserError("the archive has no snapshot yet; every stage makes one")
    return str(found[0])


@dataclass(frozen=True)
class Difference:
    """How one table differs between two states: rows whose key is only in one of them, and rows with other values."""

    table: str
    n_equal: int
    only_a: int
    only_b: int
    changed: int

    @property
    def equal(self) -> bool:
        return not (self.only_a or self.only_b or self.changed)


def diff(a: Store, at_a: State, b: Store, at_b: State) -> Iterator[Difference]:
    """Compares two states, of one archive or of two, table by table and value by value.

    Snapshots and labels are left out, because they only name states. Files that both states have in common are not read;
    their rows count as equal.
    """
    for name in TABLES:
        if name in NAMES:
            continue
        files_a, files_b = a.logged(name, at_a.versions.get(name, 0)), b.logged(name, at_b.versions.get(name, 0))
        common = set(files_a) & set(files_b) if a.layout.root == b.layout.root else set()
        n_common = sum(files_a[path].n_rows for path in common)
        connection = db.database()
        for side, store, listed in (("a", a, files_a), ("b", b, files_b)):
            differing = {path: file.size for path, file in listed.items() if path not in common}
            db.attach(connection, store, name, differing, view=side)
        yield _difference(connection, name, n_common)


def _difference(connection: duckdb.DuckDBPyConnection, name: str, n_common: int) -> Difference:
    # The join has only the key and a hash of each row, so that a table of token lists is not held in memory.
    a, b = (f"SELECT *, hash({side}) AS hashed FROM {side}" for side in "ab")
    found = connection.execute(
        "SELECT count(*) FILTER (a.hashed = b.hashed), count(*) FILTER (b.hashed IS NULL), "
        "count(*) FILTER (a.hashed IS NULL), count(*) FILTER (a.hashed <> b.hashed) "
        f"FROM ({a}) a FULL JOIN ({b}) b ON {db.same_key(name, 'a', 'b')}"
    ).fetchone()
    assert found is not None
    return Difference(name, n_common + found[0], *found[1:])
