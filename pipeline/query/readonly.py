"""The file system that DuckDB sees: it can read the archive's files that it is given, and nothing else.

DuckDB seeks and reads one handle from several threads at once. An ordinary file object has one position for all, so that
one thread may read at the position of another. Here every thread has its own position in a handle.
"""

import threading
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.archive.files import Files, Reader


class _Handle:
    """An open file."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._place, self.closed = reader, threading.local(), False

    def seek(self, to: int, whence: int = 0) -> int:
        if whence:
            raise OSError("places are absolute here")
        self._place.at = to
        return to

    def tell(self) -> int:
        return getattr(self._place, "at", 0)

    def read(self, n: int = -1) -> bytes:
        found = self._reader.read(self.tell(), n)
        self._place.at = self.tell() + len(found)
        return found

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._reader.close()

    __del__ = close


class ReadOnly(AbstractFileSystem):  # type: ignore[misc]
    """A read-only file system with the address `PROTOCOL://PATH` for each of its paths."""

    cachable = False

    def __init__(self, protocol: str, files: Files, sizes: dict[str, int]) -> None:
        """`sizes` has every file, by path, with its size in bytes."""
        super().__init__(skip_instance_cache=True)
        self.protocol, self._files, self._sizes = protocol, files, sizes

    @property
    def addresses(self) -> list[str]:
        return [f"{self.protocol}://{path}" for path in self._sizes]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.split("://", 1)[-1]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if name not in self._sizes:
            raise FileNotFoundError(name)
        return {"name": name, "size": self._sizes[name], "type": "file"}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)  # a file that the log names never changes

    def exists(self, path: str, **_: Any) -> bool:
        return self._strip_protocol(path) in self._sizes

    isfile = exists

    def isdir(self, path: str) -> bool:
        return False

    def glob(self, path: str, **_: Any) -> list[str]:
        return [self._strip_protocol(path)] if self.exists(path) else []

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Handle:
        name = self._strip_protocol(path)
        if mode != "rb" or name not in self._sizes:
            raise PermissionError(f"{path}: the archive is only read")
        return _Handle(self._files.reader(name))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("the archive is only read")

    ls = find = walk = mkdir = makedirs = rmdir = rm = rm_file = mv = move = rename = _refuse
    cp_file = copy = put = put_file = pipe = pipe_file = touch = created = _open = _refuse
