"""What asks the archive: DuckDB over pinned versions, states by name, responses by row group."""
