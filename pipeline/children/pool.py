"""A pool of child processes with a deadline for each item; no item can hang, crash or delay the others.

A worker gets a few items in advance, so that it never waits for the parent. It answers them in order, so the first item
without an answer is the one it works on. If an item takes long, a spare worker is started to help; at the item's deadline
the slow worker is killed. The items that were sent after the slow one go to other workers once these have no other work.

If a worker dies, the signal says why: SIGKILL comes from outside (a person, or the kernel when memory is short), so the
item is tried again, MAX_KILLS times; all other deaths are caused by the item. Messages are lines of JSON; nothing is
pickled.
"""

import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pipeline.children.allocation import kill_beyond
from pipeline.children.worker import Worker, WorkerDied, die_with_parent
from schemas import UserError

AHEAD_SECONDS, MOST_AHEAD = 0.02, 64
# The LaTeX parser takes up to 0.2 s the first time it sees a construct. A new worker would be slower still.
SLOW_SECONDS = 0.3
# While every worker has enough to do, answers are collected for this long: waking for each costs as much as making it.
GATHER_SECONDS = 0.002
START_SECONDS = 60
MAX_KILLS = 5
# How many workers in a row may die before they are ready; and how many if they are killed by SIGKILL.
MAX_STILLBORN, MAX_KILLED_STILLBORN = 3, 100
# Memory of a worker beyond its memory at the start. An allocation past HARD fails, but libraries catch that error and go
# on to a wrong answer. So an answer that took more than SOFT counts as crashed (HARD is two doublings above SOFT, and big
# numbers grow by doubling), and a worker that asks for HARD at once is killed. A worker that keeps more than KEPT is
# replaced.
HARD_BYTES, SOFT_BYTES, KEPT_BYTES = 2 << 30, 512 << 20, 128 << 20
# Memory is checked again after items that together took longer than this.
QUICK_SECONDS = 0.01

Handler = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """The result of one item: the handler's values, or the reason why there are none."""

    values: dict[str, Any]  # empty if the item failed
    failure: str | None  # "timeout" or "crashed"; None: it did not fail
    seconds: float


@dataclass(eq=False)
class _Place:
    """A worker and the items sent to it. It works on the first of `sent`; None: an item of an earlier map."""

    worker: Worker
    number: int
    since: float  # when it began with its present item
    ready: bool = False
    slow: bool = False
    sent: deque[int | None] = field(default_factory=deque)
    outgoing: bytearray = field(default_factory=bytearray)
    incoming: bytearray = field(default_factory=bytearray)

    @property
    def fd(self) -> int:
        return self.worker.connection.fileno()


@dataclass(eq=False)
class _Work:
    """The items of a map, and their states by index."""

    items: Sequence[Sequence[Any]]
    waiting: deque[int]  # to be sent
    kills: Counter[int] = field(default_factory=Counter)  # how often a worker was killed while it worked on the item
    done: set[int] = field(default_factory=set)  # items with a result


class Pool:
    """Workers that share a stream of items and stay alive between calls of `map`. Not for two threads at once."""

    def __init__(self, module: str, n_workers: int, seconds: float, log: Path, **settings: Any) -> None:
        """Starts the workers.

        Args:
            module: its `main` ends in `serve_items`.
            seconds: the deadline of one item; the start of a worker does not count.
            log: the file for a worker's output; `-0`, `-1` … is added to its name.
            settings: the arguments for the module's `start`.
        """
        self._module, self._seconds, self._log, self._settings = module, seconds, log, settings
        self._selector = selectors.DefaultSelector()
        self._places: list[_Place] = []  # the regular workers
        self._spares: list[_Place] = []  # workers that help while a regular one is slow, and can replace it
        self._n_stillborn = 0
        self._pace = AHEAD_SECONDS  # seconds per item, a moving average
        self._work = _Work([], deque())
        for _ in range(n_workers):
            self._places.append(self._start())

    def map(self, items: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Result]]:
        """Each item's index and result, as they finish; an item is the handler's arguments.

        Raises:
            UserError: a worker reports that the settings are wrong.
            WorkerDied: workers do not start.
        """
        for place in self._everyone():  # an earlier map may have been left unfinished
            place.sent = deque(None for _ in place.sent)
        work = self._work = _Work(items, deque(range(len(items))))
        while len(work.done) < len(items):
            self._feed()
            heard = [found for place in self._listen() for found in self._collect(place)]
            for found in [*heard, *self._overdue()]:
                yield found
                if self._work is not work:
                    raise RuntimeError("another map of this pool has begun since; only that can go on")

    def close(self) -> None:
        for place in self._everyone():
            place.worker.kill()
        self._selector.close()

    def _start(self) -> _Place:
        used = {place.number for place in self._everyone()}
        number = next(n for n in range(len(used) + 1) if n not in used)
        log = self._log.with_stem(f"{self._log.stem}-{number}")
        # One thread each, because there is a worker per core. The hash seed gives sets the same order in all workers.
        worker = Worker(self._module, log=log, environment={"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"})
        place = _Place(worker, number, time.monotonic())
        os.set_blocking(place.fd, False)
        self._selector.register(place.fd, selectors.EVENT_READ, place)
        self._send(place, self._settings)
        return place

    def _everyone(self) -> list[_Place]:
        return [*self._places, *self._spares]

    def _replace(self, place: _Place) -> None:
        """Ends a worker and puts another in its place; its items go back to be sent to other workers."""
        self._selector.unregister(place.fd)
        place.worker.kill()
        held = self._work.done.union(
            self._work.waiting, *(other.sent for other in self._everyone() if other is not place)
        )
        self._work.waiting.extendleft(item for item in reversed(place.sent) if item is not None and item not in held)
        if place in self._spares:
            self._spares.remove(place)
            return
        self._places.remove(place)
        self._spares.sort(key=lambda spare: (spare.slow, not spare.ready))
        self._places.append(self._spares.pop(0) if self._spares else self._start())

    def _feed(self) -> None:
        """Sends items in advance to workers that are not slow, to as many as there are regular workers."""
        waiting, depth = self._work.waiting, min(MOST_AHEAD, max(2, int(AHEAD_SECONDS / self._pace)))
        able = [place for place in self._everyone() if place.ready and not place.slow]
        for place in able[: len(self._places)]:
            if len(place.sent) > depth // 2:
                continue
            if not waiting and not place.sent:
                waiting.extend(self._stuck())
            while waiting and len(place.sent) < depth:
                item = waiting.popleft()
                if item in self._work.done:
                    continue
                if not place.sent:
                    place.since = time.monotonic()
                place.sent.append(item)
                self._send(place, self._work.items[item])

    def _stuck(self) -> list[int]:
        """Items that only wait behind the slow item of a worker. They are sent again, and the first answer counts."""
        behind = dict.fromkeys(item for place in self._everyone() if place.slow for item in place.sent)
        busy = [list(place.sent)[: 1 if place.slow else None] for place in self._everyone()]
        return [item for item in behind if item is not None and item not in self._work.done.union(*busy)]

    def _send(self, place: _Place, message: Any) -> None:
        n_behind = len(place.outgoing)
        place.outgoing += json.dumps(message).encode() + b"\n"
        self._write(place, n_behind)

    def _write(self, place: _Place, n_behind: int) -> None:
        """Sends what the socket accepts. `n_behind` bytes did not fit before: if some fit now, the worker has read."""
        n_before = len(place.outgoing)
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):  # reading will find a death
            while place.outgoing:
                del place.outgoing[: os.write(place.fd, place.outgoing)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if place.outgoing else 0)
        if self._selector.get_key(place.fd).events != events:
            self._selector.modify(place.fd, events, place)
        # A worker that reads is between two items, and the time for sending an item does not count.
        if n_behind and len(place.outgoing) < n_before:
            place.since = time.monotonic()

    def _listen(self) -> Iterator[_Place]:
        """Waits until a worker answers, dies or is overdue; yields the workers that answered or died."""
        if all(len(place.sent) > 1 for place in self._places):
            time.sleep(GATHER_SECONDS)
        until = [place.since + limit for place in self._everyone() if (limit := self._limit(place))]
        patience = max(0.0, min(until) - time.monotonic()) if until else None
        for key, events in self._selector.select(patience):
            if events & selectors.EVENT_WRITE:
                self._write(key.data, len(key.data.outgoing))
            if events & selectors.EVENT_READ:
                yield key.data

    def _limit(self, place: _Place) -> float:
        """Seconds after which a worker's present item, or its start, is overdue; 0: never."""
        if not place.ready:
            return START_SECONDS
        return 0 if not place.sent else self._seconds if place.slow else min(SLOW_SECONDS, self._seconds)

    def _collect(self, place: _Place) -> list[tuple[int, Result]]:
        """The results that a worker has sent; if it died, the result for its item, if that is not tried again."""
        try:
            data = os.read(place.fd, 1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            return self._bury(place)
        place.since = time.monotonic()  # half an answer counts too: the time for sending does not count
        *lines, place.incoming = (place.incoming + data).split(b"\n")
        found = []
        for answer in map(json.loads, lines):
            if "user_error" in answer:
                self._n_stillborn = 0
                raise UserError(answer["user_error"])
            if not place.ready:
                place.ready, self._n_stillborn = True, 0
                continue
            place.slow = False
            self._pace += 0.1 * (answer["seconds"] - self._pace)
            found += self._end(place, Result(answer["values"], answer["failure"], answer["seconds"]))
            if answer["leaves"]:
                self._replace(place)
                break  # its other items go to other workers
        return found

    def _end(self, place: _Place, result: Result) -> list[tuple[int, Result]]:
        """The result of a worker's present item, unless the item already has one."""
        item = place.sent.popleft()
        if item is None or item in self._work.done:
            return []
        self._work.done.add(item)
        return [(item, result)]

    def _bury(self, place: _Place) -> list[tuple[int, Result]]:
        seconds, found = time.monotonic() - place.since, []
        was_killed = place.worker.exit_code() == -signal.SIGKILL
        if not place.ready:
            self._n_stillborn += 1
            if self._n_stillborn > (MAX_KILLED_STILLBORN if was_killed else MAX_STILLBORN):
                raise place.worker.death()
        elif place.sent:
            kills, item = self._work.kills, place.sent[0]
            if not was_killed or item is None or kills[item] == MAX_KILLS:
                found = self._end(place, Result({}, "crashed", seconds))
            else:
                kills[item] += 1
        self._replace(place)
        return found

    def _overdue(self) -> list[tuple[int, Result]]:
        """Handles workers that take too long: marks them as slow, kills them at the deadline, starts spares."""
        found = []
        for place in self._everyone():
            limit, seconds = self._limit(place), time.monotonic() - place.since
            # An answer may have come while the caller was busy with another one.
            if not limit or seconds < limit or place.worker.connection.poll():
                continue
            if not place.ready:
                raise WorkerDied(f"{self._module}: a worker is not ready after {START_SECONDS} s; see {self._log.parent}")
            if not place.slow:
                place.slow = True
            else:
                found += self._end(place, Result({}, "timeout", seconds))
                self._replace(place)
        if len(self._spares) < sum(place.slow for place in self._places):
            self._spares.append(self._start())
        return found


def serve_items(start: Callable[..., Handler]) -> NoReturn:
    """The child's side: handles items until the parent ends.

    Args:
        start: takes the pool's settings and returns the handler, which takes an item's parts and returns a dict. If the
            handler raises, the item has crashed; a UserError of `start` is passed on to the user.
    """
    die_with_parent(int(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = socket.socket(fileno=int(sys.argv[1]))
    lines = parent.makefile("rb")
    try:
        handle = start(**json.loads(lines.readline()))
    except UserError as error:
        parent.sendall(json.dumps({"user_error": str(error)}).encode() + b"\n")
        os._exit(1)
    size, held, _ = _memory()
    resource.setrlimit(resource.RLIMIT_AS, (size + HARD_BYTES, size + HARD_BYTES))
    kill_beyond(HARD_BYTES)
    parent.sendall(b"{}\n")
    unseen = 0.0
    for line in lines:
        began = time.perf_counter()
        values, failure, leaves = {}, None, False
        try:
            values = handle(*json.loads(line))
        except Exception as error:  # the parent decides what to do; the traceback is for the log
            sys.excepthook(type(error), error, error.__traceback__)
            failure = "crashed"
        seconds = time.perf_counter() - began
        unseen += seconds
        if unseen > QUICK_SECONDS:
            unseen = 0.0
            _, holds, peak = _memory()
            if peak > held + SOFT_BYTES:
                values, failure = {}, "crashed"
            leaves = peak > held + SOFT_BYTES or holds > held + KEPT_BYTES
        answer = {"values": values, "failure": failure, "seconds": seconds, "leaves": leaves}
        parent.sendall(json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _memory() -> tuple[int, int, int]:
    """Bytes of address space, of memory in use, and of the most memory in use since this process began."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    size, holds, peak = (1024 * int(found[name].split()[0]) for name in ("VmSize", "VmRSS", "VmHWM"))
    return size, holds, peak
