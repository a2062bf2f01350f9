"""Verifiers judge responses; each is one short file, chosen by name. A verifier first reads the answer out of a
response, and then compares it with the gold answer. The comparison may hang or crash, so it runs in a child process
that can be killed. What a verdict is worth is decided later, by `[reward]` in the recipe.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import NamedTuple

from schemas import UserError, did_you_mean
from schemas.enums import Verdict

# Labels that came with a file: no judge of ours.
IMPORTED = "imported"
# What a verdict is worth where no recipe says otherwise. No judgement, no reward: a check that timed out is not wrong.
REWARDS: dict[Verdict, float | None] = {
    Verdict.CORRECT: 1.0,
    Verdict.WRONG: 0.0,
    Verdict.NO_ANSWER: 0.0,
    Verdict.BAD_GOLD: None,
    Verdict.TIMEOUT: None,
    Verdict.CRASHED: None,
}
NAMES = ("math", "gsm8k", "multiple_choice", "exact", "numeric", "python")
_SPEC = re.compile(r"([^:@]*)(?::([^@]*))?(?:@(.*))?", re.DOTALL)


class Judgement(NamedTuple):
    """What a verifier says. `worth` is None, but where it says by how much."""

    verdict: Verdict
    extracted_answer: str | None  # as read; None: none was read
    worth: float | None = None


@dataclass(frozen=True)
class Verifier:
    """A judge.

    Attributes:
        name: as a recipe has it, with its argument: `numeric:0.01`.
        version: goes up with every change that can change a verdict, and holds that of the library it stands on.
        summary: a line about it.
        example: a gold answer and a response that is right.
        read: the part of a response that is judged, nothing else of it matters; None: there is no answer. It is linear
            in the response's length, whatever that says.
        judge: a gold answer and what was read to a judgement; called only where it can be killed.
        prepare: brings in what judging needs, or says what is wrong with it; None: to judge the example does that.
    """

    name: str
    version: str
    summary: str
    example: tuple[str, str]
    read: Callable[[str], str | None]
    judge: Callable[[str, str | None], Judgement]
    prepare: Callable[[], None] | None = None

    @property
    def verifier_id(self) -> str:
        return f"{self.name}@{self.version}"


@cache
def verifier(asked: str) -> Verifier:
    """The judge of a name: NAME, NAME:ARGUMENT, and either with @VERSION.

    Raises:
        UserError: there is no such verifier, or not in this version.
    """
    name, argument, version = split(asked)
    if name == IMPORTED:
        raise UserError(
            "the verifier 'imported' stands for labels that came with a file and judges no new answer: only "
            "`reval retrain` can use it; `reval verifiers` lists those that judge"
        )
    if name not in NAMES:
        hint = did_you_mean(name, NAMES, f"there are {', '.join(NAMES)}")
        raise UserError(f"unknown verifier {name!r}; {hint} (`reval verifiers` explains them)")
    found: Verifier = import_module(f"pipeline.verifiers.{name}").make(argument)
    if version not in (None, found.version):
        raise UserError(
            f"the verifier {asked} cannot judge here, where {found.name} is {found.verifier_id}; "
            f"write {found.name} to judge by that, or install the version of its library that is meant"
        )
    return found


def split(asked: str) -> tuple[str, str | None, str | None]:
    """Name, argument and version of a verifier as it is asked for; None: not said."""
    name, argument, version = _SPEC.fullmatch(asked).groups()  # type: ignore[union-attr]  # it matches any text
    return name, argument, version


def verifier_id(asked: str) -> str:
    """The id under which its verdicts are kept; of a version that is not here too, since its verdicts may be.

    Raises:
        UserError: there is no such verifier.
    """
    _, _, version = split(asked)
    return asked if version is not None or asked == IMPORTED else verifier(asked).verifier_id


def no_argument(name: str, argument: str | None) -> None:
    """What a verifier without arguments does with one.

    Raises:
        UserError: there is one.
    """
    if argument is not None:
        raise UserError(f"the verifier {name} takes no argument; write {name} and not {name}:{argument}")
