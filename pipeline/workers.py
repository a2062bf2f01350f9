"""Child processes that can be killed: one that answers calls, and a pool of them with a deadline per item.

A call is a JSON header and, where rows travel, an Arrow table, over a socket pair; nothing is pickled. A child dies
with its parent however the parent dies: the kernel closes the parent's end of a pipe that the child watches. A child
that breaks is reported with the last line of its log, and where that lies.
"""

import inspect
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn, TextIO

import pyarrow as pa

from schemas import Failure, UserError

Progress = Callable[[int, int], None]
Handler = Callable[..., Any]
STOP_SECONDS = 10
# Workers of a pool that may die before their first item: one killed from outside is replaced, a broken one is an error.
MAX_STILLBORN = 3


class WorkerDied(Failure):
    """The child ended while it was needed."""


class Worker:
    """A child process that runs `python -m MODULE` and answers calls one at a time.

    Args:
        module: a module whose `main` ends in `serve`.
        log: where the child's output goes; null lets it share the parent's.
        environment: variables to set for the child.
    """

    def __init__(self, module: str, *, log: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.module = module
        self._log = log
        ours, theirs = socket.socketpair()
        watched, self._lifeline = os.pipe()
        output: TextIO | None = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            if log.exists():  # what the one before said of its end is what a person looks for after the next start
                log.replace(log.with_suffix(".before.log"))
            output = log.open("w")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(watched)],
                pass_fds=(theirs.fileno(), watched),
                stdin=subprocess.DEVNULL,
                stdout=output or sys.stderr,  # the parent's standard output is for its answer
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C reaches the parent, which then stops the child
            )
        finally:
            theirs.close()
            os.close(watched)
            if output is not None:
                output.close()
        self.connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(
        self, method: str, table: pa.Table | None = None, *, progress: Progress | None = None, **params: Any
    ) -> tuple[dict[str, Any], pa.Table | None]:
        """Calls a handler in the child and waits for its answer.

        Raises:
            UserError: the handler raised one.
            WorkerDied: the child ended, or the handler raised anything else.
        """
        self.send(method, table, **params)
        while "progress" in (answer := self.receive())[0]:
            if progress is not None:
                progress(*answer[0]["progress"])
        header, rows = answer
        if "user_error" in header:
            raise UserError(header["user_error"])
        if "error" in header:
            raise WorkerDied(f"{self.module}: {header['error']}{self._where()}")
        return header, rows

    def send(self, method: str, table: pa.Table | None = None, **params: Any) -> None:
        try:
            _send(self.connection, {"method": method, **params}, table)
        except OSError:
            self._raise_dead()

    def receive(self) -> tuple[dict[str, Any], pa.Table | None]:
        try:
            return _receive(self.connection)
        except (EOFError, OSError):
            self._raise_dead()

    def _raise_dead(self) -> NoReturn:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        code = self._process.poll()
        if code is not None and code < 0:  # its last words have nothing to do with it
            how = f"was killed by {signal.Signals(-code).name}, which is often for want of memory"
            where = f"; its output is in {self._log}" if self._log else ""
            raise WorkerDied(f"{self.module} {how}{where}; the same command goes on from what is committed") from None
        raise WorkerDied(f"{self.module} ended with exit code {code}{self._where()}") from None

    def _where(self) -> str:
        if self._log is None:
            return ""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"; its last words: {lines[-1] if lines else '(none)'} (all of them: {self._log})"

    def kill(self) -> None:
        """Ends the child at once."""
        self._process.kill()
        self._process.wait()
        self._release()

    def close(self) -> None:
        """Ends the child by closing what it watches, busy or not; if it does not go, it is killed."""
        self._release()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _release(self) -> None:
        with suppress(OSError):
            self.connection.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def serve(handlers: Mapping[str, Handler]) -> NoReturn:
    """The child's side: answers calls until the parent closes the connection.

    A handler takes the call's parameters, `table` if rows came, and `progress` if it declares it; it returns a dict, a
    table, or a pair of both.
    """
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_die_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    while True:
        try:
            header, table = _receive(connection)
        except EOFError:
            os._exit(0)  # nothing to save: an engine's own tear-down takes seconds
        handler = handlers[header.pop("method")]
        if table is not None:
            header["table"] = table
        if "progress" in inspect.signature(handler).parameters:
            header["progress"] = lambda done, total: _send(connection, {"progress": [done, total]}, None)
        try:
            result = handler(**header)
        except UserError as error:
            _send(connection, {"user_error": str(error)}, None)
        except Exception as error:  # the parent decides what becomes of it; the traceback is for the log
            sys.excepthook(type(error), error, error.__traceback__)
            _send(connection, {"error": f"{type(error).__name__}: {error}"}, None)
        else:
            values, rows = result if isinstance(result, tuple) else (result, None)
            _send(connection, *((values, rows) if isinstance(values, dict) else ({}, values)))


def _die_with_parent(watched: int) -> None:
    os.read(watched, 1)  # returns only when the parent's end is closed
    os._exit(1)


def _send(connection: Connection, header: Mapping[str, Any], table: pa.Table | None) -> None:
    connection.send_bytes(json.dumps({**header, "rows": table is not None}).encode())
    if table is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        connection.send_bytes(sink.getvalue())


def _receive(connection: Connection) -> tuple[dict[str, Any], pa.Table | None]:
    header = json.loads(connection.recv_bytes())
    if not header.pop("rows"):
        return header, None
    return header, pa.ipc.open_stream(connection.recv_bytes()).read_all()


def limit_memory(n_bytes: int) -> None:
    """Caps the calling process's address space; an allocation beyond it is a MemoryError there."""
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


@dataclass(frozen=True)
class Outcome:
    """What became of one item: the handler's values, or why there are none."""

    values: dict[str, Any] | None
    failure: str | None  # "timeout" or "crashed"; null: there are values
    seconds: float


class Pool:
    """Workers that share a stream of items. One that overruns an item's deadline or dies is replaced, and the other items
    do not wait for it. A death may be none of the item's doing (the kernel killed the worker for memory, between two
    items even), so the item is tried once more; an overrun, or a second death, is what becomes of it.
    """

    def __init__(self, module: str, n_workers: int, seconds: float, log: Path) -> None:
        """`seconds` is the deadline of one item; a worker's own start does not count."""
        self._module, self._seconds, self._log = module, seconds, log
        self._starting: set[int] = set()
        self._n_stillborn = 0
        self._workers = [self._start(place) for place in range(n_workers)]

    def _start(self, place: int) -> Worker:
        log = self._log.with_stem(f"{self._log.stem}-{place}")
        # One thread each: the workers are as many as the cores.
        worker = Worker(self._module, log=log, environment={"OMP_NUM_THREADS": "1"})
        worker.send("ready")
        self._starting.add(place)
        return worker

    def map(self, method: str, items: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        """Each item's index and outcome, as they finish.

        Raises:
            WorkerDied: workers do not even start.
        """
        waiting = deque(range(len(items)))
        outlived: set[int] = set()  # items whose worker died
        busy: dict[int, tuple[int, float]] = {}  # place of a worker -> its item and when that was sent
        for place in set(range(len(self._workers))) - self._starting:
            self._feed(place, method, items, waiting, busy)
        n_done = 0
        while n_done < len(items):
            until = min((sent for _, sent in busy.values()), default=float("inf")) + self._seconds
            watched = {self._workers[place].connection: place for place in {*busy, *self._starting}}
            patience = None if until == float("inf") else max(0.0, until - time.monotonic())
            answered = {watched[connection] for connection in wait(list(watched), patience)}  # type: ignore[index]
            now = time.monotonic()
            for place in answered & self._starting:
                answered.discard(place)
                try:
                    self._workers[place].receive()
                except WorkerDied:
                    self._n_stillborn += 1
                    if self._n_stillborn > MAX_STILLBORN:
                        raise
                    self._replace(place)
                    continue
                self._starting.discard(place)
                self._feed(place, method, items, waiting, busy)
            for place, (item, sent) in list(busy.items()):
                if place in answered:
                    outcome = self._collect(place, now - sent)
                    if place in self._starting and item not in outlived:
                        outlived.add(item)
                        waiting.append(item)
                        del busy[place]
                        continue
                elif now - sent >= self._seconds:
                    self._replace(place)
                    outcome = Outcome(None, "timeout", now - sent)
                else:
                    continue
                del busy[place]
                n_done += 1
                if place not in self._starting:
                    self._feed(place, method, items, waiting, busy)
                yield item, outcome

    def _feed(
        self,
        place: int,
        method: str,
        items: Sequence[Mapping[str, Any]],
        waiting: deque[int],
        busy: dict[int, tuple[int, float]],
    ) -> None:
        if not waiting:
            return
        item = waiting.popleft()
        busy[place] = (item, time.monotonic())
        with suppress(WorkerDied):  # it died between items: the connection says so when it is collected
            self._workers[place].send(method, **items[item])

    def _collect(self, place: int, seconds: float) -> Outcome:
        try:
            answer = self._workers[place].receive()
        except WorkerDied:
            self._replace(place)
            return Outcome(None, "crashed", seconds)
        return Outcome(None, "crashed", seconds) if "error" in answer[0] else Outcome(answer[0], None, seconds)

    def _replace(self, place: int) -> None:
        self._workers[place].kill()
        self._workers[place] = self._start(place)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
