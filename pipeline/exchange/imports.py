"""Brings files into the archive, with questions or with rollouts: ids, shards, rejects.

Guarantees: the rows of an import and its id depend only on the file's contents and the options with which it is read;
importing it again adds nothing. Rows are committed in shards, so an import that was killed is finished by running it
again, and no row is added twice. A bad row becomes a row of rejects with its place and the reason; the import's own row
is committed last. Memory is bounded by a shard and a few bytes per row.

Not guaranteed: that a rollout imported once as text and once with a tokenizer is known to be the same.
"""

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.archive.store import Store
from pipeline.exchange import formats
from pipeline.exchange.formats import BadRow, Columns, Reject, Row, SourceFile, names, reject
from pipeline.inputs.arithmetic import EMBEDDED
from pipeline.progress import bar
from pipeline.query import db
from schemas import UserError, check_name, did_you_mean, digest
from schemas.enums import Imported

SHARD_ROWS = 20_000
# Characters of text and bytes of numbers in a shard: about its size in memory.
SHARD_WEIGHT = 128_000_000
# A file that begins with this many bad rows is not of this kind.
MAX_BAD_AT_FIRST = 100_000
N_SHOWN = 10


class Item(Protocol):
    """The contents of one good row, or of a part of it."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def weight(self) -> int: ...


@dataclass(frozen=True)
class Built:
    """A shard: its rows by table, in the order of commits; rows that turned out bad; and how many items were good."""

    tables: Mapping[str, pa.Table]
    rejects: Sequence[Reject]
    n_good: int


class Importer(Protocol):
    """Makes table rows of one kind of file. It gets every row of the files once, in order."""

    def parse(self, row: Row) -> Sequence[Item]:
        """The items of a row.

        Raises:
            BadRow: the row cannot be read.
        """

    def build(self, store: Store | None, import_id: str, items: Sequence[Any]) -> Built:
        """The rows that the archive lacks; store None: as for an empty archive."""


@dataclass(frozen=True)
class ImportResult:
    """The result of an import, as recorded in the archive."""

    import_id: str
    source: str
    already: bool  # it had been imported before
    n_added: int
    n_known: int
    n_rejected: int
    counts: Mapping[str, int]  # see import_counts.sql
    rejects: Sequence[tuple[str, int, str]]  # the first few: file, line, reason


def source_name(source: str | None, path: Path) -> str:
    """The source name of the questions of a path: `source`, or a name from the path if it is None.

    Raises:
        UserError: it is not a valid name, or is the name of the embedded questions.
    """
    name = names.origin(path.resolve()) if source is None else check_name("source", source)
    if name.partition("-")[0] == EMBEDDED:
        raise UserError(f"source {name!r} is the name of questions made here; choose another with --source")
    return name


def parse_map(words: Sequence[str]) -> dict[str, str]:
    """`problem=question,gold_answer=answer` as a mapping of our columns to the file's.

    Raises:
        UserError: the text does not have this form, or names a column twice.
    """
    found: dict[str, str] = {}
    for part in (part for word in words for part in word.split(",") if part.strip()):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise UserError(f"--map {part!r}: write it as OURS=THEIRS, for example problem=question,gold_answer=answer")
        if found.setdefault(ours, theirs) != theirs:
            raise UserError(f"--map names two columns for {ours}: {found[ours]} and {theirs}")
    return found


def check_map(mapped: Mapping[str, str], allowed: Sequence[str]) -> Columns:
    """The mapping as Columns.

    Raises:
        UserError: it maps an unknown column; the message has the nearest name.
    """
    for ours in mapped:
        if ours not in allowed:
            hint = did_you_mean(ours, allowed, f"known: {', '.join(allowed)}")
            raise UserError(f"--map {ours}={mapped[ours]}: unknown column {ours}; {hint}")
    return Columns(dict(mapped))


def ask(store: Store | None, name: str, /, **inputs: Any) -> list[dict[str, Any]]:
    """The rows of `pipeline/*/sql/NAME.sql`; an input that is a list becomes the table `asked`."""
    if store is None:
        return []
    connection = db.connect(store, only=db.sql(name))
    listed = {key: value for key, value in inputs.items() if isinstance(value, list)}
    if listed:
        columns = {key: pa.array(value, pa.string()) for key, value in listed.items()}
        connection.register("asked", pa.table(columns))
    rows = db.rows(connection, name, **{key: value for key, value in inputs.items() if key not in listed})
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


@dataclass(frozen=True)
class _Chunk:
    items: list[Item]
    rejects: list[Reject]


def bring(
    archive: str | Path,
    path: Path,
    sources: Sequence[SourceFile],
    kind: Imported,
    format_: str,
    how: Mapping[str, Any],
    *,
    importer: Callable[[], Importer],
    strict: bool,
) -> ImportResult:
    """Imports files: the part that is the same for every kind.

    Args:
        how: all other options that affect the rows; they are in imports as JSON.
        importer: makes a new importer, for one pass over the files.

    Raises:
        UserError: no row can be imported, or one row cannot and `strict` is set.
    """
    file_digest, n_rows = formats.survey(sources)
    settings = json.dumps(how, sort_keys=True)
    stem = names.origin(path.resolve())[:54].strip("-._")
    import_id = f"{stem}-{digest('import', file_digest, kind, format_, settings)[:8]}"
    if strict:
        _refuse_bad_rows(None if Store.vacant(archive) else Store(archive), import_id, sources, importer(), n_rows)
    with bar(f"import {path.name}") as progress:
        this = importer()
        chunks = _chunks(sources, this, lambda done: progress(done, max(done, n_rows)))
        first = _up_to_a_good_row(chunks, path)
        store = Store.create(archive)
        with store.lock("import"):
            if already := ask(store, "import_recorded", import_id=import_id):
                store.snapshot(f"{import_id}/snapshot", "import")
                return _result(store, import_id, str(how["source"]), already[0], already=True)
            n_good = _commit(store, import_id, path, this, _chained(first, chunks))
            counts = ask(store, "import_counts", import_id=import_id)[0]
            n_added = counts["n_prompts"] if kind == Imported.PROMPTS else counts["n_rollouts"]
            row = {
                "import_id": import_id,
                "kind": kind,
                "file": str(path),
                "file_digest": file_digest,
                "format": format_,
                "how": settings,
                "n_added": n_added,
                "n_known": n_good - n_added,
                "n_rejected": counts["n_rejected"],
                "created_at": datetime.datetime.now(datetime.UTC),
            }
            if not store.recover(f"{import_id}/import", ("imports",)):
                store.write(f"{import_id}/import", {"imports": pa.Table.from_pylist([row])})
            store.snapshot(f"{import_id}/snapshot", "import")
    return _result(store, import_id, str(how["source"]), row, already=False)


def _result(store: Store, import_id: str, source: str, row: Mapping[str, Any], *, already: bool) -> ImportResult:
    shown = ask(store, "import_rejects", import_id=import_id, n_shown=N_SHOWN)
    return ImportResult(
        import_id=import_id,
        source=source,
        already=already,
        n_added=row["n_added"],
        n_known=row["n_known"],
        n_rejected=row["n_rejected"],
        counts=ask(store, "import_counts", import_id=import_id)[0],
        rejects=[(each["file"], each["line"], each["reason"]) for each in shown],
    )


def _chunks(sources: Sequence[SourceFile], importer: Importer, progress: Callable[[int], None]) -> Iterator[_Chunk]:
    """The files' rows, parsed, in chunks; where a chunk ends depends only on the files."""
    items: list[Item] = []
    rejects: list[Reject] = []
    weight = done = n_rows = 0
    for source in sources:
        for row in formats.read(source):
            done += 1
            n_rows += 1
            if isinstance(row, Reject):
                rejects.append(row)
            else:
                try:
                    found = importer.parse(row)
                except BadRow as error:
                    rejects.append(reject(source, row.line, str(error), row.values))
                else:
                    items += found
                    weight += sum(item.weight for item in found)
            if max(n_rows, len(items)) >= SHARD_ROWS or weight >= SHARD_WEIGHT:
                progress(done)
                yield _Chunk(items, rejects)
                items, rejects, weight, n_rows = [], [], 0, 0
    progress(done)
    if items or rejects:
        yield _Chunk(items, rejects)


def _up_to_a_good_row(chunks: Iterator[_Chunk], path: Path) -> list[_Chunk]:
    """The first chunks, up to one with a good row. Before that nothing may be committed.

    Raises:
        UserError: there is no good row.
    """
    first: list[_Chunk] = []
    for chunk in chunks:
        first.append(chunk)
        if chunk.items:
            return first
        if sum(len(chunk.rejects) for chunk in first) >= MAX_BAD_AT_FIRST:
            break
    raise _nothing_good(path, [bad for chunk in first for bad in chunk.rejects])


def _nothing_good(path: Path, bad: Sequence[Reject]) -> UserError:
    if not bad:
        return UserError(f"{path} holds no rows")
    one = bad[0]
    first = f"the first is {place(one.file, one.line)}: {one.reason}"
    return UserError(f"{path}: none of its {len(bad):,} rows can be imported; {first}")


def place(file: str, line: int) -> str:
    """FILE:LINE for a message; a file name with unprintable characters is escaped."""
    return f"{file if file.isprintable() else repr(file)}:{line}"


def _chained(first: list[_Chunk], rest: Iterator[_Chunk]) -> Iterator[_Chunk]:
    while first:
        yield first.pop(0)
    yield from rest


def _refuse_bad_rows(
    store: Store | None, import_id: str, sources: Sequence[SourceFile], importer: Importer, n_rows: int
) -> None:
    """Checks the rows of the files without committing anything.

    Raises:
        UserError: a row is bad.
    """
    with bar("check the rows") as progress:
        for chunk in _chunks(sources, importer, lambda done: progress(done, max(done, n_rows))):
            bad = chunk.rejects or importer.build(store, import_id, chunk.items).rejects
            if bad:
                where = place(bad[0].file, bad[0].line)
                raise UserError(f"{where}: {bad[0].reason}; nothing was imported, since --strict takes no bad row")


def _commit(store: Store, import_id: str, path: Path, importer: Importer, chunks: Iterator[_Chunk]) -> int:
    """Commits the rows of each chunk that the archive lacks; returns the number of good items.

    A shard has the tables that have rows in it. If the process died after it committed one table, that table has no new
    rows on the next attempt. The other tables have the same rows again, which are on disk already: see `Store.recover`.

    Raises:
        UserError: no item is good; nothing is committed.
    """
    n_good = 0
    waiting: list[tuple[str, dict[str, pa.Table]]] = []
    bad: list[Reject] = []
    for number, chunk in enumerate(chunks):
        built = importer.build(store, import_id, chunk.items)
        rejects = [{"import_id": import_id, **vars(each)} for each in (*chunk.rejects, *built.rejects)]
        tables = {"rejects": pa.Table.from_pylist(rejects), **built.tables}
        waiting.append((f"{import_id}/{number}", {name: rows for name, rows in tables.items() if len(rows)}))
        n_good += built.n_good
        if not n_good:
            bad += [*chunk.rejects, *built.rejects]
            if len(bad) >= MAX_BAD_AT_FIRST:
                break
            continue
        for shard, rows in waiting:
            if rows and not store.recover(shard, tuple(rows)):
                store.write(shard, rows)
        waiting.clear()
    if not n_good:
        raise _nothing_good(path, bad)
    return n_good
