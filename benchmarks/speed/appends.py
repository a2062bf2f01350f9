"""Many processes append to one archive: how long it takes, and whether every row is there exactly once.

    python -m benchmarks.speed.appends [ARCHIVE] [--processes 10] [--appends 200]

ARCHIVE is a folder (default: a temporary one) or s3://bucket/folder; it is made if it does not exist. Every append is a
shard of one row with its own commit. This is the worst case: a run appends about ten shards per iteration.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from pipeline.archive.store import Store
from pipeline.query import db
from schemas import TABLES


def append(archive: str, writer: int, n: int) -> None:
    """The part of one process; it begins when its standard input ends."""
    store = Store(archive)
    store.versions()
    print("ready", flush=True)
    sys.stdin.read()
    for number in range(n):
        row = {
            "trajectory_id": f"{writer}-{number}",
            "reference_id": "r",
            "ref_logprob_sum": float(number),
            "ref_value": float(writer),
            "precision": "float32",
        }
        rows = pa.Table.from_pylist([row], TABLES["references"].schema)
        store.write(f"appends/{writer}/{number}", {"references": rows})


def appends(archive: str, n_processes: int, n: int) -> float:
    """Appends `n` rows from each of `n_processes` at once; returns the seconds it took.

    Raises:
        AssertionError: a process failed, or a row is missing or is there twice.
    """
    Store.create(archive)
    command = [sys.executable, __file__, archive, "--appends", str(n), "--writer"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen([*command, str(i)], stdin=pipe, stdout=pipe, text=True) for i in range(n_processes)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    codes = [process.wait() for process in processes]
    seconds = time.perf_counter() - began
    assert codes == [0] * n_processes, codes
    query = "SELECT trajectory_id FROM \"references\" WHERE reference_id = 'r'"
    found = [row for (row,) in db.connect(Store(archive), only=query).execute(query).fetchall()]
    expected = {f"{writer}-{number}" for writer in range(n_processes) for number in range(n)}
    assert len(found) == len(expected), f"{len(found)} rows, not {len(expected)}"
    assert set(found) == expected
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", nargs="?")
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--appends", type=int, default=200)
    parser.add_argument("--writer", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.writer is not None:
        append(words.archive, words.writer, words.appends)
        return
    with tempfile.TemporaryDirectory() as folder:
        seconds = appends(words.archive or str(Path(folder) / "archive"), words.processes, words.appends)
    n = words.processes * words.appends
    print(
        f"{n:,} appends from {words.processes} processes in {seconds:.1f} s, {n / seconds:.0f}/s; none lost, none twice"
    )


if __name__ == "__main__":
    main()
