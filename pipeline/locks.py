"""Locks on names within an archive that a dead process does not keep.

In a folder the operating system keeps them (flock): they end with their holder, however it ends. In an object store a
lock is an object that its holder renews; one not renewed for `LEASE_SECONDS` is anybody's, and taking it is a conditional
put, so only one gets it. A holder that was cut off for that long finds out at its next renewal, and may write no more.
"""

import contextlib
import fcntl
import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.progress import log
from schemas import UserError

POLL_SECONDS = 0.2
LEASE_SECONDS, RENEW_SECONDS = 60.0, 10.0

Holder = dict[str, Any]


class Held(UserError):
    """Another process holds the lock; `holder` says who."""

    def __init__(self, name: str, holder: Holder) -> None:
        self.holder = holder
        super().__init__(f"{name} is held by {words(holder)}")


def words(holder: Holder) -> str:
    """A holder in a sentence."""
    if not holder:
        return "another process"
    return "process {pid} of {user} on {host}, since {since}".format(**holder)


def _me() -> Holder:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return {"pid": os.getpid(), "host": socket.gethostname(), "user": user, "since": since}


def _until(take: Callable[[], Holder | None], name: str, wait: bool) -> None:
    """Calls `take` until it gives null, or raises with the holder it gives; says once whom it waits for."""
    said = False
    while (holder := take()) is not None:
        if not wait:
            raise Held(name, holder) from None
        if not said:
            log.info("%s: waiting for %s", name, words(holder))
            said = True
        time.sleep(POLL_SECONDS)


@contextmanager
def flocked(path: Path, name: str, *, wait: bool) -> Iterator[None]:
    """Holds the lock file at `path`. The file stays; the lock does not.

    Raises:
        Held: another process, or another part of this one, has it, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take() -> Holder | None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parsed(os.pread(descriptor, 4096, 0))
        return None

    try:
        _until(take, name, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_me()).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


class Lease:
    """A lock object in an object store, renewed by a thread while it is held."""

    def __init__(self, objects: Any, path: str, name: str) -> None:
        """`objects` is an obstore store."""
        self._objects, self._path, self._name = objects, path, name
        self._mark: dict[str, Any] = {}
        self._over = threading.Event()
        self.lost = False

    def take(self) -> Holder | None:
        """Takes the lock, or gives its holder."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        how: Any = "create"
        try:
            found = obstore.get(self._objects, self._path)
            holder, age = _parsed(bytes(found.bytes())), datetime.now(UTC) - found.meta["last_modified"]
            if age.total_seconds() < LEASE_SECONDS and not _died_here(holder):
                return holder
            how = {"e_tag": found.meta["e_tag"]}
        except (NotFoundError, FileNotFoundError):
            pass
        try:
            self._mark = dict(obstore.put(self._objects, self._path, json.dumps(_me()).encode(), mode=how))
        except (AlreadyExistsError, PreconditionError):
            return {}
        return None

    def renew(self) -> None:
        """Keeps the lock until told otherwise; sets `lost` if another process has taken it."""
        import obstore
        from obstore.exceptions import NotFoundError, PreconditionError

        me, heard = _me(), time.monotonic()
        while not self._over.wait(RENEW_SECONDS):
            try:
                me["renewed"] = time.time()  # another content, hence another tag
                how: Any = {"e_tag": self._mark["e_tag"]}
                self._mark = dict(obstore.put(self._objects, self._path, json.dumps(me).encode(), mode=how))
                heard = time.monotonic()
            except (PreconditionError, NotFoundError):
                self.lost = True
                return
            except Exception:  # the network; worth another try while the lease is ours
                if time.monotonic() - heard > LEASE_SECONDS:
                    self.lost = True
                    return

    @contextmanager
    def held(self, *, wait: bool) -> Iterator[None]:
        """Raises:
        Held: another process has it, and `wait` is false.
        """
        import obstore

        _until(self.take, self._name, wait)
        renewing = threading.Thread(target=self.renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._over.set()
            renewing.join()
            if not self.lost:
                with contextlib.suppress(Exception):  # it runs out by itself
                    obstore.delete(self._objects, self._path)


def _died_here(holder: Holder) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def _parsed(text: bytes) -> Holder:
    """What a lock says of its holder; empty: it has been taken and not written yet."""
    try:
        found: Holder = json.loads(text)
    except ValueError:
        return {}
    return found
