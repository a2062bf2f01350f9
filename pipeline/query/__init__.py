"""SQL over the archive. DuckDB reads pinned versions of the tables and the views of `sql/views`; a state of the archive
can be named by a snapshot, a label or a time. A user's SQL can only read.
"""
