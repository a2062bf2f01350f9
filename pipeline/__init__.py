"""Stages and what they stand on. A stage turns pinned rows and its settings into new rows; `materialise` commits them."""
