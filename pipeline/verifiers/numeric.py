r"""`numeric`: a number within a tolerance.

The answer is the number in the last box; without a box it is the last number of the response. It is right if it differs
from the gold answer by at most the tolerance times the gold answer's size: `numeric:0.01` is one per cent of it,
`numeric` one in a million. For a gold answer of 0 the tolerance is absolute.

`numbers.py` says what a number is: also fractions, powers of ten, thousands separated by commas. Units are not compared.
`20%` is 0.2; compared with a number without `%` it may also be 20, because a question often asks for per cent.
"""

import re
from collections import deque
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import partial

from pipeline.verifiers import Judgement, Verifier
from pipeline.verifiers.numbers import NUMBER, only_number, plain, value
from pipeline.verifiers.reading import boxed, cut
from schemas import UserError
from schemas.enums import Verdict

DEFAULT_TOLERANCE = "1e-6"
_TOLERANCE = re.compile(r"\d{0,20}\.?\d{0,40}(?:[eE][-+]?\d{1,3})?")


def make(argument: str | None) -> Verifier:
    tolerance = _parsed(DEFAULT_TOLERANCE if argument is None else argument)
    return Verifier(
        "numeric" if argument is None else f"numeric:{argument}",
        f"1+{DEFAULT_TOLERANCE}" if argument is None else "1",
        "a number within a relative tolerance (numeric:0.01; without it 1e-6): in the last box, or else the last one",
        ("0.75", r"so it is \boxed{\frac{3}{4}}"),
        read,
        partial(judge, tolerance),
    )


def _parsed(argument: str) -> Fraction:
    """The tolerance.

    Raises:
        UserError: it is not a number from 0 to below 1.
    """
    try:
        tolerance = Fraction(Decimal(argument)) if _TOLERANCE.fullmatch(argument) else Fraction(-1)
    except InvalidOperation:
        tolerance = Fraction(-1)
    if not 0 <= tolerance < 1:
        raise UserError(
            f"the verifier numeric:{argument} has no tolerance: give a share of the gold answer from 0 to below 1, "
            "such as numeric:0.01"
        )
    return tolerance


def read(response: str) -> str | None:
    """The number as it is written, without the text around it; None: there is none, or the box is not a single number."""
    content = boxed(response)
    if content is not None:
        return only_number(content)
    last = deque(NUMBER.finditer(plain(response)), maxlen=1)
    return last[0][0].strip() if last else None


def judge(tolerance: Fraction, gold_answer: str, answer: str | None) -> Judgement:
    content = boxed(gold_answer)
    written = only_number(gold_answer if content is None else content) or ""
    gold = _meanings(written)
    if not gold:
        return Judgement(Verdict.BAD_GOLD, None)
    if answer is None:
        return Judgement(Verdict.NO_ANSWER, None)
    found = _meanings(answer)
    if written.endswith("%") == answer.endswith("%"):
        gold, found = gold[:1], found[:1]
    right = any(abs(a - g) <= (tolerance * abs(g) if g else tolerance) for a in found for g in gold)
    return Judgement(Verdict.CORRECT if right else Verdict.WRONG, cut(answer))


def _meanings(number: str) -> list[Fraction]:
    """The values a number can mean: itself, and for a percentage also a hundredth of it. Empty: it is not a number."""
    found = value(number)
    if found is None:
        return []
    return [found, found / 100] if number.endswith("%") else [found]
