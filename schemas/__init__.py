"""Every table of the archive, declared once: columns with their meaning, keys, the words a column may hold, and ids.
Every write is checked against these declarations.

Imports the standard library and pyarrow only, so that any tool can read an archive's definition.
"""

from schemas.conform import SchemaError, conform
from schemas.errors import Failure, UserError, did_you_mean
from schemas.ids import as_name, check_name, digest, pass_name
from schemas.table import Column, Table
from schemas.tables import ARCHIVE_FORMAT, OLDEST_READ, READABLE_SINCE, TABLES

__all__ = [
    "ARCHIVE_FORMAT",
    "OLDEST_READ",
    "READABLE_SINCE",
    "TABLES",
    "Column",
    "Failure",
    "SchemaError",
    "Table",
    "UserError",
    "as_name",
    "check_name",
    "conform",
    "did_you_mean",
    "digest",
    "pass_name",
]
