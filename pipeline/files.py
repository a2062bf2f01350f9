"""The files of an archive, in a folder or in an object store, behind one small set of verbs.

A file appears whole or not at all, and once it has appeared it stays through a loss of power. Paths are relative to
the archive and have forward slashes.
"""

import contextlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipeline.layout import QUARANTINE
from pipeline.locks import Lease, flocked
from schemas import UserError, digest

LOCKS = "locks"


class Reader(Protocol):
    """An open file that any number of threads may read at once."""

    def read(self, start: int, n: int) -> bytes:
        """Up to `n` bytes from `start`."""

    def close(self) -> None: ...


class Files(Protocol):
    """What both kinds can do.

    `uri` is the address other libraries take; `local` a folder for what has to be ordinary files: in a folder the
    archive itself, else a cache of it.
    """

    uri: str
    local: Path
    options: dict[str, str]

    def make(self, path: str, write: Callable[[Path], None]) -> int:
        """Has `write` write an ordinary file, which then becomes `path`; returns the CRC-32 of what was written."""

    def read(self, path: str) -> bytes | None:
        """The contents; null: there is no such file."""

    def size(self, path: str) -> int | None:
        """Bytes; null: there is no such file."""

    def listing(self, folder: str) -> dict[str, int]:
        """Paths of all files below a folder, with their bytes."""

    def names(self) -> set[str]:
        """What lies at the archive's top, files and folders."""

    def move(self, path: str, to: str) -> None: ...

    def remove(self, path: str) -> None:
        """Deletes a file; that there is none is no error."""

    def open(self, path: str) -> BinaryIO:
        """To read and to seek in, by one thread."""

    def reader(self, path: str) -> Reader: ...

    def keep(self, path: Path) -> None:
        """Makes a file or a folder written under `local` part of the archive."""

    def bring(self, path: str) -> Path:
        """The file or folder `path` as ordinary files; the path may not exist if the archive has none."""

    def lock(self, name: str, *, wait: bool) -> AbstractContextManager[None]:
        """Holds a named lock. Raises: Held."""

    def locks(self) -> list[str]:
        """Names that may be locked."""

    @property
    def lost(self) -> bool:
        """Whether a lock was taken over by another process while it was held here."""


def at(root: str | Path, options: Mapping[str, str] | None = None) -> Files:
    """The files of the archive at `root`, a folder or a URL."""
    text = str(root)
    if "://" not in text or text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")).expanduser().resolve())
    return Bucket(text.rstrip("/"), dict(options or {}))


def put_aside(files: Files, path: str) -> str:
    """Moves a file to quarantine, beside what was put there under the same path before; returns where it is now."""
    to, number = f"{QUARANTINE}/{path}", 1
    while files.size(to) is not None:
        to, number = f"{QUARANTINE}/{path}.{number}", number + 1
    files.move(path, to)
    return to


class Folder:
    """An archive on a disk."""

    lost = False

    def __init__(self, root: Path) -> None:
        self.uri, self.local, self.options = str(root), root, dict[str, str]()

    def make(self, path: str, write: Callable[[Path], None]) -> int:
        final = self.local / path
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            write(temporary)
            with temporary.open("rb") as file:
                checksum = crc32(file)
            sync(temporary)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
        sync(final.parent)
        return checksum

    def read(self, path: str) -> bytes | None:
        try:
            return (self.local / path).read_bytes()
        except FileNotFoundError:
            return None

    def size(self, path: str) -> int | None:
        try:
            return (self.local / path).stat().st_size
        except FileNotFoundError:
            return None

    def listing(self, folder: str) -> dict[str, int]:
        found = (path for path in (self.local / folder).rglob("*") if path.is_file())
        return {path.relative_to(self.local).as_posix(): path.stat().st_size for path in found}

    def names(self) -> set[str]:
        return {path.name for path in self.local.iterdir()} if self.local.is_dir() else set()

    def move(self, path: str, to: str) -> None:
        final = self.local / to
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.local / path, final)
        sync(final.parent)

    def remove(self, path: str) -> None:
        (self.local / path).unlink(missing_ok=True)

    def open(self, path: str) -> BinaryIO:
        return (self.local / path).open("rb")

    def reader(self, path: str) -> Reader:
        return _OnDisk(self.local / path)

    def keep(self, path: Path) -> None:
        for file in path.rglob("*") if path.is_dir() else ():
            sync(file)
        for folder in (path, *path.parents):
            sync(folder)
            if folder == self.local:
                break

    def bring(self, path: str) -> Path:
        return self.local / path

    def lock(self, name: str, *, wait: bool) -> AbstractContextManager[None]:
        return flocked(self.local / LOCKS / name, name, wait=wait)

    def locks(self) -> list[str]:
        folder = self.local / LOCKS
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class Bucket:
    """An archive in an object store: s3://, gs://, az://. Options are Delta's, on top of the environment's."""

    def __init__(self, root: str, options: dict[str, str]) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        self.uri, self.options = root, options
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self.local = cache / "reval" / digest(root)[:16]
        self._leases: list[Lease] = []
        named: Any = {key.lower().removeprefix("aws_"): value for key, value in options.items()}
        client: Any = {"allow_http": named.pop("allow_http")} if "allow_http" in named else {}
        try:
            self._objects = from_url(
                root, config=named or None, client_options=client or None
            )  # and what the environment says
        except (BaseError, ValueError) as error:
            raise UserError(f"archive {root}: {str(error).splitlines()[0]}") from None

    def make(self, path: str, write: Callable[[Path], None]) -> int:
        import obstore

        temporary = self.local / "scratch" / f"{os.getpid()}-{digest(path)}.tmp"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                checksum = crc32(file)
            with _named(self.uri):
                obstore.put(self._objects, path, temporary)
        finally:
            temporary.unlink(missing_ok=True)
        return checksum

    def read(self, path: str) -> bytes | None:
        import obstore

        try:
            with _named(self.uri):
                return bytes(obstore.get(self._objects, path).bytes())
        except FileNotFoundError:
            return None

    def size(self, path: str) -> int | None:
        import obstore

        try:
            with _named(self.uri):
                return int(obstore.head(self._objects, path)["size"])
        except FileNotFoundError:
            return None

    def listing(self, folder: str) -> dict[str, int]:
        import obstore

        with _named(self.uri):
            return {item["path"]: item["size"] for page in obstore.list(self._objects, folder) for item in page}

    def names(self) -> set[str]:
        import obstore

        with _named(self.uri):
            found = obstore.list_with_delimiter(self._objects)
        return {
            path.rstrip("/").split("/")[-1]
            for path in (*found["common_prefixes"], *(o["path"] for o in found["objects"]))
        }

    def move(self, path: str, to: str) -> None:
        import obstore

        with _named(self.uri):
            obstore.rename(self._objects, path, to)

    def remove(self, path: str) -> None:
        import obstore

        with _named(self.uri), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._objects, path)

    def open(self, path: str) -> BinaryIO:
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(f"{self.uri}/{path}")
        return io.BufferedReader(_Seekable(self.reader(path), size), 1 << 20)  # type: ignore[return-value]

    def reader(self, path: str) -> Reader:
        return _Object(self._objects, path)

    def keep(self, path: Path) -> None:
        import obstore

        tags: dict[str, str | None] = {}
        with _named(self.uri):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    name = file.relative_to(self.local).as_posix()
                    tags[name] = obstore.put(self._objects, name, file)["e_tag"]
        self._cached(path.relative_to(self.local).as_posix()).write_text(json.dumps(tags))

    def bring(self, path: str) -> Path:
        """Downloads it, unless this machine's copy is of the objects that are there now."""
        import obstore

        final, temporary = self.local / path, self.local / "scratch" / f"{os.getpid()}-{digest(path)}"
        with _named(self.uri):
            listed = [item for page in obstore.list(self._objects, path) for item in page]
            if not listed and self.size(path) is not None:
                listed = [obstore.head(self._objects, path)]
        tags = {item["path"]: item["e_tag"] for item in listed}
        cached = self._cached(path)
        if not tags and cached.exists():  # it is a copy of what is gone
            _remove(final)
            cached.unlink()
        if not tags or (final.exists() and cached.exists() and json.loads(cached.read_text()) == tags):
            return final
        try:
            for name in tags:
                to = temporary / Path(name).relative_to(path)
                to.parent.mkdir(parents=True, exist_ok=True)
                with to.open("wb") as out, _named(self.uri):
                    for part in obstore.get(self._objects, name).stream(min_chunk_size=8 << 20):
                        out.write(part)
            _remove(final)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, final)
            cached.write_text(json.dumps(tags))
        finally:
            _remove(temporary)
        return final

    def _cached(self, path: str) -> Path:
        """Notes which objects a local copy is of."""
        note = self.local / "cached" / f"{digest(path)}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        return note

    @contextmanager
    def lock(self, name: str, *, wait: bool) -> Iterator[None]:
        lease = Lease(self._objects, f"{LOCKS}/{name}", name)
        self._leases.append(lease)
        try:
            with _named(self.uri), lease.held(wait=wait):
                yield
        finally:
            self._leases.remove(lease)

    def locks(self) -> list[str]:
        return sorted(path.split("/", 1)[1] for path in self.listing(LOCKS))

    @property
    def lost(self) -> bool:
        return any(lease.lost for lease in self._leases)


class _OnDisk:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, start: int, n: int) -> bytes:
        return os.pread(self._descriptor, n, start)

    def close(self) -> None:
        os.close(self._descriptor)


class _Object:
    def __init__(self, objects: Any, path: str) -> None:
        self._objects, self._path = objects, path

    def read(self, start: int, n: int) -> bytes:
        import obstore

        return obstore.get_range(self._objects, self._path, start=start, length=n).to_bytes()

    def close(self) -> None: ...


class _Seekable(io.RawIOBase):
    """A reader as the file object that pyarrow wants."""

    def __init__(self, reader: Reader, size: int) -> None:
        self._reader, self._size, self._at = reader, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = io.SEEK_SET) -> int:
        self._at = to + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        n = min(len(buffer), self._size - self._at)
        if n <= 0:
            return 0
        buffer[:n] = self._reader.read(self._at, n)
        self._at += n
        return n


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """What the object store refuses, as one line; a file that is not there is a FileNotFoundError."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(str(error)) from None
    except BaseError as error:
        raise UserError(f"archive {uri}: {_first(error)}") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _first(error: BaseException) -> str:
    return " ".join(str(error).split("Debug source")[0].split())[:300]


def crc32(file: BinaryIO) -> int:
    """The CRC-32 of a file's contents from where it stands."""
    found = 0
    while part := file.read(1 << 20):
        found = zlib.crc32(part, found)
    return found


def sync(path: Path) -> None:
    """Has the operating system put a file, or a folder's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
