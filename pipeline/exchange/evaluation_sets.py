"""Finds an evaluation set, which users call a benchmark: a file, a folder, a source of the archive, or a known name.

The columns of published sets are in `formats/published.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pipeline.archive.store import Store
from pipeline.exchange import formats
from pipeline.exchange.formats import names
from pipeline.exchange.import_prompts import import_prompts
from pipeline.exchange.imports import ImportResult, place, source_name
from pipeline.progress import log
from pipeline.query import db
from schemas import UserError, as_name, did_you_mean
from schemas.enums import Split

# The benchmarks of the paper (arXiv 2603.23355), by their place on the hub: OWNER/NAME, and a file or folder in it.
USUAL = {
    "aime24": "math-ai/aime24",
    "aime25": "math-ai/aime25",
    "amc": "math-ai/amc23",
    "math": "HuggingFaceH4/MATH-500",
    "minerva": "math-ai/minervamath",
    "olympiad": "math-ai/olympiadbench",
    "gpqa": "Idavidrein/gpqa:gpqa_diamond.csv",
}
_HUB = re.compile(r"([\w.-]+)/([\w.-]+)(?::(.+))?")


@dataclass(frozen=True)
class Found:
    """A benchmark: the source of its questions in the archive, and the path of its files; None: the archive has it."""

    source: str
    path: Path | None


def find(store: Store | None, named: Sequence[str]) -> list[Found]:
    """The benchmark of each name; store None: the archive does not exist yet. Downloads benchmarks from the hub.

    Raises:
        UserError: a name is no benchmark, the hub does not give it, or its source in the archive came from another file.
    """
    known = db.query(store, "prompt_sources").to_pylist() if store else []
    heldout = [row["source"] for row in known if row["n_heldout"]]
    found = [_find(each, heldout) for each in named]
    sources = [each.source for each in found]
    if twice := next((source for source in sources if sources.count(source) > 1), None):
        raise UserError(f"two benchmarks are called {twice!r}; leave one out, or rename its file")
    for each in found:
        if store is not None and each.path is not None:
            _check_same_file(store, each.source, each.path)
    return found


def _find(named: str, heldout: Sequence[str]) -> Found:
    path = Path(named).expanduser()
    if path.exists():
        formats.find(path)
        return Found(source_name(None, path), path)
    if named in heldout:
        return Found(named, None)
    if found := on_hub(named):
        return found
    hint = did_you_mean(named, [*heldout, *USUAL], f"usual names are {', '.join(USUAL)}")
    raise UserError(f"benchmark {named!r} is no file, and the archive has no held-out questions of that name; {hint}")


def on_hub(named: str) -> Found | None:
    """Downloads the benchmark of a usual name, OWNER/NAME or OWNER/NAME:INSIDE; None: the name is none of these.

    Raises:
        UserError: it cannot be downloaded.
    """
    address = _HUB.fullmatch(USUAL.get(named, named))
    if address is None or (not address[3] and formats.suffix(PurePath(named)) in formats.SUFFIXES):
        return None
    owner, name, inside = address.groups()
    parts = [name, *([names.stem(PurePath(inside))] if inside else [])]
    return Found(named if named in USUAL else as_name("-".join(parts)), _fetched(named, f"{owner}/{name}", inside or ""))


def _fetched(named: str, repository: str, inside: str) -> Path:
    """Downloads the data files of a data set on the hub, or only the file or folder `inside`; returns their path.

    Raises:
        UserError: they cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    wanted = [inside, f"{inside}/*"] if inside else [f"*{suffix}*" for suffix in formats.SUFFIXES]
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=wanted))
    except Exception as error:  # the hub's client raises many kinds of errors; all mean the same here
        reason = str(error).splitlines()[0]
        raise UserError(f"{named!r} is no file, and the hub does not give {repository}: {reason}") from None
    path = folder / inside
    if not path.exists():
        raise UserError(f"{named!r}: the hub's {repository} has no {inside}")
    return path


def _check_same_file(store: Store, source: str, path: Path) -> None:
    """Refuses a second file under one name: its questions would be mixed with those of the first.

    Raises:
        UserError: the archive's questions of this source came from another file.
    """
    digest, _ = formats.survey(formats.find(path))
    for row in db.query(store, "imports_of", source=source).to_pylist():
        if row["file_digest"] != digest:
            raise UserError(
                f"benchmark {path}: the archive's questions {source!r} are those of another file, {row['file']}; rename "
                f"this one, or say --benchmark {source} to evaluate on those"
            )


def bring(archive: str, found: Found) -> None:
    """Adds a benchmark's questions to the archive as held-out questions, unless they are there; makes a missing archive.

    Raises:
        UserError: none of its rows can be read.
    """
    if found.path is None:
        return
    # If the names of the files say that they are of several splits, only the held-out files are the benchmark.
    splits = {names.split(each.name) for each in formats.find(found.path)}
    result = import_prompts(archive, found.path, source=found.source, split=None if len(splits) > 1 else Split.HELDOUT)
    if not result.already:
        _say(found, result)


def _say(found: Found, result: ImportResult) -> None:
    log.info("benchmark %s: %d questions of %s", found.source, result.n_added, found.path)
    if result.n_rejected:
        file, line, reason = result.rejects[0]
        first = f"{place(file, line)}: {reason}"
        log.info("%d of its rows could not be read, and are in rejects; the first is %s", result.n_rejected, first)
