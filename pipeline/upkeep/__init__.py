"""Whether the archive is whole; mending it; fewer files; a pass once more."""
