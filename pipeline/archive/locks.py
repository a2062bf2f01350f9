"""Locks on names within an archive. A lock ends with the process that holds it, also when that is killed.

In a folder the operating system keeps the locks (flock): a lock ends when its holder ends, in any way. In an object store
a lock is an object that its holder renews. Anybody may take it if it is empty or was not renewed for `LEASE_SECONDS`.
Taking, renewing and releasing are conditional puts, so only one process gets the lock, and no process releases the lock
of another. A holder that was cut off or asleep for that long may not write any more.
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
    """The holder, as words for a message."""
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
    """Calls `take` until it returns None. If `take` returns a holder: waits and logs this once, or raises Held."""
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
    """Holds the lock on the file at `path`. The file stays when the lock ends.

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
        self._tag: str | None = None
        self._heard = 0.0
        self._over = threading.Event()
        self._taken = False

    @property
    def lost(self) -> bool:
        """Whether another process has taken the lock, or could have taken it."""
        return self._taken or _awake() - self._heard > LEASE_SECONDS

    def _put(self, content: bytes, how: Any) -> None:
        """Raises: AlreadyExistsError, PreconditionError: another process was first."""
        import obstore

        asked = _awake()
        self._tag = obstore.put(self._objects, self._path, content, mode=how)["e_tag"]
        self._heard = asked

    def take(self) -> Holder | None:
        """Takes the lock and returns None; if another process has it, returns its holder."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        how: Any = "create"
        try:
            found = obstore.get(self._objects, self._path)
            holder, age = _parsed(bytes(found.bytes())), datetime.now(UTC) - found.meta["last_modified"]
            if holder and age.total_seconds() < LEASE_SECONDS and not _died_here(holder):
                return holder
            how = {"e_tag": found.meta["e_tag"]}
        except (NotFoundError, FileNotFoundError):
            pass
        try:
            self._put(_content(_me()), how)
        except (AlreadyExistsError, PreconditionError):
            return {}
        return None

    def renew(self) -> None:
        """Renews the lock until it is released here, or another process has taken it."""
        from obstore.exceptions import NotFoundError, PreconditionError

        me = _me()
        while not self._over.wait(RENEW_SECONDS) and not self.lost:
            try:
                self._put(_content(me), {"e_tag": self._tag})
            except (PreconditionError, NotFoundError):
                self._taken = True
            except Exception:  # a network error: try again while the lease is valid
                continue

    @contextmanager
    def held(self, *, wait: bool) -> Iterator[None]:
        """Raises:
        Held: another process has it, and `wait` is false.
        """
        _until(self.take, self._name, wait)
        renewing = threading.Thread(target=self.renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._over.set()
            renewing.join()
            with contextlib.suppress(Exception):  # another process has taken it, or it expires by itself
                self._put(b"", {"e_tag": self._tag})


def _content(holder: Holder) -> bytes:
    """The content of a lock object. It is different each time, so that its tag is different too."""
    return json.dumps({**holder, "turn": os.urandom(8).hex()}).encode()


def _awake() -> float:
    """Seconds on a clock that keeps running while the machine sleeps and that cannot be set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _died_here(holder: Holder) -> bool:
    """Whether the holder was a process of this machine that has ended."""
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
    """The holder that a lock names; empty: a lock file is taken but not written yet, or a lock object has no holder."""
    try:
        found: Holder = json.loads(text)
    except ValueError:
        return {}
    return found
