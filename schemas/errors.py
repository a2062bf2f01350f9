"""Errors whose message is all a user needs: a command prints it on one line, without a traceback."""


class UserError(Exception):
    """A mistake in what was asked, not in the program.

    The message is one line: what is wrong, where, and the way out. Commands print it and exit with code 2.
    """


class Failure(Exception):
    """Something outside this process failed: a child was killed, an engine runs other weights. Nobody asked wrongly.

    The message is one line: what failed, where its own words are, and what becomes of the run. Commands exit with code 1.
    """
