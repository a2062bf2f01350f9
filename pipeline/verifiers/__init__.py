"""Verifiers judge responses; each is one short file, chosen by name. A verifier first reads the answer out of a
response, and then compares it with the gold answer. The comparison may hang or crash, so it runs in a child process
that can be killed. The reward of a verdict is decided later, by `[reward]` in the recipe.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import NamedTuple

from schemas import UserError, did_you_mean
from schemas.enums import Verdict

# The name for labels that came with an imported file; no verifier here made them.
IMPORTED = "imported"
# The reward of a verdict, unless the recipe sets another. Without a judgement there is no reward: a check that timed out
# does not show that the answer is wrong.
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
    """The result of a verifier. `worth` is the response's reward; None: the reward of the verdict."""

    verdict: Verdict
    extracted_answer: str | None  # the answer that was read; None: no answer was found
    worth: float | None = None


@dataclass(frozen=True)
class Verifier:
    """A judge.

    Attributes:
        name: the name in a recipe, with its argument: `numeric:0.01`.
        version: changes with every change that can change a verdict; includes the version of a library it uses.
        summary: one line about it.
        example: a gold answer and a right response.
        read: takes a response and returns the only part that is judged; None: there is no answer. For any response it
            takes time linear in its length.
        judge: takes a gold answer and the part that was read, and returns a judgement; only called in a process that can
            be killed.
        prepare: loads what judging needs, or raises an error; None: judging the example loads it.
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
    """The verifier for NAME or NAME:ARGUMENT, either of them also with @VERSION.

    Raises:
        UserError: there is no such verifier, or it has another version here.
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
    """Name, argument and version in the text that names a verifier; None: not given."""
    name, argument, version = _SPEC.fullmatch(asked).groups()  # type: ignore[union-attr]  # it matches any text
    return name, argument, version


def verifier_id(asked: str) -> str:
    """The id of a verifier's verdicts. A version may be given that is not installed, because its verdicts may exist.

    Raises:
        UserError: there is no such verifier.
    """
    _, _, version = split(asked)
    return asked if version is not None or asked == IMPORTED else verifier(asked).verifier_id


def no_argument(name: str, argument: str | None) -> None:
    """Refuses an argument for a verifier that takes none.

    Raises:
        UserError: there is an argument.
    """
    if argument is not None:
        raise UserError(f"the verifier {name} takes no argument; write {name} and not {name}:{argument}")
