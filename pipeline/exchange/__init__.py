"""In and out of the archive: other people's files, other archives, exports."""
