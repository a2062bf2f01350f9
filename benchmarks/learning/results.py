"""Reads the results of `benchmarks.learning` from an archive and keeps them in Parquet, with their queries."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.archive.store import Store
from pipeline.query import db

QUERIES = SAVED_IN = Path(__file__).parent / "results"
SAVED = ("curves", "ages")


def sql(name: str) -> str:
    """The text of `benchmarks/learning/results/NAME.sql`."""
    return (QUERIES / f"{name}.sql").read_text()


def rows(store: Store, name: str, pattern: str = "%.%.t%.s%") -> pa.Table:
    """The rows of a query over the newest state of an archive, of runs whose name is like `pattern`."""
    return db.connect(store).sql(sql(name), params={"pattern": pattern}).to_arrow_table()


def saved(name: str, folder: Path | None = None) -> pa.Table | None:
    """The saved rows, in SAVED_IN or in another folder; None: there are none."""
    path = (folder or SAVED_IN) / f"{name}.parquet"
    return pq.read_table(path) if path.exists() else None


def save(store: Store, folder: Path | None = None) -> None:
    """Adds the archive's results to the saved ones, or in another folder to a copy of the saved tuning runs.

    If a run is in both, the archive's rows are kept.
    """
    for name in SAVED:
        new, old = rows(store, name), saved(name)
        if old is not None:
            connection = duckdb.connect()
            connection.register("new", new).register("old", old)
            which = "" if folder is None else "AND run_id LIKE '%.s0'"
            new = connection.sql(
                f"SELECT * FROM old WHERE run_id NOT IN (SELECT run_id FROM new) {which} UNION ALL BY NAME "
                "SELECT * FROM new ORDER BY ALL"
            ).to_arrow_table()
        into = folder or SAVED_IN
        temporary = into / f".{name}.tmp"
        pq.write_table(new, temporary, compression="zstd", compression_level=9)
        temporary.rename(into / f"{name}.parquet")


def ended(store: Store | None = None) -> dict[str, int]:
    """The number of finished iterations of each run: in an archive, or in the saved results."""
    if store is not None:
        statement = "SELECT run_id, max(iteration) FROM snapshots WHERE stage = 'iteration' GROUP BY 1"
        return dict(db.connect(store, only=statement).execute(statement).fetchall())
    found = saved("curves")
    if found is None:
        return {}
    return dict(_over(found).execute("SELECT run_id, max(iteration) FROM curves GROUP BY 1").fetchall())


def bases(task: str) -> set[str]:
    """Digests of the weights that the saved runs of a task began from."""
    found = saved("curves")
    if found is None:
        return set()
    return {row[0] for row in _over(found).execute("SELECT DISTINCT base FROM curves WHERE task = $1", [task]).fetchall()}


def best(task: str, arm: str, store: Store | None = None) -> int:
    """The best try of those in an archive and those that are saved; without any, the first."""
    found = [rows(store, "curves", f"{task}.{arm}.%.s0")] if store else []
    if (old := saved("curves")) is not None:
        there = pa.array(found[0]["run_id"].to_pylist() if found else [], pa.string())  # not taken twice
        mine = (pc.field("task") == task) & (pc.field("arm") == arm)
        found.append(old.filter(mine & ~pc.field("run_id").isin(there)))
    first = _over(pa.concat_tables(found)).execute(sql("tuned")).fetchone() if found else None
    return int(first[2]) if first else 0


def _over(curves: pa.Table) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.register("curves", curves)
    return connection
