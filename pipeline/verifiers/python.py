"""`python:MODULE:FUNCTION`: a user's own function, in the same killable processes as every other verifier.

It is called with the gold answer and the whole response. It returns True, False, None (there is no answer), a number (the
reward of the response; right if above 0), the name of a verdict, or a pair of one of these and the answer that it read.
The module is searched in the folder where the command runs, then on Python's path. The version is a digest of its file:
a changed file is another verifier, but a change in a module that it imports is not noticed.
"""

import math
import os
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.machinery import PathFinder
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.verifiers import Judgement, Verifier
from pipeline.verifiers.reading import cut
from schemas import UserError
from schemas.enums import Verdict

WAY_OUT = "write python:MODULE:FUNCTION, as in python:my_rewards:judge for judge(gold_answer, response) in my_rewards.py"
SUMMARY = "a function of yours, judge(gold_answer, response): True, False, None, a number, or the word of a verdict"


def make(argument: str | None) -> Verifier:
    module, _, function = (argument or "").partition(":")
    if not module or not function.isidentifier():
        raise UserError(f"the verifier python names no function; {WAY_OUT}")

    def prepare() -> None:
        _function(module, function)

    def judge(gold_answer: str, answer: str | None) -> Judgement:
        return judgement(_function(module, function)(gold_answer, answer))

    version = sha256(_file(module).read_bytes()).hexdigest()[:12]
    return Verifier(f"python:{argument}", version, SUMMARY, ("", ""), str, judge, prepare)


def judgement(said: Any) -> Judgement:
    """The result of a user's function, as a judgement.

    Raises:
        ValueError: it is none of the allowed results.
    """
    what, read = said if isinstance(said, tuple) and len(said) == 2 else (said, None)
    answer = None if read is None else cut(str(read).encode("utf-8", "replace").decode())  # any text can be stored
    if what is None:
        return Judgement(Verdict.NO_ANSWER, answer)
    if isinstance(what, str):
        return Judgement(Verdict(what), answer)
    worth = float(what)
    if not math.isfinite(worth):
        raise ValueError(f"a response cannot be worth {worth}")
    return Judgement(Verdict.CORRECT if worth > 0 else Verdict.WRONG, answer, worth)


def _file(module: str) -> Path:
    """The file of a module; the module is not run.

    Raises:
        UserError: there is no such file.
    """
    path, origin = [os.getcwd(), *sys.path], None
    for name in accumulate(module.split("."), "{}.{}".format):
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            raise UserError(f"the verifier python: no module {name!r} in {os.getcwd()} or on Python's path; {WAY_OUT}")
        path, origin = list(spec.submodule_search_locations or []), spec.origin
    if origin is None or not origin.endswith(".py"):
        raise UserError(f"the verifier python: {module!r} is no Python file; {WAY_OUT}")
    return Path(origin)


@cache
def _function(module: str, function: str) -> Callable[[str, str | None], Any]:
    """The function itself; this runs its module.

    Raises:
        UserError: it cannot be imported, or is not a function.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), function)
    except Exception as error:
        raise UserError(f"the verifier python:{module}:{function}: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise UserError(f"the verifier python:{module}:{function}: {function} is no function; {WAY_OUT}")
    return found  # type: ignore[no-any-return]
