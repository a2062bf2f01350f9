r"""`gsm8k`: the final number of a worked solution, as in grade-school-math.

The answer is the number after the last `####`, after the last `A:` at a line's beginning, or in the last box, whichever
comes last in the response; other numbers do not count. Numbers are compared by value: `1,080`, `$1080`, `1080.00`,
`1080.` and `1080 dollars` are the same, and `%` is a unit like any other. If several numbers follow a marker, the first
counts.
"""

import re

from pipeline.verifiers import Judgement, Verifier, no_argument
from pipeline.verifiers.numbers import NUMBER, only_number, plain, value
from pipeline.verifiers.reading import cut, last_box
from schemas.enums import Verdict

_MARKED = re.compile(r"(?:####|^A:)([^\n]*+)", re.MULTILINE)


def make(argument: str | None) -> Verifier:
    no_argument("gsm8k", argument)
    return Verifier(
        "gsm8k",
        "1",
        "a number: after the last ####, after the last A: at a line's beginning, or in the last box",
        ("#### 18", "16 - 7 = 9, so she makes 9 * 2 = 18 dollars.\n#### $18.00"),
        read,
        judge,
    )


def read(response: str) -> str | None:
    """The number as it is written, without the text around it; None: no marker or box has a number."""
    place, found = -1, None
    for line in _MARKED.finditer(response):
        marked = plain(line[1].rpartition("####")[2])
        if number := NUMBER.search(marked):
            place, found = line.start(), number[0].strip()
    box = last_box(response)
    if box and box[0] > place and (boxed_number := only_number(box[1])):
        return boxed_number
    return found


def judge(gold_answer: str, answer: str | None) -> Judgement:
    """Compares values. The gold answer is a number, or a solution with its number marked as in a response."""
    gold = value(read(gold_answer) or only_number(gold_answer) or "")
    if gold is None:
        return Judgement(Verdict.BAD_GOLD, None)
    if answer is None:
        return Judgement(Verdict.NO_ANSWER, None)
    return Judgement(Verdict.CORRECT if value(answer) == gold else Verdict.WRONG, cut(answer))
