"""The files of an archive, in a folder or an object store, behind one small set of operations.

A file becomes visible only when it is complete, and from then on it survives a loss of power. Paths are relative to the
archive and have forward slashes.
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
    """The operations that a folder and an object store share.

    `uri` is the address for other libraries. `local` is a folder for data that must be ordinary files: the archive itself
    if it is a folder, else a cache of it.
    """

    uri: str
    local: Path
    options: dict[str, str]

    def make(self, path: str, write: Callable[[Path], None]) -> int:
        """Calls `write` to write an ordinary file, which then becomes `path`; returns the CRC-32 of its contents."""

    def read(self, path: str) -> bytes | None:
        """The contents of a file; None: there is no such file."""

    def size(self, path: str) -> int | None:
        """The size of a file in bytes; None: there is no such file."""

    def listing(self, folder: str) -> dict[str, int]:
        """Paths of all files below a folder, with their sizes in bytes."""

    def names(self) -> set[str]:
        """Names of the files and folders at the archive's top."""

    def move(self, path: str, to: str) -> None: ...

    def remove(self, path: str) -> None:
        """Deletes a file; it is no error if there is none."""

    def clear(self, path: str) -> None:
        """Deletes a file, or a folder with all its contents, and this machine's copy; it is no error if there is none."""

    def open(self, path: str) -> BinaryIO:
        """Opens a file for one thread to read and seek in."""

    def reader(self, path: str) -> Reader: ...

    def persist(self, path: Path) -> None:
        """Adds a file or a folder that was written under `local` to the archive."""

    def bring(self, path: str) -> Path:
        """Where the file or folder `path` is as ordinary files; nothing is there if the archive has no such path."""

    def lock(self, name: str, *, wait: bool) -> AbstractContextManager[None]:
        """Holds a named lock. Raises: Held."""

    def locks(self) -> list[str]:
        """Names that were locked at some time; some may be locked now."""

    @property
    def lost(self) -> bool:
        """Whether another process took over a lock, or could have, while it was held here."""


def put_aside(files: Files, path: str) -> str:
    """Moves a file to quarantine; earlier files of the same path stay there. Returns where the file is now."""
    to, number = f"{QUARANTINE}/{path}", 1
    while files.size(to) is not None:
        to, number = f"{QUARANTINE}/{path}.{number}", number + 1
    files.move(path, to)
    return to


def remove(path: Path) -> None:
    """Deletes a file or a folder; it is no error if there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def crc32(file: BinaryIO) -> int:
    """The CRC-32 of a file's contents from the present position on."""
    found = 0
    while part := file.read(1 << 20):
        found = zlib.crc32(part, found)
    return found


def sync(path: Path) -> None:
    """Makes the operating system write a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
