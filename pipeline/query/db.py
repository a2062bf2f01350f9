"""DuckDB over chosen versions of the archive. The database is in memory and holds only views of the Parquet files.

Two functions run queries, over the same views:
- `connect` for the pipeline's own queries.
- `ask` for a user's SQL. A filter on statements alone is not safe: in DuckDB 2.0
  `WITH x AS (COPY ... TO 'file') SELECT ...` and `EXPLAIN ANALYZE COPY ...` write files but count as SELECT and EXPLAIN,
  and `allowed_directories` lets them write into the archive, and into `.tmp` in the present folder. So DuckDB gets only
  our file system there, which can only read, and only the files of the tables.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.archive.entries import FileFilter
from pipeline.archive.folder import Folder
from pipeline.archive.store import NAMES, Sizes, Store, Versions
from pipeline.query.generated import GENERATED
from pipeline.query.readonly import ReadOnly
from schemas import TABLES, UserError

PIPELINE = Path(__file__).parent.parent
ASKING: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
}
SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.float32(): "FLOAT",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}
# Each view uses only those before it.
VIEWS = (
    "run_settings",
    "pass_names",
    "judges",
    "rollouts",
    "progress",
    "training",
    "disagreements",
    "trajectory_uses",
    "update_ages",
    "update_mix",
    "update_rows",
    "lineage",
    "evaluation_answers",
    "evaluation_questions",
    "scores",
)


def sql(name: str) -> str:
    """The text of NAME.sql, which is in the `sql` folder of the wing that uses it, or is generated."""
    return GENERATED[name]() if name in GENERATED else _written(name)


@cache
def _written(name: str) -> str:
    (path,) = PIPELINE.glob(f"*/sql/{name}.sql")
    return path.read_text()


def database(config: dict[str, str | bool | int | float | list[str]] | None = None) -> duckdb.DuckDBPyConnection:
    """A database in memory, without DuckDB's progress bar, which would appear on standard output after two seconds."""
    connection = duckdb.connect(":memory:", config=config or {})
    connection.execute("SET enable_progress_bar = false")
    return connection


def connect(
    store: Store,
    versions: Versions | None = None,
    *,
    only: str | None = None,
    filters: Mapping[str, FileFilter] = {},
) -> duckdb.DuckDBPyConnection:
    """A connection with a view per table and the derived views, at `versions` (default: the newest).

    Args:
        only: SQL; only the views it mentions are made. To make views takes most of the time of a small query.
        filters: by table, which files its view reads; see `Store.shards`.
    """
    connection = database()
    tables, views = _mentioned(only)
    for name in tables:
        attach(connection, store, name, _files(store, name, versions, filters.get(name)))
    derive(connection, views)
    return connection


def attach(
    connection: duckdb.DuckDBPyConnection, store: Store, name: str, shards: Sizes, view: str = "", columns: str = "*"
) -> None:
    """Makes a view of some of a table's files, with all the table's columns.

    A column that was added after a file was written is null for that file.

    Args:
        shards: paths with their sizes in bytes.
        view: the view's name; default: the table's.
        columns: what to select; besides the table's columns there are `filename` and `file_row_number`.
    """
    view = view or name
    if isinstance(store.files, Folder):
        _view(connection, name, [f"{store.layout.root}/{path}" for path in shards], view, columns)
    else:
        _view(connection, name, _mount(connection, store, shards, view), view, columns)


def _mount(connection: duckdb.DuckDBPyConnection, store: Store, shards: Sizes, protocol: str) -> list[str]:
    """Lets DuckDB read the files under addresses with a protocol of their own; returns the addresses."""
    there = ReadOnly(protocol, store.files, shards)
    connection.register_filesystem(there)
    return there.addresses


def _view(connection: duckdb.DuckDBPyConnection, name: str, addresses: list[str], view: str, columns: str = "*") -> None:
    if not addresses:
        connection.register(view, TABLES[name].schema.empty_table())
        return
    listed = ", ".join(_quoted(address) for address in addresses)
    schema = ", ".join(
        f"{_quoted(c.name)}: {{name: {_quoted(c.name)}, type: {_quoted(sql_type(c.type))}, default_value: NULL}}"
        for c in TABLES[name].columns
    )
    statement = f'CREATE VIEW "{view}" AS SELECT {columns} FROM read_parquet([{listed}], schema = MAP {{{schema}}})'
    try:
        connection.execute(statement)
    except duckdb.IOException as error:
        raise UserError(f"table {name}: {first_lines(error)}; `reval check` says what is damaged") from None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of a column's type."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"
    return SQL_TYPES[kind]


def key(name: str, of: str = "") -> list[str]:
    """SQL for each column of a table's key.

    Args:
        of: the relation that has the columns, needed if the query has several.
    """
    prefix = f"{of}." if of else ""
    return [f'{prefix}"{column}"' for column in TABLES[name].key]


def key_text(name: str, of: str = "") -> str:
    """SQL for a row's key as one text, with slashes between the values."""
    return " || '/' || ".join(key(name, of))


def same_key(name: str, a: str, b: str) -> str:
    """SQL for whether the rows of two relations have the same key."""
    return " AND ".join(f"{one} = {other}" for one, other in zip(key(name, a), key(name, b), strict=True))


def query(store: Store, name: str, /, **inputs: Any) -> pa.Table:
    """The result of `pipeline/*/sql/NAME.sql` with its named inputs, over the archive as it is now."""
    return rows(connect(store, only=sql(name)), name, **inputs)


def rows(connection: duckdb.DuckDBPyConnection, name: str, /, **inputs: Any) -> pa.Table:
    """The result of `pipeline/*/sql/NAME.sql` with its named inputs."""
    return connection.sql(sql(name), params=inputs).to_arrow_table()


def ask(store: Store, statement: str, versions: Versions | None = None) -> pa.RecordBatchReader:
    """The answer to a user's SQL at `versions` (default: the newest), in batches.

    Raises:
        UserError: the SQL is not exactly one SELECT or EXPLAIN, or it fails.
    """
    connection = database(ASKING)
    try:
        found = connection.extract_statements(statement)
    except duckdb.Error as error:
        raise UserError(f"SQL: {first_lines(error)}") from None
    if len(found) != 1 or found[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        kinds = ", ".join(s.type.name for s in found) or "nothing"
        raise UserError(
            f"SQL: one SELECT or EXPLAIN is allowed, not {kinds}: this only asks, it never changes the archive"
        )
    allowed = list[str]()
    for name in TABLES:
        addresses = _mount(connection, store, _files(store, name, versions), name)
        allowed += addresses
        _view(connection, name, addresses, name)
        for column in TABLES[name].columns:
            connection.execute(f'COMMENT ON COLUMN "{name}"."{column.name}" IS {_quoted(column.comment)}')
    derive(connection)
    # The order matters: DuckDB allows access to its temporary directory too, and refuses changes once access is off.
    connection.execute("SET temp_directory = ''")
    connection.execute(f"SET allowed_paths = [{', '.join(map(_quoted, allowed))}]")
    connection.execute("SET enable_external_access = false; SET disabled_filesystems = 'LocalFileSystem'")
    connection.execute("SET lock_configuration = true")
    try:
        reader = connection.sql(statement).to_arrow_reader()
    except duckdb.Error as error:
        raise UserError(f"SQL: {first_lines(error)}") from None
    return pa.RecordBatchReader.from_batches(reader.schema, _guarded(reader))


def _guarded(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches; an error while they are computed becomes a UserError."""
    try:
        yield from batches
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise UserError(f"SQL: {first_lines(error)}") from None


def _mentioned(statement: str | None) -> tuple[list[str], list[str]]:
    """The tables and derived views that a statement mentions, itself or through a view; None: all."""
    if statement is None:
        return list(TABLES), list(VIEWS)
    views: list[str] = []
    words = _words(statement)
    for name in reversed(VIEWS):
        if name in words:
            views.insert(0, name)
            words |= _view_words(name)
    return [name for name in TABLES if name in words], views


@cache
def _view_words(name: str) -> frozenset[str]:
    return _words(sql(f"views/{name}"))


def _words(statement: str) -> frozenset[str]:
    """The words of a statement without its comments, because words in comments are not tables."""
    return frozenset(re.findall(r"\w+", re.sub(r"--.*", "", statement)))


def _files(store: Store, name: str, versions: Versions | None, wanted: FileFilter | None = None) -> Sizes:
    """Files of a table at `versions`. A table that was made later is empty; tables of NAMES are always the newest."""
    if versions is None or name in NAMES:
        return store.shards(name, wanted=wanted)
    return store.shards(name, versions.get(name, 0), wanted=wanted)


def derive(connection: duckdb.DuckDBPyConnection, views: Sequence[str] = VIEWS) -> None:
    """Makes derived views, in the order of VIEWS, from the tables of the connection."""
    for name in views:
        connection.execute(f"CREATE VIEW {name} AS {sql(f'views/{name}')}")


def first_lines(error: Exception) -> str:
    """DuckDB's message on one line, without the quoted statement; for a traceback, its last line."""
    lines = [line.strip() for line in str(error).split("\n\nLINE")[0].splitlines() if line.strip()]
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else " ".join(lines)
