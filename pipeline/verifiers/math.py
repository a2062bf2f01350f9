"""`math`: math-verify's judgement of the last boxed answer, or of the last expression if none is boxed.

math-verify's own time limits are off: they are signals, which fail off the main thread and cannot stop long integer
work. The pool that calls this holds the limit.
"""

from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from schemas.enums import Verdict

# Priority 0 reads a boxed answer before any other expression in the response.
_RESPONSE = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


@lru_cache(maxsize=1024)
def _gold(answer: str) -> Any:
    """The gold answer parsed as LaTeX; empty if nothing but its own text came of that."""
    parsed = parse(f"${answer}$", (LatexExtractionConfig(),), parsing_timeout=None)
    return parsed if any(not isinstance(part, str) for part in parsed) else []


def judge(gold_answer: str, response: str) -> tuple[Verdict, str | None]:
    """The verdict and the answer as read from the response (null: none was read). Text is only ever parsed."""
    gold = _gold(gold_answer)
    if not gold:
        return Verdict.BAD_GOLD, None
    boxed = response.rfind("\\boxed")  # math-verify would join several boxed answers into one list
    answer = parse(response[max(boxed, 0) :], _RESPONSE, parsing_timeout=None)
    if not answer:
        return Verdict.NO_ANSWER, None
    right = verify(gold, answer, timeout_seconds=None)
    return (Verdict.CORRECT if right else Verdict.WRONG), str(answer[-1])
