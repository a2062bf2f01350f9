r"""`math`: math-verify judges the last boxed answer, or the last expression if none is boxed.

Gold and boxed answers are read the same way: delimiters and units are removed (`latex.py`), then LaTeX is parsed. Without
a complete box the whole response goes to math-verify, which looks first after `answer is`, then for the last expression
or number. Its conventions apply: 10 % is 10 and 0.1; decimals are rounded to six places; `1, 2` is the set and may be the
tuple.

math-verify's own time limits are off: they use signals, which fail outside the main thread and cannot stop long integer
computations. The pool that calls this has its own time limit.
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
    """The last box. Without a box the whole response, because math-verify may find an expression anywhere in it."""
    content = boxed(response)
    return (response if response.strip() else None) if content is None else rf"\boxed{{{content}}}"


def judge(gold_answer: str, answer: str | None) -> Judgement:
    """Text is only parsed, never run. A box without an expression is a wrong answer, not a missing one."""
    from math_verify import verify

    gold = _gold(gold_answer)
    if not gold:
        return Judgement(Verdict.BAD_GOLD, None)
    content = boxed(answer or "")
    found = _expressions(content) if content is not None else _anywhere(answer or "")
    if not found:
        return Judgement(Verdict.NO_ANSWER, None)
    right = verify(gold, found, allow_set_relation_comp=True, timeout_seconds=None)
    # The text as it was read, because writing out a parsed number may take very long.
    text = content if content is not None else next((part for part in found if isinstance(part, str)), "")
    return Judgement(Verdict.CORRECT if right else Verdict.WRONG, cut(text))


@lru_cache(maxsize=1024)
def _gold(answer: str) -> list[Any]:
    """The parsed gold answer; empty if parsing gives only its own text or a division by zero."""
    from sympy import nan, zoo

    content = boxed(answer)
    parsed = _expressions(answer if content is None else content)
    return [] if all(isinstance(part, str) or part in (nan, zoo) for part in parsed) else parsed


def _expressions(answer: str) -> list[Any]:
    """An answer that is one expression, parsed, and its text; only the text if it cannot be parsed."""
    from math_verify import parse

    # In a box, and with `first_match`: the answer is parsed as a whole, and if that fails, no part of it is parsed.
    text = rf"\boxed{{{as_latex(answer)}}}"
    found: list[Any] = parse(text, (_latex(),), extraction_mode="first_match", parsing_timeout=None)
    return found


def _anywhere(response: str) -> list[Any]:
    """The expression math-verify finds in a text, parsed, and its text; empty: there is none."""
    from math_verify import ExprExtractionConfig, parse

    found: list[Any] = parse(response, (_latex(), ExprExtractionConfig()), parsing_timeout=None)
    if found and getattr(found[0], "is_Number", False):
        return found
    # An expression in a text may need `as_latex` like a boxed one. What `as_latex` does not change is parsed already.
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
