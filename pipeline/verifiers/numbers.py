r"""Numbers as people write them, found in linear time and read exactly.

A number is `-1,234.50`, `.5`, `3/4`, `\frac{3}{4}`, `6.02e23`, `6.02 \times 10^{23}`, `10^5`, with a currency sign before
it or `%` after it. A comma separates thousands only if three digits follow. Exponents and indices (`m^2`, `x_1`) are not
numbers.
"""

import re
from fractions import Fraction

# A number beyond these limits is not an answer, and computing with it would take too long.
MAX_CHARACTERS, MAX_EXPONENT = 200, 400
_WRITTEN = {
    **{"−": "-", "–": "-", "{,}": ",", r"\,": "", r"\!": "", r"\$": "$", r"\%": "%", " percent": "%"},
    **{r"\times": "×", r"\cdot": "×", "·": "×", r"\approx": "≈"},
}
_FRACTION = re.compile(r"\\[dt]?frac\s?\{\s?([-+]?\d++)\s?\}\s?\{\s?(\d++)\s?\}")
_DIGITS = r"(?:\d{1,3}(?:,\d{3}(?!\d))++|\d++)(?:\.\d++)?|\.\d++"
_POWER = r"10\s?\^\s?(?:\{\s?([-+]?\d++)\s?\}|([-+]?\d++))"
# All quantifiers are bounded or possessive, so a search takes linear time.
NUMBER = re.compile(
    rf"(?<![\w^.])(?<![\^_]\{{)(?<!\^[-+])(?<!\^\{{[-+])(?:(?<!\))[-+])?[$€£]?"
    rf"(?:{_POWER}|({_DIGITS})(?:[eE]([-+]?\d++)|\s?[×*x]\s?{_POWER}|\s?/\s?(\d++))?)(\s?%)?"
)
_UNIT = re.compile(
    r"(?:[\s~]|\\[;: ])*+(?:\\(?:text|math|mbox|degree).*|\^\s?\{?\s?\\circ.*"
    r"|(?:[A-Za-z°µΩ]++(?:\s?\^\s?\{?-?\d\}?|[²³\d])?[\s/·.-]*+)*+)\.?\s*+",
    re.DOTALL,
)


def plain(text: str) -> str:
    """The text with numbers in plain notation instead of LaTeX; `NUMBER` and `only_number` need it so."""
    for written, meant in _WRITTEN.items():
        text = text.replace(written, meant)
    return _FRACTION.sub(r"\1/\2", text)


def only_number(text: str) -> str | None:
    """The number in a text that is only a number, maybe after `x =` and before a unit; None: it is something else."""
    side = re.split("[=≈]", plain(text))[-1].strip().strip("$").strip()
    number = NUMBER.match(side)
    return number[0].strip() if number and _UNIT.fullmatch(side, number.end()) else None


def value(number: str) -> Fraction | None:
    """The exact value of a text that `NUMBER` matched, where `%` is ignored; None: it is not a number, or too long."""
    if len(number) > MAX_CHARACTERS or not (found := NUMBER.fullmatch(number)):
        return None
    braced_power, power, digits, exponent, braced_times, times, divisor, _ = found.groups()
    shift = int(braced_power or power or exponent or braced_times or times or 0)
    if abs(shift) > MAX_EXPONENT or (divisor and not int(divisor)):
        return None
    size = Fraction((digits or "1").replace(",", "")) * Fraction(10) ** shift / int(divisor or 1)
    return -size if number.startswith("-") else size
