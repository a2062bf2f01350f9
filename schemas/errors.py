"""Errors whose message is all a user needs: a command prints it on one line, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked, not in the program.

    The message is one line: what is wrong, where, and the way out. Commands print it and exit with code 2.
    """


class Failure(Exception):
    """Something outside this process failed: a child was killed, an engine runs other weights. Nobody asked wrongly.

    The message is one line: what failed, where its own words are, and what becomes of the run. Commands exit with code 1.
    """


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """The way out for a word that is not known: the nearest known one, or `otherwise` if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise
