"""What a file's path says of its rows: which policy made them, which split and which training step they are of."""

import re
from pathlib import PurePath

from schemas import as_name
from schemas.enums import Split

# Words that say what is in a file or folder and not where it comes from.
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
    """Where a file comes from, as a name: its stem without `-train` or `_test` at the end, or the nearest folder's name
    that says more than `train` or `data`. The path should be absolute.
    """
    for name in (stem(path), *(parent.name for parent in path.parents)):
        if name and not GENERIC.fullmatch(name):
            return as_name(SPLIT_AT_END.sub("", name))
    return as_name(stem(path))


def split(name: str) -> Split:
    """The split a file's name inside what was imported speaks of: heldout for test, valid, dev or eval; else train."""
    return Split.HELDOUT if any(HELD_OUT.search(part) for part in PurePath(name).parts) else Split.TRAIN


def step(path: PurePath) -> int | None:
    """The training step a file's name or folder speaks of: `step_12/rollouts.jsonl`, `12.jsonl`; None if none does."""
    for name in (stem(path), *(parent.name for parent in path.parents)):
        if found := STEP.search(name):
            return int(found.group(1))
    return int(stem(path)) if stem(path).isdigit() else None
