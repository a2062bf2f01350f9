"""Reads rows from files and folders: JSONL, JSON, CSV, Parquet, a Hugging Face datasets folder.

Guarantees: every row of a file is returned once, in order, with its place in the file, either as columns and values or as
a reject with the reason. A bad row does not affect other rows, unless the file cannot be read after it; then the last
reject says so. Rows are streamed; only a JSON file that is one array is held in memory whole.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exchange.formats.values import BadRow
from schemas import UserError

# A longer line is not taken for a row: 32k tokens with log-probs and text are about 2 MiB of JSON.
MAX_LINE_BYTES = 64 << 20
# The most of a JSON file that is one array, which is read whole.
MAX_ARRAY_BYTES = 1 << 30
SHOWN_CHARACTERS = 200
BATCH_ROWS = 256
TEXT = (".jsonl", ".ndjson", ".csv", ".json")
SUFFIXES = (*TEXT, ".parquet", ".arrow")
# Files beside the data in a folder of Hugging Face datasets, of a model or of a run.
ASIDE = {"dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json", "config.json", "metadata.json"}


@dataclass(frozen=True)
class Row:
    """A row that could be read: its file's name in reports, its line or number from 1, its columns."""

    file: str
    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Reject:
    """A row that could not be read: the reason, and the beginning of the row."""

    file: str
    line: int
    reason: str
    row: str


@dataclass(frozen=True)
class SourceFile:
    """One file to read, and its name in reports: its path inside the folder that was named, or its own name."""

    path: Path
    name: str


def find(path: Path) -> list[SourceFile]:
    """The data files at a path, in order; numbers in their names are compared as numbers.

    Raises:
        UserError: there are no data files.
    """
    known = ", ".join(SUFFIXES)
    if path.is_file():
        if suffix(path) not in SUFFIXES:
            raise UserError(f"{path} is none of {known}, nor one of them with .gz: which format it has is not clear")
        return [SourceFile(path, path.name)]
    if not path.is_dir():
        raise UserError(f"{path} {'is neither a file nor a folder' if path.exists() else 'does not exist'}")
    inside = [
        file
        for file in path.rglob("*")
        if file.is_file() and suffix(file) in SUFFIXES and file.name not in ASIDE
        if not any(part.startswith((".", "cache-")) for part in file.relative_to(path).parts)
    ]
    # A .json file beside other data usually has settings.
    chosen = [file for file in inside if suffix(file) != ".json"] or inside
    if not chosen:
        raise UserError(f"folder {path} holds no data: no file in it is one of {known}")
    sources = [SourceFile(file, file.relative_to(path).as_posix()) for file in chosen]
    return sorted(sources, key=lambda source: [(part.isdigit(), part.zfill(20)) for part in _parts(source.name)])


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"(\d+)", name) if part]


def survey(sources: Sequence[SourceFile]) -> tuple[str, int]:
    """SHA-256 over the files' names and contents (for one file, only its contents), and about how many rows they have."""
    total, n_rows = hashlib.sha256(), 0
    for source in sources:
        if len(sources) > 1:
            total.update(source.name.encode(errors="surrogateescape") + b"\0")
        try:
            with source.path.open("rb") as file:
                counts = suffix(source.path) in TEXT and source.path.suffix != ".gz"
                each = hashlib.sha256()
                while block := file.read(1 << 20):
                    each.update(block)
                    n_rows += block.count(b"\n") if counts else 0
            total.update(each.digest())
            if source.path.suffix == ".parquet":
                n_rows += pq.read_metadata(source.path).num_rows
        except OSError as error:
            raise UserError(f"{source.path} cannot be read: {error.strerror or _first(error)}") from None
        except pa.ArrowException as error:
            raise UserError(f"{source.path} is not a Parquet file: {_first(error)}") from None
    return total.hexdigest(), n_rows


def read(source: SourceFile) -> Iterator[Row | Reject]:
    """The rows of one file.

    Raises:
        UserError: the file as a whole cannot be read as the kind of its name.
    """
    reader = {".csv": _csv, ".json": _json, ".parquet": _parquet, ".arrow": _arrow}.get(suffix(source.path), _lines)
    last = 0
    try:
        for item in reader(source):
            last = item.line
            yield item
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or _first(error)
        if not last:
            raise UserError(f"{source.path} cannot be read: {reason}") from None
        yield reject(source, last + 1, f"the file is damaged from here on: {reason}", "")


def suffix(path: PurePath) -> str:
    """A file's ending in lower case; for `a.jsonl.gz` it is `.jsonl`."""
    return PurePath(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def reject(source: SourceFile, line: int, reason: str, row: Any) -> Reject:
    """A bad row, from its bytes, its text or its value."""
    return Reject(source.name, line, _storable(reason), beginning(row))


def beginning(row: Any) -> str:
    """The first characters of a row, from its bytes, its text or its value; reads only the beginning of a long value."""
    if isinstance(row, bytes):
        row = row[: 4 * SHOWN_CHARACTERS].decode(errors="replace").rstrip("\r\n")
    elif isinstance(row, Mapping):
        row = json.dumps({name: _short(value) for name, value in row.items()}, ensure_ascii=False, default=str)
    elif not isinstance(row, str):
        row = json.dumps(_short(row), ensure_ascii=False, default=str)
    return _storable(row[:SHOWN_CHARACTERS])


def _short(value: Any) -> Any:
    return value[:SHOWN_CHARACTERS] if isinstance(value, str | list | tuple) else value


def _storable(text: str) -> str:
    """The text without half surrogate pairs, which a table cannot store."""
    return text.encode(errors="replace").decode()


def _lines(source: SourceFile) -> Iterator[Row | Reject]:
    with _open(source.path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                yield reject(source, number, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB", line[:1000])
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield _parsed(source, number, line)


def _parsed(source: SourceFile, number: int, line: bytes) -> Row | Reject:
    try:
        return _row(source, number, decode(line.decode()), line)
    except UnicodeDecodeError as error:
        return reject(source, number, f"not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}", line)
    except BadRow as error:
        return reject(source, number, str(error), line)


def decode(text: str) -> Any:
    """Decodes JSON as Python does, but refuses an object with a column twice.

    Raises:
        BadRow: it is no JSON, or has a column twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise BadRow("not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # a number with thousands of digits
        raise BadRow(f"not JSON that can be read: {_first(error)}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise BadRow(f"column {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _row(source: SourceFile, number: int, value: Any, shown: Any) -> Row | Reject:
    if isinstance(value, dict):
        return Row(source.name, number, value)
    return reject(source, number, f"not an object with columns but {type(value).__name__}", shown)


def _json(source: SourceFile) -> Iterator[Row | Reject]:
    """An array of objects, an object that holds one as `data` or `rows`, or JSONL, which is often named .json."""
    with _open(source.path) as file:
        start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    whole: Any = None
    if not start.startswith(b"["):
        with _open(source.path) as file:
            first = _parsed(source, 1, file.readline(MAX_LINE_BYTES))
        if isinstance(first, Row) and not any(isinstance(first.values.get(key), list) for key in ("data", "rows")):
            yield from _lines(source)
            return
    with _open(source.path) as file:
        content = file.read(MAX_ARRAY_BYTES + 1)
    if len(content) > MAX_ARRAY_BYTES:
        raise UserError(f"{source.path} is one JSON value of over {MAX_ARRAY_BYTES >> 30} GiB; write it as JSONL")
    try:
        whole = decode(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, BadRow) as error:
        raise UserError(f"{source.path} is not JSON: {_first(error).removeprefix('not JSON: ')}") from None
    if isinstance(whole, dict):
        whole = next((whole[key] for key in ("data", "rows") if isinstance(whole.get(key), list)), [whole])
    if not isinstance(whole, list):
        raise UserError(f"{source.path} is JSON, but neither a list of rows nor an object that holds one as data or rows")
    for number, value in enumerate(whole, 1):
        yield _row(source, number, value, value)


def _csv(source: SourceFile) -> Iterator[Row | Reject]:
    """A header and rows; an empty field is None. A row's line is the line where it begins."""
    csv.field_size_limit(MAX_LINE_BYTES)
    with io.TextIOWrapper(_open(source.path), "utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if not any(name.strip() for name in header):
            raise UserError(f"{source.path} has no header: its first line has to name the columns")
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise UserError(f"{source.path} has column {twice!r} twice in its header")
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield reject(source, number, f"not CSV: {error}", "")
                continue
            if fields is None:
                return
            if not fields:
                continue
            line = ",".join(fields)
            if len(fields) != len(header):
                yield reject(source, number, f"{len(fields)} fields where the header has {len(header)}", line)
            elif not _is_text(line):
                yield reject(source, number, "not UTF-8", line)
            else:
                yield Row(source.name, number, {k: v or None for k, v in zip(header, fields, strict=True)})


def _is_text(line: str) -> bool:
    """Whether the line was UTF-8; the reader turns every other byte into half a surrogate pair."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(source: SourceFile) -> Iterator[Row | Reject]:
    try:
        file = pq.ParquetFile(source.path)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source.path} is not a Parquet file: {_first(error)}") from None
    with file:
        yield from _batches(source, schema, file.iter_batches(batch_size=BATCH_ROWS))


def _arrow(source: SourceFile) -> Iterator[Row | Reject]:
    """Arrow batches: a stream, as `Dataset.save_to_disk` writes it, or an Arrow file of another program."""
    with pa.memory_map(str(source.path)) as mapped:
        try:
            reader: Any = pa.ipc.open_stream(mapped)
            batches: Iterator[pa.RecordBatch] = iter(reader)
        except pa.ArrowInvalid:
            try:
                reader = pa.ipc.open_file(mapped)
            except pa.ArrowInvalid as error:
                raise UserError(f"{source.path} is not an Arrow file: {_first(error)}") from None
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        yield from _batches(source, reader.schema, batches)


def _batches(source: SourceFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[Row | Reject]:
    if len(set(schema.names)) != len(schema.names):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise UserError(f"{source.path} has column {twice!r} twice")
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for values in _values(batch.slice(start, BATCH_ROWS)):
                number += 1
                if isinstance(values, str):
                    yield reject(source, number, values, "")
                else:
                    yield Row(source.name, number, values)


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Each row of a batch, or the reason why it cannot be read."""
    try:
        yield from batch.to_pylist()
    except ValueError:
        for row in range(batch.num_rows):
            try:
                yield batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "not UTF-8"
            except ValueError as error:
                yield _first(error)
