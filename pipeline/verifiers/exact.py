r"""`exact`: the same text as the gold answer; any white space counts as one space. Case matters.

The answer is the content of the last box, or the whole response if there is no box.
"""

from pipeline.verifiers import Judgement, Verifier, no_argument
from pipeline.verifiers.reading import boxed, cut
from schemas.enums import Verdict


def make(argument: str | None) -> Verifier:
    no_argument("exact", argument)
    return Verifier(
        "exact",
        "1",
        "the same text: the last box, or else the whole response; white space is collapsed",
        ("Mount  Everest", r"It is \boxed{Mount Everest}."),
        read,
        judge,
    )


def read(response: str) -> str | None:
    content = boxed(response)
    return _collapsed(response if content is None else content) or None


def judge(gold_answer: str, answer: str | None) -> Judgement:
    gold = _collapsed(gold_answer)
    if not gold:
        return Judgement(Verdict.BAD_GOLD, None)
    if answer is None:
        return Judgement(Verdict.NO_ANSWER, None)
    return Judgement(Verdict.CORRECT if answer == gold else Verdict.WRONG, cut(answer))


def _collapsed(text: str) -> str:
    return " ".join(text.split())
