r"""`math`: math-verify judges the last boxed answer, or the last expression if none is boxed.

Gold and boxed answer are read alike: delimiters and units taken off (`latex.py`), then parsed as LaTeX. Without a
complete box the whole response goes to math-verify: first what follows `answer is`, then the last expression or number.
Its conventions hold: 10 % is 10 and 0.1; decimals are rounded to six places; `1, 2` is the set and may be the tuple.

math-verify's own time limits are off: they are signals, which fail off the main thread and cannot stop long integer
work. The pool that calls this holds the limit.
"""

from functools import lru_cache
from importlib.metadata import version
from typing import Any

from pipeline.verifiers import Judgement, Verifier, no_argument
from pipeline.verifiers.latex import as_latex
from pipeline.verifiers.reading import boxed, cut
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
    """The last box, or the whole response without one: what math-verify finds may stand anywhere in it."""
    content = boxed(response)
    return (response if response.strip() else None) if content is None else rf"\boxed{{{content}}}"


def judge(gold_answer: str, answer: str | None) -> Judgement:
    """Text is only ever parsed. A box that is no expression is a wrong answer, not a missing one."""
    from math_verify import verify

    gold = _gold(gold_answer)
    if not gold:
        return Judgement(Verdict.BAD_GOLD, None)
    content = boxed(answer or "")
    found = _expressions(content) if content is not None else _anywhere(answer or "")
    if not found:
        return Judgement(Verdict.NO_ANSWER, None)
    right = verify(gold, found, allow_set_relation_comp=True, timeout_seconds=None)
    # As it was read: writing out a number that was parsed may take for ever.
    text = content if content is not None else next((part for part in found if isinstance(part, str)), "")
    return Judgement(Verdict.CORRECT if right else Verdict.WRONG, cut(text))


@lru_cache(maxsize=1024)
def _gold(answer: str) -> list[Any]:
    """The gold answer parsed; empty if nothing but its own text came of that, or a division by zero."""
    from sympy import nan, zoo

    content = boxed(answer)
    parsed = _expressions(answer if content is None else content)
    return [] if all(isinstance(part, str) or part in (nan, zoo) for part in parsed) else parsed


def _expressions(answer: str) -> list[Any]:
    """An answer that is an expression and nothing else, parsed, and its text; the text alone if it does not parse."""
    from math_verify import parse

    # In a box and `first_match`: the whole of it is parsed, and no part of it if that fails.
    text = rf"\boxed{{{as_latex(answer)}}}"
    found: list[Any] = parse(text, (_latex(),), extraction_mode="first_match", parsing_timeout=None)
    return found


def _anywhere(response: str) -> list[Any]:
    """The expression math-verify finds in a text, parsed, and its text; empty: there is none."""
    from math_verify import ExprExtractionConfig, parse

    found: list[Any] = parse(response, (_latex(), ExprExtractionConfig()), parsing_timeout=None)
    if found and getattr(found[0], "is_Number", False):
        return found
    # What stands in a text may want the same reading as a box; what that leaves as it is was read just now.
    again = [part for text in found if isinstance(text, str) and as_latex(text) != text for part in _expressions(text)]
    return found + [part for part in again if part not in found]


def _latex() -> Any:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig

    # Priority 0 reads a box before any other expression.
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last", equations=False
    )
    return LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)
