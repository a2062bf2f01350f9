r"""`multiple_choice`: one of the letters A to D, as GPQA asks for.

The answer is the letter in the last box; else the letter of the last `answer is (C)` or `Answer: C`, with or without `**`
or LaTeX around it; else the response, if it is only the letter. Two letters (`A or B`) are no answer. A small letter
counts only alone in its box or in parentheses: `the answer is a matter of taste` has no answer.
"""

import re
from collections import deque

from pipeline.verifiers import Judgement, Verifier, no_argument
from pipeline.verifiers.reading import boxed
from schemas.enums import Verdict

LETTERS = ("A", "B", "C", "D")
# All quantifiers are bounded or possessive, so a search takes linear time.
_ALONE = r"(?![\w'’])(?!\s{0,2}=)(?!\s{0,2}(?:\\text\s?\{\s?)?(?:[,/&+]|\\&|and\b|or\b)[\s}]{0,3}\(?[A-D](?!\w))"
_DRESS = r"(?:[\s*_$({]|\\[(\[]|\\(?:text|math)[a-z]{0,6}\s?\{)"
_BOXED = re.compile(rf"{_DRESS}*+(?:(?i:option|choice|answer)\b:?{_DRESS}*+)?(?:([A-D]){_ALONE}|([a-d])[\s)}}.*$]*+$)")
_SAID = re.compile(
    rf"(?i:answer)(?:(?i:\s{{1,3}}choice)?\s{{1,3}}(?i:is)\b:?|[*_]{{0,3}}\s?:){_DRESS}{{0,12}}+"
    rf"(?:(?i:option|choice)\b:?{_DRESS}{{0,8}}+)?"
    # "Answer: A photon is emitted" begins with an article.
    rf"(?:(?<=\()([a-d])(?=\))|(A(?!\s(?!as\b|because\b|since\b|due\b|is\b)[a-z])|[B-D]){_ALONE})"
)


def make(argument: str | None) -> Verifier:
    no_argument("multiple_choice", argument)
    return Verifier(
        "multiple_choice",
        "1",
        "one of A to D: in the last box, or else after the last 'answer is' or 'Answer:', or else alone",
        ("(C)", "Only this one conserves momentum, so the answer is **(C)**."),
        read,
        judge,
    )


def read(response: str) -> str | None:
    """The letter, as a capital."""
    content = boxed(response)
    if content is not None and (choice := _BOXED.match(content)):
        return (choice[1] or choice[2]).upper()
    said = deque(_SAID.finditer(response), maxlen=1)
    if said:
        return (said[0][1] or said[0][2]).upper()
    return _letter(response)


def judge(gold_answer: str, answer: str | None) -> Judgement:
    gold = _letter(gold_answer)
    if gold is None:
        return Judgement(Verdict.BAD_GOLD, None)
    if answer is None:
        return Judgement(Verdict.NO_ANSWER, None)
    return Judgement(Verdict.CORRECT if answer == gold else Verdict.WRONG, answer)


def _letter(text: str) -> str | None:
    """The letter of a text that is one letter and punctuation; None: it is something else."""
    bare = text.strip(" \t\r\n*_().:$").upper()
    return bare if bare in LETTERS else None
