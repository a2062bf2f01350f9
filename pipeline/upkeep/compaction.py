"""Makes fewer, larger files and frees disk space: `compact` merges files, `vacuum` deletes what no kept state needs.

Merging adds a version in which one file holds the rows of several. Earlier versions keep their own files, so no query
result changes and every snapshot stays readable. Only `vacuum` deletes, and it first shows which files.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.archive.entries import Logged
from pipeline.archive.layout import is_shard, shard_file
from pipeline.archive.parquet import read_parquet, write_parquet
from pipeline.archive.store import NAMES, Store
from pipeline.progress import listed
from pipeline.query import db
from pipeline.query import states as versions
from schemas import TABLES, digest

# Files smaller than this are merged into files of about this size.
TARGET_BYTES = 128 << 20


def compact(store: Store) -> Iterator[str]:
    """Merges small files of every table; yields a line for each table that had some.

    Runs may go on meanwhile: the files that they append are not touched. A merge is dropped if another process was first.
    """
    with store.lock("compact"):
        n_merged = 0
        for name in TABLES:
            merged = [group for group in _groups(store.logged(name)) if _merge(store, name, group)]
            n_merged += len(merged)
            if merged:
                yield f"{name}: {sum(map(len, merged)):,} files merged into {len(merged):,}"
        if n_merged:
            store.snapshot_now("compact")


def _groups(logged: dict[str, Logged]) -> Iterator[list[str]]:
    """Groups of small files, up to the target size. Neighbours by span go together, so that spans stay narrow."""
    group: list[str] = []
    n_bytes = 0
    for path, (size, *_) in sorted(logged.items(), key=lambda item: (item[1].least is not None, item[1].least, item[0])):
        if size >= TARGET_BYTES:
            continue
        if n_bytes + size > TARGET_BYTES and group:
            yield group
            group, n_bytes = [], 0
        group.append(path)
        n_bytes += size
    if len(group) > 1:
        yield group


def _merge(store: Store, name: str, paths: list[str]) -> bool:
    if len(paths) < 2:
        return False
    parts = []
    for path in paths:
        with store.files.open(path) as file:
            parts.append(read_parquet(file, name))
    new = shard_file(f"compact/{digest(*paths)}", name)
    rows = pa.concat_tables(parts)
    store.files.make(new, lambda path: write_parquet(rows, name, path))
    return store.replace(name, paths, [new])


@dataclass(frozen=True)
class VacuumPlan:
    """The effect of a vacuum. `files` has paths with their sizes in bytes, `lost` snapshots that become unreadable."""

    files: dict[str, int]
    kept: int
    lost: list[str]
    lost_passes: int

    def lines(self) -> Iterator[str]:
        yield f"{self.kept:,} snapshots kept; {len(self.files):,} files, {sum(self.files.values()) / 1e6:,.1f} MB to free"
        if self.lost:
            yield (
                f"{len(self.lost):,} snapshots will no longer be readable, {self.lost_passes:,} of them pinned by a "
                f"training pass, which then cannot be repeated: {listed(self.lost)}"
            )


def plan_vacuum(store: Store, keep_snapshots: str) -> VacuumPlan:
    """Finds the files to delete if only these snapshots, and the present state, must stay readable.

    Args:
        keep_snapshots: `all`, `labelled`, a number (that many of the last ones), or names and times with commas between.

    Raises:
        UserError: a name is not that of a snapshot.
    """
    listed = db.query(store, "snapshots_kept").to_pylist()  # oldest first, those with a state
    if keep_snapshots == "all":
        kept = listed
    elif keep_snapshots == "labelled":
        kept = [row for row in listed if row["labelled"]]
    elif keep_snapshots.isdigit():
        kept = listed[-int(keep_snapshots) :] if int(keep_snapshots) else []
    else:
        ids = {versions.resolve(store, name.strip()).snapshot_id for name in keep_snapshots.split(",")}
        kept = [row for row in listed if row["snapshot_id"] in ids]
    wanted = {name: {dict(row["versions"]).get(name, 0) for row in kept} for name in TABLES}
    wanted |= {name: set() for name in NAMES}
    needed, files = dict[str, set[str]](), dict[str, int]()
    for name, numbers in wanted.items():
        needed[name] = set(store.logged(name)).union(*(store.shards(name, number) for number in numbers))
        there = {path: size for path, size in store.files.listing(name).items() if is_shard(path)}
        files |= {path: there[path] for path in sorted(store.ever_logged(name) - needed[name]) if path in there}
    kept_ids = {row["snapshot_id"] for row in kept}
    lost = [
        row
        for row in listed
        if row["snapshot_id"] not in kept_ids
        and any(set(store.shards(name, version)) - needed[name] for name, version in row["versions"])
    ]
    n_passes = sum(row["n_passes"] for row in lost)
    return VacuumPlan(files, len(kept), [row["snapshot_id"] for row in lost], n_passes)


def vacuum(store: Store, plan: VacuumPlan) -> int:
    """Deletes the files of the plan; returns the bytes freed.

    Raises:
        UserError: a run is going on, which may be reading these files.
    """
    with store.alone("vacuum"):
        # Delta's own vacuum is not used: at a checkpoint it forgets files that were removed a week before.
        for path in plan.files:
            store.files.remove(path)
    return sum(plan.files.values())
