"""Delta's own log after a loss of power: its writer does not wait for the disk, so what it wrote last may be torn.

A commit counts as made only once `settle` has put it on disk. One that was cut before that is put aside, never deleted;
its shard's files are still there, and the run that wrote them commits them again.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import Files, Folder, sync
from pipeline.layout import QUARANTINE, delta_log
from pipeline.progress import log


def settle(files: Files, table: str, version: int) -> None:
    """Has the disk hold a commit and a checkpoint made with it; an object store has them by its own promise."""
    if not isinstance(files, Folder):
        return
    folder = files.local / delta_log(table)
    for name in (f"{version:020}.json", f"{version:020}.checkpoint.parquet", "_last_checkpoint"):
        if (folder / name).exists():
            sync(folder / name)
    sync(folder)


def put_aside(files: Files, table: str) -> list[str]:
    """Moves what is torn at the end of a table's log to quarantine; returns what that was."""
    entries = sorted(files.listing(delta_log(table)))
    commits = [path for path in entries if path.endswith(".json")]
    checkpoints = [path for path in entries if path.endswith(".checkpoint.parquet")]
    pointers = [path for path in entries if path.endswith("_last_checkpoint")]
    torn = [path for path in commits[-1:] if not _is_json_lines(files.read(path) or b"")]
    torn += [path for path in checkpoints[-1:] if not _is_parquet(files, path)]
    if pointers and (any(path in checkpoints for path in torn) or not _is_json_lines(files.read(pointers[0]) or b"")):
        torn += pointers  # readers go without it
    for path in torn:
        files.move(path, f"{QUARANTINE}/{path}")
        log.warning("%s: %s was torn, by a loss of power or a full disk, and is put aside in %s", table, path, QUARANTINE)
    return torn


def _is_json_lines(content: bytes) -> bool:
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
