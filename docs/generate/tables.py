"""docs/tables.md: every table and view of an archive with its columns, as schemas/ and the views' SQL have them."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile

from docs.generate.markdown import code, prose, table
from pipeline.query import db
from schemas import TABLES
from schemas.enums import Word
from schemas.table import Column

INTRODUCTION = """
An archive holds these tables, and `reval sql` also has the views below. Types are DuckDB's. A column of a table is never
null if nothing stands under "null means". Rows have no order: write `ORDER BY`. `references` is a word of SQL: write it
in double quotes.

`reval sql "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'draws'"` shows the meanings too.
"""


def page() -> Iterator[str]:
    yield "# Tables and views"
    yield prose(INTRODUCTION)
    for name, one in TABLES.items():
        yield f"## {name}"
        yield prose(one.doc)
        yield prose(f"Key: {', '.join(map(code, one.key))}.")
        rows = ((code(c.name), db.sql_type(c.type), c.null or "", meaning(c)) for c in one.columns)
        yield table(("column", "type", "null means", "meaning"), rows)
    yield "# Words"
    yield prose("Some columns hold one word of a list:")
    yield table(("list", "word", "meaning"), ((one.__name__, code(word), word.doc) for one in words() for word in one))
    yield "# Views"
    for name, typed in columns().items():
        opening, meanings = comment(db.sql(f"views/{name}"))
        yield f"## {name}"
        yield prose(opening)
        rows = ((code(column), kind, meanings.get(column, "")) for column, kind in typed.items())
        yield table(("column", "type", "meaning"), rows)


def meaning(column: Column) -> str:
    return column.doc + (f" One of: {', '.join(map(code, column.enum))}." if column.enum else "")


def words() -> list[type[Word]]:
    """The lists of words, in the order in which columns use them."""
    return list(dict.fromkeys(column.enum for one in TABLES.values() for column in one.columns if column.enum))


@cache
def columns() -> dict[str, dict[str, str]]:
    """The columns of each view with their types, over tables without rows."""
    connection = db.database()
    for name, one in TABLES.items():
        typed = ", ".join(f'"{column.name}" {db.sql_type(column.type)}' for column in one.columns)
        connection.execute(f'CREATE TABLE "{name}" ({typed})')
    db.derive(connection)
    return {name: {row[0]: row[1] for row in connection.execute(f"DESCRIBE {name}").fetchall()} for name in db.VIEWS}


def comment(sql: str) -> tuple[str, dict[str, str]]:
    """The opening comment of a view: its prose, and the meaning of each column.

    It begins with the view's name and a colon. Lines of columns are indented by three: names with commas between them,
    two spaces or more, and their meaning, which may go on in lines that are indented further.
    """
    opening, entries = list[str](), list[list[str]]()
    for line in takewhile(lambda line: line.startswith("--"), sql.splitlines()):
        words_, indent = line[2:].strip(), len(line[2:]) - len(line[2:].lstrip())
        if indent == 1:
            opening.append(words_)
        elif indent == 3:
            entries.append(re.split(r"\s{2,}", words_, maxsplit=1))
        else:
            entries[-1][-1] += f" {words_}"
    meanings = {name: " ".join(rest) for names, *rest in entries for name in names.split(", ")}
    first = " ".join(opening).replace(" No order.", "").partition(": ")[2]
    return first[:1].upper() + first[1:], meanings
