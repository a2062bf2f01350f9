"""Finds out from a file's path where its rows come from, and their split and training step."""

import re
from pathlib import PurePath

from schemas import as_name
from schemas.enums import Split

# Words that describe the contents of a file or folder, not its origin.
GENERIC = re.compile(
    r"(train|training|test|testing|valid|validation|val|dev|eval|evaluation|heldout|data|dataset|main|default|part|shard|"
    r"completions?|rollouts?|rollout_data|generations?|results?|traces?|outputs?|out|logs?|run_default|step|global_step|"
    r"of|rows?|prompts?|problems?|questions?|all|effective|tmp|\d|[-_. ])+",
    re.IGNORECASE,
)
HELD_OUT = re.compile(r"(^|[^a-z])(test|testing|valid|validation|val|dev|eval|heldout)([^a-z]|$)", re.IGNORECASE)
SPLIT_AT_END = re.compile(r"[-_.](train|training|test|valid|validation|val|dev|eval|heldout)$", re.IGNORECASE)
STEP = re.compile(r"(?:^|[^a-z])(?:global_)?step[-_]?(\d+)(?:[^a-z0-9]|$)", re.IGNORECASE)


def stem(path: PurePath) -> str:
    """A file's name without its endings: of `a.b.jsonl.gz` it is `a.b`."""
    named = path.with_suffix("") if path.suffix == ".gz" else path
    return named.stem if named.suffix else named.name


def origin(path: PurePath) -> str:
    """A name for a file's origin: its stem without `-train` or `_test` at the end, or the name of the nearest folder
    that is more specific than `train` or `data`. The path should be absolute.
    """
    for name in (stem(path), *(parent.name for parent in path.parents)):
        if name and not GENERIC.fullmatch(name):
            return as_name(SPLIT_AT_END.sub("", name))
    return as_name(stem(path))


def split(name: str) -> Split:
    """The split that a file's name says: heldout for test, valid, dev or eval; else train. Folders count too."""
    return Split.HELDOUT if any(HELD_OUT.search(part) for part in PurePath(name).parts) else Split.TRAIN


def step(path: PurePath) -> int | None:
    """The training step in a file's name or folder: `step_12/rollouts.jsonl`, `12.jsonl`; None if there is none."""
    for name in (stem(path), *(parent.name for parent in path.parents)):
        if found := STEP.search(name):
            return int(found.group(1))
    return int(stem(path)) if stem(path).isdigit() else None
