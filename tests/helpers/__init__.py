"""What test files share, by what it is about: the command, archives, training passes, files of other people."""
