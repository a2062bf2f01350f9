"""Runs a stage: skips shards that the archive has, commits each new one as soon as it is made, names the final state."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.archive.store import Store


@dataclass(frozen=True)
class Shard:
    """A part of a stage that is committed as a whole.

    `name` says what it holds and is the same on every attempt. `tables` are the tables it adds rows to; readers find rows
    through the last one.
    """

    name: str
    tables: tuple[str, ...]
    compute: Callable[[], Mapping[str, pa.Table]]


def materialise(store: Store, run_id: str, iteration: int, stage: str, plan: Callable[[], Iterable[Shard]]) -> None:
    """Commits the shards of `plan` that are not in the archive yet, and names the final state with a snapshot.

    If the stage is finished, `plan` is not called.
    """
    name = f"{run_id}/{iteration}/{stage}"
    if not store.recover(name, ("snapshots",)):
        seconds = commit(store, name, plan())
        store.snapshot(name, stage, run_id=run_id, iteration=iteration, seconds=seconds)


def commit(store: Store, prefix: str, shards: Iterable[Shard]) -> float | None:
    """Computes and commits each shard that is not in the archive.

    Returns:
        the seconds of planning and computing only; None: some shards were in the archive already, from another process.
    """
    seconds, since, in_one_go = 0.0, time.perf_counter(), True
    for shard in shards:
        name = f"{prefix}/{shard.name}"
        if store.recover(name, shard.tables):
            in_one_go = False
        else:
            rows = shard.compute()
            seconds += time.perf_counter() - since
            store.write(name, {table: rows[table] for table in shard.tables})
            since = time.perf_counter()
    return seconds + time.perf_counter() - since if in_one_go else None
