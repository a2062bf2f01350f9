"""Asks an archive from Python, without reval: its tables are ordinary Delta tables.

    python examples/query_archive.py [ARCHIVE]

DuckDB takes SQL over the Parquet files that a Delta table names; polars scans the table itself.
"""

import sys
from pathlib import Path

import duckdb
import polars as pl
from deltalake import DeltaTable

# DeltaTable.to_pyarrow_table() is not used here. With pyarrow 26 the interpreter aborted as it ended, exit code 134, in
# 19 of 30 tries, after it had given the right answer: a known fault of pyarrow. What is used below does not need pyarrow.


def files(archive: Path, table: str, version: int | None = None) -> list[str]:
    """The Parquet files of a table at a version; None: the newest. Not all files in its folder: some may be outdated."""
    return DeltaTable(archive / table, version=version).file_uris()


def accuracy(archive: Path) -> list[tuple[int, int, float]]:
    """For each iteration: its number, how many rollouts were judged, and the share that was correct."""
    query = """
        SELECT t.iteration, count(*) AS n_judged, avg((v.verdict = 'correct')::INT) AS correct
        FROM read_parquet($trajectories, union_by_name = true) t
        JOIN read_parquet($verdicts, union_by_name = true) v USING (trajectory_id)
        GROUP BY t.iteration
        ORDER BY t.iteration
    """
    inputs = {name: files(archive, name) for name in ("trajectories", "verdicts")}
    return duckdb.execute(query, inputs).fetchall()


def lengths(archive: Path, version: int | None = None) -> pl.DataFrame:
    """Mean length of a response in tokens, for each policy that made rollouts, at a version of the table."""
    rollouts = pl.scan_delta(str(archive / "trajectories"), version=version)
    return rollouts.group_by("policy_id").agg(pl.col("n_response_tokens").mean()).sort("policy_id").collect()


def versions(archive: Path, snapshot: str) -> dict[str, int]:
    """The version that each table had at a snapshot, by its id: `reval snapshots` lists them."""
    found = pl.scan_delta(str(archive / "snapshots")).filter(pl.col("snapshot_id") == snapshot).collect()
    return dict(found["versions"].item())


if __name__ == "__main__":
    archive = Path(sys.argv[1] if len(sys.argv) > 1 else "archive")
    for iteration, n_judged, correct in accuracy(archive):
        print(f"iteration {iteration}: {correct:.3f} of {n_judged} rollouts correct")
    print(lengths(archive))
    newest = pl.scan_delta(str(archive / "snapshots")).sort("created_at").last().collect()["snapshot_id"].item()
    print(f"at {newest}:", lengths(archive, versions(archive, newest)["trajectories"]), sep="\n")
