"""The strict check before every write: unknown, missing, null or wrongly typed values are errors.

pyarrow alone drops unknown keys and fills missing ones with null without a word.
"""

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import TABLES


class SchemaError(Exception):
    """Rows do not fit their table. A fault of the program, never of the user."""


def conform(rows: pa.Table, name: str) -> pa.Table:
    """`rows` with exactly the columns, order and types of table `name`.

    Columns may come in any order; a type may differ only where the cast loses nothing.

    Raises:
        SchemaError: a column is unknown or missing, a cast would lose something, null stands where the table allows
            none, or a word is outside its column's enum. Keys are checked by the archive's queries, not here.
    """
    table = TABLES[name]
    expected = [c.name for c in table.columns]
    unknown, missing = set(rows.column_names) - set(expected), set(expected) - set(rows.column_names)
    if unknown or missing or len(rows.column_names) != len(expected):
        raise SchemaError(f"{name}: unknown columns {sorted(unknown)}, missing columns {sorted(missing)}")
    try:
        fitted = rows.select(expected).cast(pa.schema([f.with_nullable(True) for f in table.schema]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"{name}: {error}") from error
    for column in table.columns:
        values = fitted[column.name]
        if column.null is None and values.null_count:
            raise SchemaError(f"{name}.{column.name}: {values.null_count} nulls where none is allowed")
        if column.enum is not None:
            strangers = set(pc.unique(values).to_pylist()) - set(column.enum) - {None}
            if strangers:
                raise SchemaError(f"{name}.{column.name}: {sorted(strangers)} not in {list(column.enum)}")
    return fitted.cast(table.schema)
