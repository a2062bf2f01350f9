"""Ids: names that a person chose, or digests of what they name; never counters, never random numbers."""

import hashlib
import json
import re

from schemas.errors import UserError

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
# The name of a training pass, of its run and iteration; SQL's format reads it as Python's does.
PASS_NAME = "{}-{:04d}"


def digest(*parts: str | int | float | None) -> str:
    """32 hex digits that name `parts`: the same parts give the same id on every machine and in every version."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def pass_name(run_id: str, iteration: int) -> str:
    """The name of a run's training pass, from iteration 1; also that of the policy it makes."""
    return PASS_NAME.format(run_id, iteration)


def check_name(kind: str, name: str) -> str:
    """Returns `name` if it can be part of an id and of a folder's name.

    Raises:
        UserError: it cannot; `kind` ("run", "policy") says in the message what was being named.
    """
    if not re.match(NAME_PATTERN, name):
        raise UserError(f"{kind} name {name!r}: use lower-case letters, digits, '.', '_' and '-', at most 63")
    return name


def as_name(text: str, otherwise: str = "unnamed") -> str:
    """Somebody else's name as one of ours: lower case, '-' for what may not stand in it; a long one ends in a digest."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or otherwise
    return name if len(name) <= 63 else f"{name[:54]}-{digest(text)[:8]}"
