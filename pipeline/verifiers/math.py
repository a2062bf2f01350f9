"""`math`: math-verify's judgement of the last boxed answer, or of the last expression if none is boxed.

math-verify's own time limits are off: they are signals, which fail off the main thread and cannot stop long integer
work. The pool that calls this holds the limit.
"""

from functools import lru_cache
from importlib.metadata import version
from typing import Any

from pipeline.verifiers import Judgement, Verifier, no_argument
from schemas.enums import Verdict


def make(argument: str | None) -> Verifier:
    no_argument("math", argument)
    return Verifier(
        "math",
        f"2+math-verify-{version('math-verify')}",
        "a mathematical expression, by math-verify: the last boxed answer, or else the last expression",
        ("1/2", r"so it is \boxed{0.5}"),
        read,
        judge,
    )


def read(response: str) -> str | None:
    boxed = response.rfind("\\boxed")  # math-verify would join several boxed answers into one list
    return response[max(boxed, 0) :]


@lru_cache(maxsize=1024)
def _gold(answer: str) -> Any:
    """The gold answer parsed as LaTeX; empty if nothing but its own text came of that."""
    from math_verify import LatexExtractionConfig, parse

    parsed = parse(f"${answer}$", (LatexExtractionConfig(),), parsing_timeout=None)
    return parsed if any(not isinstance(part, str) for part in parsed) else []


def judge(gold_answer: str, answer: str | None) -> Judgement:
    """The verdict and the answer as read from the response (null: none was read). Text is only ever parsed."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    gold = _gold(gold_answer)
    if not gold:
        return Judgement(Verdict.BAD_GOLD, None)
    # Priority 0 reads a boxed answer before any other expression in the response.
    found = parse(
        answer or "", (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()), parsing_timeout=None
    )
    if not found:
        return Judgement(Verdict.NO_ANSWER, None)
    right = verify(gold, found, timeout_seconds=None)
    return Judgement(Verdict.CORRECT if right else Verdict.WRONG, str(found[-1]))
