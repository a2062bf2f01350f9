"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """A mistake in what was asked, not in the program.

    The message is one line: what is wrong, where, and the way out. Commands print it and exit with code 2.
    """
