"""SQL that a user wrote into a recipe, a condition or a weight: checked before it runs; it can only read.

An expression may use functions that always give the same answer. With random numbers or the clock a pass could not be
repeated. A weight can use only the columns of the candidates; a condition may query the whole archive, like `reval sql`.
"""

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.archive.store import Store, Versions
from pipeline.query import db
from schemas import UserError

NUMBERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "FLOAT"}


def wanted(store: Store, versions: Versions, where: str, setting: str = "retrain.where") -> pa.Table:
    """The trajectory_id of every rollout that meets a condition over the view `rollouts`, at a state of the archive.

    Args:
        setting: where the condition was written, for error messages.

    Raises:
        UserError: the condition is not one expression, uses random numbers or the clock, or does not run.
    """
    setting = f"{setting} = {where!r}"
    _check(f"SELECT 1 FROM rollouts WHERE ({where}\n)", setting, subqueries=True)
    try:
        return db.ask(store, f"SELECT trajectory_id FROM rollouts WHERE ({where}\n)", versions).read_all()
    except UserError as error:
        raise UserError(f"{setting}: {str(error).removeprefix('SQL: ')}") from None


def weigh(connection: duckdb.DuckDBPyConnection, weight: str, window: int | None) -> None:
    """Makes the view `weighed`: a user's weight of each candidate in the window; with window None, of all candidates.

    Raises:
        UserError: the weight is not one expression over the candidates, uses random numbers or the clock, does not run,
            is not a number, or is null, negative or infinite for a row; the message names the row.
    """
    setting = f"replay.custom.weight = {weight!r}"
    _check(f"SELECT ({weight}\n) FROM candidates", setting, subqueries=False)
    window_rows = "SELECT * FROM candidates" + ("" if window is None else f" WHERE newest <= {window:d}")
    weighed = f"SELECT trajectory_id, age_iterations, ({weight}\n)::DOUBLE AS weight FROM ({window_rows})"
    try:
        kind = connection.sql(f"SELECT ({weight}\n) AS weight FROM ({window_rows})").types[0]
        if str(kind) not in {*NUMBERS, "DOUBLE", "BOOLEAN"} and kind.id != "decimal":
            raise UserError(f"{setting} is {str(kind).lower()}, not a number")
        connection.execute(f"CREATE OR REPLACE TEMP VIEW weighed AS {weighed}")
        bad = connection.execute(
            "SELECT trajectory_id, weight FROM weighed WHERE weight IS NULL OR weight < 0 OR NOT isfinite(weight) "
            "ORDER BY trajectory_id LIMIT 1"
        ).fetchone()
    except duckdb.Error as error:
        raise UserError(f"{setting}: {db.first_lines(error)}") from None
    if bad:
        value = "null" if bad[1] is None else f"{bad[1]:g}"
        raise UserError(f"{setting}: it is {value} for trajectory {bad[0]}; a weight is a number from 0 up")


def _check(statement: str, setting: str, *, subqueries: bool) -> None:
    connection = db.database(db.ASKING)
    (text,) = connection.execute("SELECT json_serialize_sql($1)", [statement]).fetchone() or ("{}",)
    parsed = json.loads(text)
    if parsed.get("error"):
        raise UserError(f"{setting}: {parsed.get('error_message')}")
    nodes = list(_nodes(parsed["statements"]))
    if len(parsed["statements"]) != 1 or any(node.get("type") == "SET_OPERATION_NODE" for node in nodes):
        raise UserError(f"{setting}: one expression is wanted")
    if not subqueries and any(node.get("class") == "SUBQUERY" for node in nodes):
        raise UserError(f"{setting}: it can use the columns of pipeline/replay/sql/candidates.sql and no query")
    called = sorted({node["function_name"] for node in nodes if node.get("function_name")})
    fickle = connection.execute(
        "SELECT function_name FROM duckdb_functions() WHERE list_contains($1, function_name) "
        "AND function_type = 'scalar' AND stability <> 'CONSISTENT' ORDER BY 1",
        [called],
    ).fetchone()
    if fickle:
        raise UserError(f"{setting}: {fickle[0]}() gives another answer every time, and no pass could be repeated")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a tree of JSON."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)
