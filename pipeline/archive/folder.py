"""The files of an archive in a folder on a disk."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.archive.files import LOCKS, Reader, crc32, remove, sync
from pipeline.archive.locks import flocked


class Folder:
    """An archive on a disk."""

    lost = False

    def __init__(self, root: Path) -> None:
        self.uri, self.local, self.options = str(root), root, dict[str, str]()

    def make(self, path: str, write: Callable[[Path], None]) -> int:
        final = self.local / path
        is_new = not final.parent.exists()
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
        if is_new:
            self._sync_up(final.parent)
        else:
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
        found = dict[str, int]()
        for where, _, names in os.walk(self.local / folder):
            for path in (Path(where, name) for name in names):
                with suppress(FileNotFoundError):  # another process may have deleted it
                    found[path.relative_to(self.local).as_posix()] = path.stat().st_size
        return found

    def names(self) -> set[str]:
        return {path.name for path in self.local.iterdir()} if self.local.is_dir() else set()

    def move(self, path: str, to: str) -> None:
        final = self.local / to
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.local / path, final)
        sync(final.parent)

    def remove(self, path: str) -> None:
        (self.local / path).unlink(missing_ok=True)

    def clear(self, path: str) -> None:
        remove(self.local / path)

    def open(self, path: str) -> BinaryIO:
        return (self.local / path).open("rb")

    def reader(self, path: str) -> Reader:
        return _OnDisk(self.local / path)

    def persist(self, path: Path) -> None:
        for file in path.rglob("*") if path.is_dir() else ():
            sync(file)
        self._sync_up(path)

    def _sync_up(self, path: Path) -> None:
        """Writes a path to disk, and the folders above it, up to the archive's folder."""
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


class _OnDisk:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, start: int, n: int) -> bytes:
        return os.pread(self._descriptor, n, start)

    def close(self) -> None:
        os.close(self._descriptor)
