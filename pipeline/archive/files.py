"""The files of an archive, in a folder or an object store, behind one small set of operations.

A file appears whole or not at all, and once it has appeared it stays through a loss of power. Paths are relative to
the archive and have forward slashes.
"""

import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.archive.layout import QUARANTINE

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
        """The contents; None: there is no such file."""

    def size(self, path: str) -> int | None:
        """Bytes; None: there is no such file."""

    def listing(self, folder: str) -> dict[str, int]:
        """Paths of all files below a folder, with their bytes."""

    def names(self) -> set[str]:
        """What lies at the archive's top, files and folders."""

    def move(self, path: str, to: str) -> None: ...

    def remove(self, path: str) -> None:
        """Deletes a file; that there is none is no error."""

    def clear(self, path: str) -> None:
        """Deletes a file, or a folder with all that is in it, and this machine's copy; likewise."""

    def open(self, path: str) -> BinaryIO:
        """To read and to seek in, by one thread."""

    def reader(self, path: str) -> Reader: ...

    def persist(self, path: Path) -> None:
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


def put_aside(files: Files, path: str) -> str:
    """Moves a file to quarantine, beside what was put there under the same path before; returns where it is now."""
    to, number = f"{QUARANTINE}/{path}", 1
    while files.size(to) is not None:
        to, number = f"{QUARANTINE}/{path}.{number}", number + 1
    files.move(path, to)
    return to


def remove(path: Path) -> None:
    """Deletes a file or a folder; that there is none is no error."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


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
