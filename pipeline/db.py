"""DuckDB over pinned versions of the archive. The database is in memory and holds only views; truth is in Parquet.

Two ways in, over the same views:
- `connect` for the pipeline's own queries: DuckDB reads the Parquet files itself.
- `ask` for a user's SQL: DuckDB may open no file at all and is handed the tables as Arrow datasets. A filter on
  statements alone does not hold: `WITH x AS (COPY ... TO 'shard.parquet') SELECT ...` and `EXPLAIN ANALYZE COPY ...`
  write files in DuckDB 2.0 and pass for SELECT and EXPLAIN; `allowed_directories` lets them.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pds

from pipeline.store import Store, Versions
from schemas import TABLES, UserError

SQL = Path(__file__).parent / "sql"
VIEWS = ("rollouts", "progress")  # in the order they build on one another


@cache
def sql(name: str) -> str:
    """The text of `pipeline/sql/NAME.sql`."""
    return (SQL / f"{name}.sql").read_text()


def connect(store: Store, versions: Versions | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with a view per table and the derived views, at `versions` (default: the newest)."""
    connection = duckdb.connect(":memory:")
    for name, files in _pinned(store, versions).items():
        if files:
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet([{listed}])')
        else:
            connection.register(name, TABLES[name].schema.empty_table())
    _derive(connection)
    return connection


def rows(connection: duckdb.DuckDBPyConnection, name: str, /, **inputs: Any) -> pa.Table:
    """The result of `pipeline/sql/NAME.sql` with its named inputs."""
    return connection.sql(sql(name), params=inputs).to_arrow_table()


def ask(store: Store, statement: str, at: str | None = None) -> pa.RecordBatchReader:
    """The answer to a user's SQL, as of snapshot `at` (default: now), in batches.

    Raises:
        UserError: it is not exactly one SELECT or EXPLAIN, it does not run, or `at` names no snapshot.
    """
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
    try:
        found = connection.extract_statements(statement)
    except duckdb.Error as error:
        raise UserError(f"SQL: {_first_lines(error)}") from None
    allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if len(found) != 1 or found[0].type not in allowed:
        kinds = ", ".join(s.type.name for s in found) or "nothing"
        raise UserError(
            f"SQL: one SELECT or EXPLAIN is allowed, not {kinds}: this only asks, it never changes the archive"
        )
    for name, files in _pinned(store, snapshot_versions(store, at) if at else None).items():
        source = pds.dataset(files, schema=TABLES[name].schema) if files else TABLES[name].schema.empty_table()
        connection.register(f"_{name}", source)
        connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM "_{name}"')
        for column in TABLES[name].columns:
            comment = column.comment.replace("'", "''")
            connection.execute(f"""COMMENT ON COLUMN "{name}"."{column.name}" IS '{comment}'""")
    _derive(connection)
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    try:
        reader = connection.sql(statement).to_arrow_reader()
    except duckdb.Error as error:
        raise UserError(f"SQL: {_first_lines(error)}") from None
    return pa.RecordBatchReader.from_batches(reader.schema, _guarded(reader))


def _guarded(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches; a value that cannot be computed half-way through is the statement's fault too."""
    try:
        yield from batches
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise UserError(f"SQL: {_first_lines(error)}") from None


def snapshot_versions(store: Store, snapshot_id: str) -> Versions:
    """The table versions a snapshot names.

    Raises:
        UserError: there is no such snapshot.
    """
    found = connect(store).execute("SELECT versions FROM snapshots WHERE snapshot_id = $1", [snapshot_id]).fetchone()
    if found is None:
        raise UserError(
            f"snapshot {snapshot_id!r} is not in the archive; "
            '`reval sql "SELECT snapshot_id, created_at, stage FROM snapshots ORDER BY 2"` lists them'
        )
    return dict(found[0])


def _pinned(store: Store, versions: Versions | None) -> dict[str, list[str]]:
    """Files of every table at `versions`; tables made since then are empty, snapshots is always the newest."""
    if versions is None:
        return {name: store.files(name) for name in TABLES}
    return {name: store.files(name, versions.get(name, None if name == "snapshots" else 0)) for name in TABLES}


def _derive(connection: duckdb.DuckDBPyConnection) -> None:
    for name in VIEWS:
        connection.execute(f"CREATE VIEW {name} AS {sql(f'views/{name}')}")


def _first_lines(error: Exception) -> str:
    """DuckDB's message without its picture of the statement, on one line."""
    return " ".join(line.strip() for line in str(error).split("\n\nLINE")[0].splitlines() if line.strip())
