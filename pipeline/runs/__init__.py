"""A named run: its settings, its processes, what it keeps and costs."""
