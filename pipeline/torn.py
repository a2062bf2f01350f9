"""Delta's own log after a loss of power: delta-rs never waits for the disk, so what it wrote last may be torn.

A commit counts as made only once `settle` has put it on disk. One that was cut before that is put aside, never deleted;
its shard's files are still there, and the run that wrote them commits them again. An empty commit file is the worst
kind: readers take it for a commit that did nothing.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import Files, Folder, sync
from pipeline.files import put_aside as quarantine
from pipeline.layout import QUARANTINE, delta_log
from pipeline.progress import log


def settle(files: Files, table: str, version: int) -> None:
    """Has the disk hold a commit and a checkpoint made with it; an object store has them by its own promise."""
    if not isinstance(files, Folder):
        return
    folder = files.local / delta_log(table)
    for name in (f"{version:020}.json", f"{version:020}.checkpoint.parquet"):
        if (folder / name).exists():
            sync(folder / name)
    sync(folder)


def put_aside(files: Files, table: str) -> list[str]:
    """Moves what is torn at the end of a table's log to quarantine; returns what that was."""
    if not isinstance(files, Folder):
        return []
    names = sorted(path.name for path in (files.local / delta_log(table)).glob("*"))
    commits = [name for name in names if name.endswith(".json")]
    checkpoints = [name for name in names if name.endswith(".checkpoint.parquet")]
    torn = [name for name in commits[-1:] if not _is_commit(files.read(f"{delta_log(table)}/{name}") or b"")]
    if any(not _is_parquet(files, f"{delta_log(table)}/{name}") for name in checkpoints[-1:]):
        torn += [checkpoints[-1], *({"_last_checkpoint"} & set(names))]  # a pointer to nothing is an error too
    for name in torn:
        path = f"{delta_log(table)}/{name}"
        quarantine(files, path)
        log.warning("%s was torn, by a loss of power or a full disk; it is now in %s/", path, QUARANTINE)
    return torn


def _is_commit(content: bytes) -> bool:
    try:
        return bool([json.loads(line) for line in content.splitlines()])
    except ValueError:
        return False


def _is_parquet(files: Files, path: str) -> bool:
    try:
        with files.open(path) as file:
            pq.read_metadata(file)
    except (pa.ArrowException, OSError):
        return False
    return True
