"""The story on one page each, and the `reval` command. Nothing here decides what is done: the archive does."""
