"""The files of an archive in an object store, through obstore; Delta's tables are under the same address."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.archive.files import LOCKS, Reader, crc32, remove
from pipeline.archive.locks import Lease
from schemas import UserError, digest


class Bucket:
    """An archive in an object store: s3://, gs://, az://. Options are Delta's, added to those from the environment."""

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
            )  # and settings from the environment
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

    def clear(self, path: str) -> None:
        for each in (path, *self.listing(path)):
            self.remove(each)
        remove(self.local / path)
        self._cached(path).unlink(missing_ok=True)

    def open(self, path: str) -> BinaryIO:
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(f"{self.uri}/{path}")
        return io.BufferedReader(_Seekable(self.reader(path), size), 1 << 20)  # type: ignore[return-value]

    def reader(self, path: str) -> Reader:
        return _Object(self._objects, path)

    def persist(self, path: Path) -> None:
        import obstore

        tags: dict[str, str | None] = {}
        with _named(self.uri):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    name = file.relative_to(self.local).as_posix()
                    tags[name] = obstore.put(self._objects, name, file)["e_tag"]
        self._cached(path.relative_to(self.local).as_posix()).write_text(json.dumps(tags))

    def bring(self, path: str) -> Path:
        """Downloads the path, unless this machine's copy is of the present objects."""
        import obstore

        final, temporary = self.local / path, self.local / "scratch" / f"{os.getpid()}-{digest(path)}"
        with _named(self.uri):
            listed = [item for page in obstore.list(self._objects, path) for item in page]
            if not listed and self.size(path) is not None:
                listed = [obstore.head(self._objects, path)]
        tags = {item["path"]: item["e_tag"] for item in listed}
        cached = self._cached(path)
        if not tags and cached.exists():  # the copied objects were deleted
            remove(final)
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
            remove(final)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, final)
            cached.write_text(json.dumps(tags))
        finally:
            remove(temporary)
        return final

    def _cached(self, path: str) -> Path:
        """The file that notes of which objects a local copy is."""
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
    """Turns errors of the object store into a UserError of one line; if a file does not exist, a FileNotFoundError."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(str(error)) from None
    except BaseError as error:
        raise UserError(f"archive {uri}: {_first(error)}") from None


def _first(error: BaseException) -> str:
    return " ".join(str(error).split("Debug source")[0].split())[:300]
