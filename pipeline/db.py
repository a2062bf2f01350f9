"""DuckDB over pinned versions of the archive. The database is in memory and holds only views; truth is in Parquet.

Two ways in, over the same views:
- `connect` for the pipeline's own queries: DuckDB reads the Parquet files itself.
- `ask` for a user's SQL: DuckDB may open no file at all and is handed the tables as Arrow datasets. A filter on
  statements alone does not hold: `WITH x AS (COPY ... TO 'shard.parquet') SELECT ...` and `EXPLAIN ANALYZE COPY ...`
  write files in DuckDB 2.0 and pass for SELECT and EXPLAIN; `allowed_directories` lets them.
"""

import re
from collections.abc import Iterator, Sequence
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


def connect(store: Store, versions: Versions | None = None, *, only: str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with a view per table and the derived views, at `versions` (default: the newest).

    Args:
        only: SQL; just the views it mentions are made, which is most of the time of a small query.
    """
    connection = duckdb.connect(":memory:")
    tables, views = _mentioned(only)
    for name in tables:
        attach(connection, store, name, _files(store, name, versions))
    _derive(connection, views)
    return connection


def attach(connection: duckdb.DuckDBPyConnection, store: Store, name: str, shards: list[str], view: str = "") -> None:
    """Makes a view (default: of the table's name) of some of a table's files, with all the table's columns."""
    view = view or name
    if not shards:
        connection.register(view, TABLES[name].schema.empty_table())
        return
    listed = ", ".join("'" + f"{store.layout.root}/{path}".replace("'", "''") + "'" for path in shards)
    columns = ", ".join(f'"{column.name}"' for column in TABLES[name].columns)
    mixed = ", union_by_name = true" if store.marker.mixed(name) else ""
    connection.execute(f'CREATE VIEW "{view}" AS SELECT {columns} FROM read_parquet([{listed}]{mixed})')


def query(store: Store, name: str, /, **inputs: Any) -> pa.Table:
    """The result of `pipeline/sql/NAME.sql` with its named inputs, over the archive as it is now."""
    return rows(connect(store, only=sql(name)), name, **inputs)


def rows(connection: duckdb.DuckDBPyConnection, name: str, /, **inputs: Any) -> pa.Table:
    """The result of `pipeline/sql/NAME.sql` with its named inputs."""
    return connection.sql(sql(name), params=inputs).to_arrow_table()


def ask(store: Store, statement: str, versions: Versions | None = None) -> pa.RecordBatchReader:
    """The answer to a user's SQL at `versions` (default: the newest), in batches.

    Raises:
        UserError: it is not exactly one SELECT or EXPLAIN, or it does not run.
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
    for name in TABLES:
        files = [f"{store.layout.root}/{path}" for path in _files(store, name, versions)]
        source = pds.dataset(files, schema=TABLES[name].schema) if files else TABLES[name].schema.empty_table()
        connection.register(f"_{name}", source)
        connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM "_{name}"')
        for column in TABLES[name].columns:
            comment = column.comment.replace("'", "''")
            connection.execute(f"""COMMENT ON COLUMN "{name}"."{column.name}" IS '{comment}'""")
    _derive(connection, VIEWS)
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


def _mentioned(statement: str | None) -> tuple[list[str], list[str]]:
    """The tables and derived views that a statement, or a view it stands on, mentions; all for null."""
    if statement is None:
        return list(TABLES), list(VIEWS)
    views: list[str] = []
    for name in reversed(VIEWS):
        if re.search(rf"\b{name}\b", statement):
            views.insert(0, name)
            statement += sql(f"views/{name}")
    return [name for name in TABLES if re.search(rf"\b{name}\b", statement)], views


def _files(store: Store, name: str, versions: Versions | None) -> list[str]:
    """Files of a table at `versions`; a table made since then is empty, names of states are always the newest."""
    if versions is None or name in ("snapshots", "labels"):
        return store.shards(name)
    return store.shards(name, versions.get(name, 0))


def _derive(connection: duckdb.DuckDBPyConnection, views: Sequence[str]) -> None:
    for name in views:
        connection.execute(f"CREATE VIEW {name} AS {sql(f'views/{name}')}")


def _first_lines(error: Exception) -> str:
    """DuckDB's message without its picture of the statement, on one line."""
    return " ".join(line.strip() for line in str(error).split("\n\nLINE")[0].splitlines() if line.strip())
