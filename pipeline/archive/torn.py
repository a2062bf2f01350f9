"""Puts Delta's log in order after a loss of power: delta-rs never waits for the disk, so the last commit may be torn.

A commit counts as made only once `settle` has put it on disk. A commit that was cut off before that is moved to
quarantine, never deleted; its shard's files are still there, and the run that wrote them commits them again. An empty
commit file is the worst kind: readers take it for a commit that did nothing.
"""

import json
from itertools import count, takewhile

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.files import Files, sync
from pipeline.archive.files import put_aside as quarantine
from pipeline.archive.folder import Folder
from pipeline.archive.layout import QUARANTINE, delta_log
from pipeline.progress import log

LOCK = "torn"


def settle(files: Files, table: str, since: int) -> None:
    """Puts commits and their checkpoints on disk; does nothing in an object store, which keeps what it has accepted.

    These are the commits of version `since` and later: this process's own, and those near it that other processes made
    and may not have put on disk yet. If a commit is on disk but an earlier one is torn, the log ends at the torn one.
    """
    if not isinstance(files, Folder):
        return
    folder = files.local / delta_log(table)
    for version in count(since):
        if (commit := folder / f"{version:020}.json").exists():
            sync(commit)
        elif version > since:  # other tools may have cleared the log up to a checkpoint
            break
        if (checkpoint := folder / f"{version:020}.checkpoint.parquet").exists():
            sync(checkpoint)
    sync(folder)
    if since == 0:  # the folders are new too
        sync(folder.parent)
        sync(files.local)


def put_aside(files: Files, table: str) -> list[str]:
    """Moves torn files at the end of a table's log to quarantine; returns their names."""
    if not isinstance(files, Folder) or not _torn(files, table):
        return []
    with files.lock(LOCK, wait=True):  # another process may have moved it, and made a whole commit of that number
        torn = _torn(files, table)
        for name in torn:
            path = f"{delta_log(table)}/{name}"
            quarantine(files, path)
            log.warning("%s was torn, by a loss of power or a full disk; it is now in %s/", path, QUARANTINE)
    return torn


def _torn(files: Folder, table: str) -> list[str]:
    names = sorted(path.name for path in (files.local / delta_log(table)).glob("*"))
    commits = [name for name in names if name.endswith(".json")]
    checkpoints = [name for name in names if name.endswith(".checkpoint.parquet")]
    lost = [name for name in checkpoints[-1:] if not _is_parquet(files, f"{delta_log(table)}/{name}")]
    if lost:
        lost += {"_last_checkpoint"} & set(names)  # a pointer to a missing checkpoint is an error too

    def is_torn(name: str) -> bool:
        return not _is_commit(files.read(f"{delta_log(table)}/{name}") or b"")

    return [*takewhile(is_torn, reversed(commits)), *lost]


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
