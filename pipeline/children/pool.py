"""A pool of child processes with a deadline for each item; no item can hang, crash or delay the others.

A worker has a few items ahead, so that it never waits for us; answers come back one by one, so that the first that is
missing is the one it is at. An item that overruns its deadline costs the worker its life and nobody else anything: what
was sent behind it goes to others once they have nothing else, and a successor is started that works on beside it.

What a worker's death says of its item: SIGKILL comes from outside (a person, the kernel for want of memory), so the item
is tried again, MAX_KILLS times; anything else was the item's doing. Messages are lines of JSON; nothing is pickled.
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
# The parser of LaTeX takes up to 0.2 s over what is new to it: no reason to start another that knows even less.
SLOW_SECONDS = 0.3
# While every worker has enough to do, answers gather for so long: to wake for each would cost as much as it took to make.
GATHER_SECONDS = 0.002
START_SECONDS = 60
MAX_KILLS = 5
# Workers in a row that may die before they are ready; and where somebody goes about killing them.
MAX_STILLBORN, MAX_KILLED_STILLBORN = 3, 100
# Memory of a worker beyond what it starts with. An allocation past HARD fails; libraries swallow that error and go on
# to a wrong answer, so what has touched SOFT is no answer (they are two doublings apart, and big numbers grow by
# doubling); nor is what asks for HARD at once, which is death. A worker that is left with more than KEPT is replaced.
HARD_BYTES, SOFT_BYTES, KEPT_BYTES = 2 << 30, 512 << 20, 128 << 20
# What takes less in all touches no memory worth a look.
QUICK_SECONDS = 0.01

Handler = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """What became of one item: the handler's values, or why there are none."""

    values: dict[str, Any]  # empty: it failed
    failure: str | None  # "timeout" or "crashed"; None: it did not
    seconds: float


@dataclass(eq=False)
class _Place:
    """A worker and what it was sent. Of `sent`, it is at the first; None: an item of a map that is over."""

    worker: Worker
    number: int
    since: float  # when it began with what it is at
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
    """A map's items, and by index what is known of them."""

    items: Sequence[Sequence[Any]]
    waiting: deque[int]  # to be sent
    kills: Counter[int] = field(default_factory=Counter)  # how often a worker was killed that was at it
    done: set[int] = field(default_factory=set)  # it has a result


class Pool:
    """Workers that share a stream of items; they live from one `map` to the next. Not for two threads at once."""

    def __init__(self, module: str, n_workers: int, seconds: float, log: Path, **settings: Any) -> None:
        """Starts the workers.

        Args:
            module: its `main` ends in `serve_items`.
            seconds: the deadline of one item; a worker's own start does not count.
            log: where the workers' output goes, `-0`, `-1` … added.
            settings: what the module's `start` is called with.
        """
        self._module, self._seconds, self._log, self._settings = module, seconds, log, settings
        self._selector = selectors.DefaultSelector()
        self._places: list[_Place] = []  # the workers in charge
        self._spares: list[_Place] = []  # those that work while one in charge is slow, and follow it
        self._n_stillborn = 0
        self._pace = AHEAD_SECONDS  # seconds of an item, as of late
        self._work = _Work([], deque())
        for _ in range(n_workers):
            self._places.append(self._start())

    def map(self, items: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Result]]:
        """Each item's index and result, as they finish; an item is the handler's arguments.

        Raises:
            UserError: the settings are wrong, say the workers.
            WorkerDied: workers do not even start.
        """
        for place in self._everyone():  # whoever mapped before may have left half-way
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
        # One thread each: the workers are as many as the cores. And sets are in the same order in all of them.
        worker = Worker(self._module, log=log, environment={"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"})
        place = _Place(worker, number, time.monotonic())
        os.set_blocking(place.fd, False)
        self._selector.register(place.fd, selectors.EVENT_READ, place)
        self._send(place, self._settings)
        return place

    def _everyone(self) -> list[_Place]:
        return [*self._places, *self._spares]

    def _replace(self, place: _Place) -> None:
        """Ends a worker; what it was sent is others' to do."""
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
        """Gives what lasts for a while to as many workers as there are places, of those that are not slow."""
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
        """What nobody has but those who are slow with another. The first answer counts, whoever gives it."""
        behind = dict.fromkeys(item for place in self._everyone() if place.slow for item in place.sent)
        busy = [list(place.sent)[: 1 if place.slow else None] for place in self._everyone()]
        return [item for item in behind if item is not None and item not in self._work.done.union(*busy)]

    def _send(self, place: _Place, message: Any) -> None:
        n_behind = len(place.outgoing)
        place.outgoing += json.dumps(message).encode() + b"\n"
        self._write(place, n_behind)

    def _write(self, place: _Place, n_behind: int) -> None:
        """Sends what the worker takes. With `n_behind` bytes that had no room before, it has read since."""
        n_before = len(place.outgoing)
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):  # of a death, reading says more
            while place.outgoing:
                del place.outgoing[: os.write(place.fd, place.outgoing)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if place.outgoing else 0)
        if self._selector.get_key(place.fd).events != events:
            self._selector.modify(place.fd, events, place)
        # A worker that reads is between two items: how long an item travels is not its own time.
        if n_behind and len(place.outgoing) < n_before:
            place.since = time.monotonic()

    def _listen(self) -> Iterator[_Place]:
        """The workers that have said something, or died, as soon as there is one or something is overdue."""
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
        """Seconds after which something has to be done about what a worker is at; 0: never."""
        if not place.ready:
            return START_SECONDS
        return 0 if not place.sent else self._seconds if place.slow else min(SLOW_SECONDS, self._seconds)

    def _collect(self, place: _Place) -> list[tuple[int, Result]]:
        """What a worker has answered; or of one that died, what that means for its item."""
        try:
            data = os.read(place.fd, 1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            return self._bury(place)
        place.since = time.monotonic()  # with half of an answer too: how long that travels is nobody's time
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
                break  # what it went on to is others' now
        return found

    def _end(self, place: _Place, result: Result) -> list[tuple[int, Result]]:
        """The result of what a worker is at, unless there was one before."""
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
        """Sees to the workers that take too long."""
        found = []
        for place in self._everyone():
            limit, seconds = self._limit(place), time.monotonic() - place.since
            # An answer may have come while whoever asked was busy with another.
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
    """The child's side: handles items until the parent is gone.

    Args:
        start: takes the pool's settings and gives the handler, which takes an item's parts and gives a dict; what it
            raises is a crash, and of `start`, a UserError is the user's.
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
        except Exception as error:  # the parent decides what becomes of it; the traceback is for the log
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
    """Bytes of address space, of memory held, and of memory held at the most, since this process began."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    size, holds, peak = (1024 * int(found[name].split()[0]) for name in ("VmSize", "VmRSS", "VmHWM"))
    return size, holds, peak
