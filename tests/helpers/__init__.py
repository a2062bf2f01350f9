"""Shared by test files, by subject: the command, archives, training passes, files of other people."""
