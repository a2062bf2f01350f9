"""The classes that describe a table and a column."""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from schemas.enums import Word

TEXT, INT, FLOAT = pa.string(), pa.int64(), pa.float64()


@dataclass(frozen=True)
class Column:
    """One column. `null` says what null means; a column without it never holds null."""

    name: str
    type: pa.DataType
    doc: str
    null: str | None = None
    enum: type[Word] | None = None

    @property
    def comment(self) -> str:
        words = f" One of: {', '.join(self.enum)}." if self.enum else ""
        return self.doc + words + (f" Null: {self.null}." if self.null else "")


@dataclass(frozen=True)
class Table:
    """One table: what a row is, the columns that name it, and all columns in order.

    `version` goes up with every change to the columns; the only changes are a new nullable column, and a column that may
    be null from now on. `span` is a column whose least and greatest value in each file are in Delta's log, so that who
    asks for a range of it leaves the other files closed. None: there is none.
    """

    name: str
    doc: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    version: int = 1
    span: str | None = None

    @cached_property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.type, nullable=c.null is not None) for c in self.columns])
