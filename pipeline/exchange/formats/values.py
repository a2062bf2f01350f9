"""Checks the values of a foreign file and converts them.

A foreign file is not trusted: a value either has the expected kind, or its row is bad. The reason then says which column
it is, which value it has and, if there is one, a way to fix it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Mapping[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]

LARGEST_INT = 2**63 - 1
LARGEST_TOKEN_ID = 2**31 - 1
# A log-probability is at most 0, but engines round.
LARGEST_LOGPROB = 0.01
TRUTHS: dict[str, float] = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


class BadRow(Exception):
    """A row cannot be read. The message is the reason that goes into rejects."""


@dataclass(frozen=True)
class Columns:
    """The file's column for each of our columns, from `--map`. A name with dots means a field of a struct."""

    mapped: Mapping[str, str]

    def find(self, values: Values, name: str, aliases: Sequence[str]) -> Any:
        """The row's value for our column `name`: of the mapped column, or else of the first alias that is not None.

        Raises:
            BadRow: the row has no mapped column.
        """
        if (theirs := self.mapped.get(name)) is not None:
            return reach(values, theirs)
        return next((values[alias] for alias in aliases if values.get(alias) is not None), None)


def reach(values: Values, dotted: str) -> Any:
    """The value of a column, or of a field inside one.

    Raises:
        BadRow: there is no such column or field.
    """
    if dotted in values:
        return values[dotted]
    found: Any = values
    for part in dotted.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise BadRow(f"no column {dotted!r}; it has {_listed(values)}")
        found = found[part]
    return found


def string(name: str, value: Any) -> str:
    """The value as text.

    Raises:
        BadRow: it is not text, or holds half a surrogate pair, which no file can store.
    """
    if not isinstance(value, str):
        raise BadRow(f"{name} is {shown(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} holds half a surrogate pair: it is not valid Unicode") from None
    return value


def messages(value: Any) -> list[dict[str, str]] | None:
    """A value as chat messages of role and content; None if it is no list of messages.

    Raises:
        BadRow: a message holds something other than text, for example a tool call or an image.
    """
    if not isinstance(value, list) or not value or not all(isinstance(m, Mapping) and "role" in m for m in value):
        return None
    found = []
    for message in value:
        if message.get("tool_calls"):
            raise BadRow("a message calls tools; only text can be imported")
        said = _said(message.get("content"))
        if reasoning := message.get("reasoning_content"):
            said = f"{string('reasoning_content', reasoning)}\n\n{said}"
        found.append({"role": string("role", message["role"]), "content": said})
    return found


def _said(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise BadRow("a message holds something other than text")
        content = "".join(part["text"] for part in content)
    return string("content", content)


def problem(value: Any) -> tuple[str, list[dict[str, str]] | None]:
    """A question as text, and the chat messages if it came as such. The text is the user's message only.

    Raises:
        BadRow: there is no question, or it is a conversation of several turns.
    """
    if value is None:
        raise BadRow("no problem (problem, question, prompt, query or input); name its column with --map problem=COLUMN")
    chat = messages(value)
    if chat is None:
        text = string("problem", value)
    else:
        asked = [message["content"] for message in chat if message["role"] == "user"]
        if len(asked) != 1 or any(message["role"] not in ("system", "user") for message in chat):
            raise BadRow("the prompt is a conversation of several turns; only a single question can be imported")
        text = asked[0]
    if not text.strip():
        raise BadRow("the problem is empty")
    return text, chat


def response(value: Any) -> str:
    """The text of a model's single answer, which is given as text or as one message.

    Raises:
        BadRow: it is something else, or several turns.
    """
    chat = messages(value)
    if chat is None:
        return string("response", value)
    if len(chat) != 1 or chat[0]["role"] != "assistant":
        raise BadRow("the response is a conversation of several turns; only a single answer can be imported")
    return chat[0]["content"]


def gold(value: Any) -> str | None:
    r"""The right answer: the text after the last `#### ` or `A: `, without commas between thousands, or the content of
    the last `\boxed{...}`; else the whole text. None if there is none.

    Raises:
        BadRow: it is neither text nor a number.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        finite("gold_answer", value)
        return str(value)
    text = string("gold_answer", value).strip()
    marked = re.findall(r"(?m)(?:####|^A:)[ \t]*(\S.*?)[ \t]*$", text)
    if marked:
        return re.sub(r"(?<=\d),(?=\d{3}\b)", "", marked[-1])
    return _boxed(text) or text or None


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : place].strip() or None
    return None


def finite(name: str, value: Any) -> float | None:
    """A number; true is 1 and false is 0; None stays None.

    Raises:
        BadRow: it is not a number, or not finite.
    """
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        number = TRUTHS.get(value.strip().lower()) if isinstance(value, str) else None
    if number is None or not math.isfinite(number):
        raise BadRow(f"{name} is {shown(value)}, not a finite number")
    return number


def truth(name: str, value: Any) -> float | None:
    """1 or 0 for true or false; None stays None.

    Raises:
        BadRow: it is neither; a column of right answers may have the same name.
    """
    if value is None:
        return None
    found = TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise BadRow(f"{name} is {shown(value)}, neither true nor false")
    return found


def integer(name: str, value: Any) -> int | None:
    """An integer from 0; None stays None.

    Raises:
        BadRow: it is not such an integer.
    """
    number = finite(name, value)
    if number is None:
        return None
    if number != int(number) or not 0 <= number <= LARGEST_INT:
        raise BadRow(f"{name} is {shown(value)}, not an integer from 0")
    return int(value) if isinstance(value, int | str) and str(value).strip().isdigit() else int(number)


def token_ids(name: str, value: Any) -> Array | None:
    """Token ids as int32; None stays None.

    Raises:
        BadRow: the value is not a list of token ids.
    """
    return _list(name, value, "token ids", _are_token_ids, np.int32)


def logprobs(name: str, value: Any) -> Array | None:
    """Log-probabilities in nats as float32; None stays None.

    Raises:
        BadRow: the value is not a list of log-probabilities.
    """
    return _list(name, value, "log-probabilities", _are_logprobs, np.float32)


def _are_token_ids(found: Array) -> bool:
    return found.dtype.kind in "iu" and bool(found.min() >= 0 and found.max() <= LARGEST_TOKEN_ID)


def _are_logprobs(found: Array) -> bool:
    return found.dtype.kind in "iuf" and bool(np.isfinite(found).all() and found.max() <= LARGEST_LOGPROB)


def _list(name: str, value: Any, what: str, fits: Callable[[Array], bool], kind: type) -> Array | None:
    found = _array(name, value)
    if found is not None and len(found) and not fits(found):
        raise BadRow(f"{name} is {shown(value)}, not a list of {what}")
    return None if found is None else found.astype(kind)


def _array(name: str, value: Any) -> Array | None:
    value = from_json(value)
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise BadRow(f"{name} is {shown(value)}, not a list")
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError):
        found = np.empty((0, 0))
    if found.ndim != 1:
        raise BadRow(f"{name} is {shown(value)}, not a list of numbers")
    return found


def from_json(value: Any) -> Any:
    """Decodes a list that a CSV file holds as JSON; returns any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def shown(value: Any) -> str:
    """The beginning of a value, on one line, for a message."""
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"a list of {len(value)}: {shown(list(value[:4]))} …"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _listed(values: Values) -> str:
    names = [repr(name) if len(name) <= 30 else repr(name[:30]) + "…" for name in list(values)[:12]]
    return ", ".join(names) + (", …" if len(values) > 12 else "") if names else "none"
