"""Brings the rollouts of another archive into this one, which then trains on them and no longer needs the other.

Guarantees: rollouts are copied whole and unchanged, with their prompts, verdicts, and the names of their policies. A
rollout that this archive already has, by its id and its policy's weights, is not added again, whichever copy of an
archive it comes from and in any order. Rows are committed in shards, the import's own row last; an import that was killed
is finished by running it again, even if the other archive has grown since. A problem that is held out here stays so.

Rollouts that the other archive generated get new ids here, digests of their ids and their policy's weights, and its
policies get names that end in their weights' digest. The reason: ids and names follow from a run's name and seed, which
are the same in many archives, so a run here could later make the same ids and names.

Not guaranteed: that rollouts are equal if their ids and weights are. If the engine is not deterministic, a copy of an
archive whose runs went on has other tokens under the same ids; this archive then keeps its own and adds no others.
"""

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.archive import layout
from pipeline.archive.layout import shard_file
from pipeline.archive.store import Store
from pipeline.exchange.imports import SHARD_ROWS, ask
from pipeline.progress import bar, log
from pipeline.query import db, fetch
from pipeline.query import states as versions
from schemas import TABLES, UserError, as_name, digest
from schemas.enums import Imported

# Prompt and response tokens in a shard; with text and log-probs about 100 MB.
SHARD_TOKENS = 8_000_000
# Tables by which both archives are compared.
NARROW = ("prompts", "policies", "trajectories", "verdicts")


@dataclass(frozen=True)
class Brought:
    """The result of an import, as recorded in the archive: rollouts that it added, and that were here before."""

    import_id: str
    already: bool  # the state had been imported before
    n_added: int
    n_known: int


def bring_archives(archive: str, others: Sequence[str], at: str | None, options: Mapping[str, str]) -> None:
    """Brings the rollouts of others, each named ARCHIVE or ARCHIVE@STATE, into an archive; logs how many were added.

    Args:
        at: a state of the archive itself from which a pass will draw.
        options: storage options, the same for all.

    Raises:
        UserError: `at` is given, but an earlier state cannot contain new rollouts; or see `bring_archive`.
    """
    if others and at is not None:
        raise UserError(f"--at {at} names a state of {archive} before others came in; write ARCHIVE@{at} for theirs")
    for text in others:
        address, found, state = text.rpartition("@")
        where = address if found else text
        done = bring_archive(Store(archive, options), Store(where, options), state if found else None)
        log.info("%s: %s rollouts brought in, %s were here", where, f"{done.n_added:,}", f"{done.n_known:,}")


def bring_archive(store: Store, other: Store, at: str | None) -> Brought:
    """Adds the rollouts of `other` that `store` lacks; `at` is a snapshot, label or time of `other` (None: now).

    Memory: a shard, and up to 2 kB for every rollout that is added (measured, at 900,000: 1.7 GB in all).

    Raises:
        UserError: both are the same archive, or there is no such state, or it holds no rollouts.
    """
    if store.files.uri == other.files.uri:
        raise UserError(f"archive {other.layout.root} is named twice: it has its own rollouts already")
    state = versions.resolve(other, at)
    with store.lock("import"):
        _finish(store)
        connection = _both(store, other, state)
        file_digest = _digest(connection)
        begun = store.files.read(layout.begun(other.files.uri))
        # An import that was killed must be finished, since rows here name it, even if nothing is lacking any more.
        found = ask(store, "brought_already", file_digest=file_digest) if begun is None else []
        if not found:
            import_id = _begin(store, other, file_digest) if begun is None else begun.decode()
            n_rollouts = _bring(store, other, connection, import_id)
            n_added = ask(store, "import_counts", import_id=import_id)[0]["n_rollouts"]
            row = {
                "import_id": import_id,
                "kind": Imported.ARCHIVE,
                "file": other.layout.root,
                "file_digest": file_digest,
                "format": "delta",
                "how": json.dumps({"snapshot_id": state.snapshot_id}),
                "n_added": n_added,
                "n_known": n_rollouts - n_added,
                "n_rejected": 0,
                "created_at": datetime.datetime.now(datetime.UTC),
            }
            store.write(f"{import_id}/import", {"imports": pa.Table.from_pylist([row])})
            store.files.remove(layout.begun(other.files.uri))
        recorded = found[0] if found else row
        store.snapshot(f"{recorded['import_id']}/snapshot", "import")
    return Brought(recorded["import_id"], bool(found), recorded["n_added"], recorded["n_known"])


def _finish(store: Store) -> None:
    """Commits the rest of shards of imports that were killed: this import could bring their rows under other names."""
    for note in store.files.listing(layout.BEGUN):
        import_id = (store.files.read(note) or b"").decode()
        for shard in store.transactions("responses"):
            if shard.startswith(f"{import_id}/"):
                rest = (name for name in ("verdicts", "trajectories") if store.files.size(shard_file(shard, name)))
                store.recover(shard, tuple(rest))
        if ask(store, "import_recorded", import_id=import_id):
            store.files.remove(note)


def _begin(store: Store, other: Store, file_digest: str) -> str:
    """A new import id, noted until the import ends: if it is killed, the next run goes on under this id."""
    stem, word = as_name(PurePath(other.layout.root).name)[:54].strip("-._"), file_digest
    while ask(store, "import_recorded", import_id=(import_id := f"{stem}-{word[:8]}")):
        word = digest(word)  # an import that began with this state, and was finished with a later one, has it

    def write(path: Path) -> None:
        path.write_text(import_id)

    store.files.make(layout.begun(other.files.uri), write)
    return import_id


def _both(store: Store, other: Store, state: versions.State) -> duckdb.DuckDBPyConnection:
    """A connection with the tables of the other archive under their names, and those of this archive as here_NAME.

    Raises:
        UserError: the other archive holds no rollouts.
    """
    connection = db.database()
    for name in NARROW:
        db.attach(connection, other, name, other.shards(name, state.versions.get(name, 0)))
        db.attach(connection, store, name, store.shards(name), view=f"here_{name}")
    responses = other.shards("responses", state.versions.get("responses", 0))
    if not responses:
        raise UserError(f"archive {other.layout.root} holds no rollouts in that state")
    db.attach(connection, other, "responses", responses, columns="trajectory_id, filename, file_row_number")
    paths = fetch.addresses(other, responses)
    connection.register("files", pa.table({"filename": list(paths), "path": list(paths.values())}))
    connection.register("named", _names(connection))
    return connection


def _names(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The name here of each policy of the other archive, and whether it is a new name that ends in the weights' digest.

    Two policies are the same if their names and weights are equal. Policies without a location keep their names: they
    came from a third archive, which can recognise them later. The other archive's own get names that no run here takes.
    """
    here = {row["policy_id"]: row["weights_digest"] for row in _policies(connection, "here_policies")}
    known = {(_other_name(*row), row[1]): row[0] for row in here.items()} | {row: row[0] for row in here.items()}
    rows = []
    for row in _policies(connection, "policies"):
        policy_id, weights = row["policy_id"], row["weights_digest"]
        other_name = _other_name(policy_id, weights)
        kept = policy_id if row["location"] is None and policy_id not in here else other_name
        name = known.get((policy_id, weights)) or known.get((other_name, weights)) or kept
        rows.append(
            {
                "their_id": policy_id,
                "policy_id": name,
                "weights": weights or "",
                "tokenizer_digest": row["tokenizer_digest"],
                "renamed": name == other_name,
            }
        )
    return pa.Table.from_pylist(rows)


def _policies(connection: duckdb.DuckDBPyConnection, view: str) -> list[dict[str, Any]]:
    query = f"SELECT policy_id, weights_digest, tokenizer_digest, location FROM {view} ORDER BY policy_id"
    rows: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
    return rows


def _other_name(policy_id: str, weights: str | None) -> str:
    return as_name(f"{policy_id}.{weights[:8] if weights else 'elsewhere'}")


def _digest(connection: duckdb.DuckDBPyConnection) -> str:
    """A digest of the rows of the other archive's state; it is the same for a copy, and after files were merged."""
    found = db.rows(connection, "brought_state").to_pylist()[0]
    return digest("archive", *found["rollouts"], *found["judgements"])


def _bring(store: Store, other: Store, connection: duckdb.DuckDBPyConnection, import_id: str) -> int:
    """Commits the rows that are lacking; returns how many rollouts the other archive's state has."""
    for name in ("matches", "rollouts", "judgements"):
        inputs = {"import_id": import_id} if name == "rollouts" else {}
        connection.execute(f"CREATE TABLE {name} AS {db.sql(f'brought_{name}')}", inputs)
    with bar(f"bring {PurePath(other.layout.root).name}") as progress:
        for name, inputs in (("policies", {}), ("prompts", {"import_id": import_id})):
            for rows in _sliced(db.rows(connection, f"brought_{name}", **inputs)):
                _write(store, import_id, rows.column(0), {name: rows})
        sizes = connection.sql("SELECT n_tokens FROM rollouts ORDER BY place").to_arrow_table()
        for start, stop in _parts(sizes["n_tokens"].to_numpy()):
            progress(start, len(sizes))
            places = f"WHERE place >= {start} AND place < {stop}"
            rollouts = connection.sql(f"SELECT * FROM rollouts {places} ORDER BY place").to_arrow_table()
            judgements = connection.sql(f"SELECT * FROM judgements {places}").to_arrow_table()
            responses = fetch.read(other, rollouts.select(["path", "row"]), TABLES["responses"].schema.names)
            tables = {
                "responses": responses.set_column(0, "trajectory_id", rollouts["trajectory_id"]),
                "verdicts": judgements.drop_columns("place"),
                "trajectories": rollouts.select(TABLES["trajectories"].schema.names),
            }
            _write(store, import_id, rollouts["trajectory_id"], tables)
        of_known = connection.sql("SELECT * EXCLUDE (place) FROM judgements WHERE place IS NULL ORDER BY ALL")
        for rows in _sliced(of_known.to_arrow_table()):
            keys = [word for row in rows.select(TABLES["verdicts"].key).to_pylist() for word in row.values()]
            _write(store, import_id, keys, {"verdicts": rows})
    (n_rollouts,) = connection.execute("SELECT count(*) FROM matches").fetchone() or (0,)
    return int(n_rollouts)


def _write(store: Store, import_id: str, keys: Iterable[Any], tables: Mapping[str, pa.Table]) -> None:
    """Commits a shard, named after its rows, so that the same rows have the same name after an import was killed."""
    shard = f"{import_id}/{digest(*map(str, keys))}"
    store.write(shard, {name: rows for name, rows in tables.items() if len(rows)})


def _parts(n_tokens: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where each shard begins and ends, given the tokens of every rollout."""
    ends, start = np.cumsum(n_tokens), 0
    while start < len(ends):
        full = int(np.searchsorted(ends, ends[start] - n_tokens[start] + SHARD_TOKENS, side="right"))
        stop = min(max(full, start + 1), start + SHARD_ROWS, len(ends))
        yield start, stop
        start = stop


def _sliced(rows: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(rows), SHARD_ROWS):
        yield rows.slice(start, SHARD_ROWS)
