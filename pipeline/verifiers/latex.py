r"""Turns an answer as people write it into LaTeX that math-verify understands correctly.

Only the notation changes, never the meaning: delimiters and units after a number are removed, `1\,000` becomes one
number, `2 1/2` a mixed number, and words become text and not products of letters. math-verify's own removal of units is
off, because it takes the last summand of `a + b + c` for a unit.
"""

import re
from fractions import Fraction

_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$|\\\$|[€£¥]")
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−–‐‑", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f", " "),
        **{"×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt "},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "},
        **{"°": r"^\circ ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"},
    }
)
_COMMANDS = {r"\varnothing": r"\emptyset", r"\langle": "(", r"\rangle": ")", r"\nobreakspace": " ", "{,}": ","}
_PERCENT = re.compile(r"\s*\\(?:text|mathrm)\s*\{\s*(?:percent|per cent)\s*\}")
_ROOT = re.compile(r"\\sqrt\s+(\d+)")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[,! ]|~|\s)\d{3})+(?!\d)")
_NOT_A_DIGIT = re.compile(r"\D+")
_MIXED = re.compile(r"([-+]?\d+)\s+(\d+)/(\d+)")
_SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d{1,4})")
_REPEATING = re.compile(r"(\d{0,30})\.(\d{0,30})\\(?:overline|bar)\s*\{(\d{1,30})\}")

_SPACE = r"(?:\s|~|\\[,;:! ])"
_POWER = r"(?:\s*\^\s*(?:\d|\{\s*\d\s*\}))?"
# Words that change a number's value, or connect it with something else, are not units.
_NO_UNIT = (
    r"(?!\w*(?:percent|pct|hundred|thousand|illion|dozen|half)|\w+\s+(?:or|and|to)\b|(?:sin|cos|tan|log|exp|mod)\b)"
)
_SHORT = r"(?:[kcdmn]m|[km]?g|m[lL]|ft|in|yd|mi|lbs?|oz|hrs?|min|sec|ms|[kM]?Hz|[kM]?W|[kM]?J|mph|mol)"
_NUMBER = r"(?:[-+\d.,/:(){}^]|\\(?:[dt]?frac|sqrt|pi|times|cdot)(?![a-zA-Z])|" + _SPACE + r")+"
# In formulas only `\text` and degrees are units: the h of `\pi r^2 h` is a height.
_UNITS = (
    rf"(?P<number>.*[\w}})]){_SPACE}*\\(?:text\w*|math(?:rm|it|bf)|mbox|operatorname)\s*\{{[\s~]*+{_NO_UNIT}[^{{}}%\d]*\}}{_POWER}",
    rf"(?P<number>.*[\d}})]){_SPACE}*(?:\^\s*(?:\{{\s*\\circ\s*\}}|\\circ)|\\degree){_SPACE}*(?:[CF]|\\(?:text|mathrm)\{{[CF]\}})?",
    rf"(?P<number>{_NUMBER}){_SHORT}{_POWER}(?:/(?:{_SHORT}|[smhL]){_POWER})?",
    rf"(?P<number>{_NUMBER})(?<=\s)[mshgLKVANJW](?:/[smhL])?{_POWER}",
    rf"(?P<number>{_NUMBER})(?<=\s){_NO_UNIT}[A-Za-z]{{3,}}(?:\s+[A-Za-z]{{2,}})*(?:/[a-z]+)?",
)
_WITH_UNIT = tuple(re.compile(pattern, re.DOTALL) for pattern in _UNITS)
_WORDS = re.compile(r"(?=.*[A-Za-z]{3})(?!.*\b(?:sin|cos|tan|log|exp|sqrt|inf|infinity|pi)\b)[A-Za-z]+(?:\s+[A-Za-z]+)*")


def as_latex(answer: str) -> str:
    r"""The answer as LaTeX, without delimiters.

    >>> as_latex("$1\\,000$ dollars."), as_latex("2 1/2"), as_latex("no solution")
    ('1000', '2\\frac{1}{2}', '\\text{no solution}')
    """
    text = _DELIMITERS.sub("", answer).translate(_SYMBOLS)
    for command, plain in _COMMANDS.items():
        text = text.replace(command, plain)
    text = _ROOT.sub(r"\\sqrt{\1}", _PERCENT.sub(r"\\%", text.strip()))
    if not text.endswith(".."):
        text = text.rstrip(".,;: \n\t")
    for pattern in _WITH_UNIT:
        if measured := pattern.fullmatch(text):
            text = measured["number"].rstrip()
    text = _GROUPED.sub(lambda number: _NOT_A_DIGIT.sub("", number[0]), text)
    text = _REPEATING.sub(_fraction, text)
    if mixed := _MIXED.fullmatch(text):
        return r"{}\frac{{{}}}{{{}}}".format(*mixed.groups())
    if scientific := _SCIENTIFIC.fullmatch(text):
        return r"{}\times 10^{{{}}}".format(*scientific.groups())
    return rf"\text{{{text}}}" if _WORDS.fullmatch(text) else text


def _fraction(number: re.Match[str]) -> str:
    """A repeating decimal as a fraction: 0.1(6) is (16 - 1) / 90."""
    whole, fixed, period = number.groups()
    shift = 10 ** len(fixed)
    value = Fraction(int(whole + fixed + period) - int("0" + whole + fixed), shift * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
