r"""What several verifiers share: the last boxed answer of a response, found in time linear in its length."""

import re

# An extracted answer is stored; what is longer is no answer that a person would want to see whole.
MAX_EXTRACTED_CHARACTERS = 1000
# A run of backslashes and what it stands before, or a brace. It always takes a whole run, so none is read twice.
_TOKEN = re.compile(r"(\\++)(?:(boxed|fbox)(?![a-zA-Z])\s*+(\{?)|([{}]))?|([{}])")
# What a box without braces holds: a number, a command and its arguments, or one letter; `\boxed for` is prose.
_BARE = re.compile(r"[-+]?(?:\d++(?:[.,/]\d++)*+|\.\d++)|\\[a-zA-Z]++(?:\{[^{}]*+\}){0,2}|[A-Za-z](?![A-Za-z])")


def last_box(text: str) -> tuple[int, str] | None:
    r"""Where the last complete, filled `\boxed{…}` or `\fbox{…}` begins, and what it holds, trimmed; None: there is none.

    Last is the one that opens last, so the innermost of several in each other. `\boxed 5` is one too; `\{` is no brace.
    """
    best: tuple[int, int, int] | None = None
    open_braces: list[tuple[int, int]] = []  # where its box begins (-1: none of a box) and its content
    first = min((at for command in (r"\boxed", r"\fbox") if (at := text.find(command)) >= 0), default=len(text))
    for token in _TOKEN.finditer(text, first):
        backslashes, box, opened, escaped, plain = token.groups()
        brace = plain or (escaped if len(backslashes) % 2 == 0 else None)  # `\\{` is a line's end and a brace
        if box and opened:
            open_braces.append((token.start(), token.end()))
        elif box:
            bare = _BARE.match(text, token.end())
            if bare and (best is None or token.start() > best[0]):
                best = token.start(), *bare.span()
        elif brace == "{":
            open_braces.append((-1, token.end()))
        elif brace == "}" and open_braces:
            start, content = open_braces.pop()
            last = start >= 0 and (best is None or start > best[0])
            if last and text[content : token.end() - 1].strip():
                best = start, content, token.end() - 1
    return (best[0], text[best[1] : best[2]].strip()) if best else None


def boxed(text: str) -> str | None:
    """What the last box holds; None: there is none."""
    box = last_box(text)
    return box[1] if box else None


def cut(text: str) -> str:
    return text[:MAX_EXTRACTED_CHARACTERS]
