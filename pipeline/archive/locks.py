"""Locks on names within an archive. A lock ends with the process that holds it, also when that is killed.

In a folder the operating system keeps them (flock): they end with their holder, however it ends. In an object store a
lock is an object that its holder renews; one that is empty, or was not renewed for `LEASE_SECONDS`, is anybody's. To take
it, to renew it and to give it back are conditional puts, so only one gets it, and nobody gives back another's. A holder
that was cut off or asleep for that long may write no more.
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
    """Calls `take` until it gives None, or raises with the holder it gives; says once whom it waits for."""
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
        self._tag: str | None = None
        self._heard = 0.0
        self._over = threading.Event()
        self._taken = False

    @property
    def lost(self) -> bool:
        """Whether another process has the lock by now, or could have."""
        return self._taken or _awake() - self._heard > LEASE_SECONDS

    def _put(self, content: bytes, how: Any) -> None:
        """Raises: AlreadyExistsError, PreconditionError; others were first."""
        import obstore

        asked = _awake()
        self._tag = obstore.put(self._objects, self._path, content, mode=how)["e_tag"]
        self._heard = asked

    def take(self) -> Holder | None:
        """Takes the lock, or gives its holder."""
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
        """Keeps the lock until told otherwise, or until another process has taken it."""
        from obstore.exceptions import NotFoundError, PreconditionError

        me = _me()
        while not self._over.wait(RENEW_SECONDS) and not self.lost:
            try:
                self._put(_content(me), {"e_tag": self._tag})
            except (PreconditionError, NotFoundError):
                self._taken = True
            except Exception:  # the network; worth another try while the lease is ours
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
            with contextlib.suppress(Exception):  # it is another's by now, or runs out by itself
                self._put(b"", {"e_tag": self._tag})


def _content(holder: Holder) -> bytes:
    """What a lock object holds. No two are the same, and so no two have the same tag."""
    return json.dumps({**holder, "turn": os.urandom(8).hex()}).encode()


def _awake() -> float:
    """Seconds on a clock that goes on while the machine sleeps and that nobody sets."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


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
    """What a lock says of its holder; empty: a lock file is taken and not written yet, an object nobody's."""
    try:
        found: Holder = json.loads(text)
    except ValueError:
        return {}
    return found
