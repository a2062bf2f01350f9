r"""Shared by several verifiers: finds the last boxed answer of a response, in time linear in its length."""

import re

# The longest answer that is stored; a longer one is cut, because nobody would read all of it.
MAX_EXTRACTED_CHARACTERS = 1000
# A run of backslashes with the command or brace after it, or a brace alone. It always matches a whole run, so it reads no
# backslash twice.
_TOKEN = re.compile(r"(\\++)(?:(boxed|fbox)(?![a-zA-Z])\s*+(\{?)|([{}]))?|([{}])")
# The content of a box without braces: a number, a command and its arguments, or one letter; `\boxed for` is prose.
_BARE = re.compile(r"[-+]?(?:\d++(?:[.,/]\d++)*+|\.\d++)|\\[a-zA-Z]++(?:\{[^{}]*+\}){0,2}|[A-Za-z](?![A-Za-z])")


def last_box(text: str) -> tuple[int, str] | None:
    r"""The position and trimmed content of the last complete `\boxed{…}` or `\fbox{…}` that is not empty; None: no box.

    The last box is the one that opens last, so of nested boxes the innermost. `\boxed 5` is a box too; `\{` is no brace.
    """
    best: tuple[int, int, int] | None = None
    open_braces: list[tuple[int, int]] = []  # where its box begins (-1: not a box's brace) and where its content begins
    first = min((at for command in (r"\boxed", r"\fbox") if (at := text.find(command)) >= 0), default=len(text))
    for token in _TOKEN.finditer(text, first):
        backslashes, box, opened, escaped, plain = token.groups()
        brace = plain or (escaped if len(backslashes) % 2 == 0 else None)  # `\\{` is a line break and a brace
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
    """The content of the last box; None: there is no box."""
    box = last_box(text)
    return box[1] if box else None


def cut(text: str) -> str:
    return text[:MAX_EXTRACTED_CHARACTERS]
