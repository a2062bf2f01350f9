"""Child processes that answer calls and can be killed.

A call is a JSON header and, if there are rows, an Arrow table, over a socket pair; nothing is pickled. A child ends when
its parent ends, for any reason: the kernel closes the parent's end of a pipe that the child watches. If a child fails,
the error message has the last line of its log and the path of the log.
"""

import fcntl
import inspect
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, TextIO

import pyarrow as pa

from schemas import Failure, UserError

Progress = Callable[[int, int], None]
Handler = Callable[..., Any]
STOP_SECONDS = 10
# OpenMP's threads wait for one another by spinning, up to 300,000 times. Where other processes use the same cores, a
# spinning thread takes the core from the very thread it waits for. After this many they sleep: alone that is as fast, and
# beside two other runs eight times as fast (benchmarks/LOG.md). libgomp reads it, which PyTorch's own builds use.
QUIET = {"GOMP_SPINCOUNT": "10000"}


class WorkerDied(Failure):
    """The child ended while it was needed."""


class Worker:
    """A child process that runs `python -m MODULE` and answers calls one at a time.

    Args:
        module: a module whose `main` ends in `serve`.
        log: the file for the child's output; None: it shares the parent's output.
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
            if log.exists():  # keep the log of the child before, which may say why it ended
                log.replace(log.with_suffix(".before.log"))
            output = log.open("w")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(watched)],
                pass_fds=(theirs.fileno(), watched),
                stdin=subprocess.DEVNULL,
                stdout=output or sys.stderr,  # the parent's standard output is for its answer
                stderr=output,
                env={**QUIET, **os.environ, **(environment or {})},
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
            raise WorkerDied(f"{self.module}: {header['error']}{self.where()}")
        return header, rows

    def send(self, method: str, table: pa.Table | None = None, **params: Any) -> None:
        try:
            _send(self.connection, {"method": method, **params}, table)
        except OSError:
            raise self.death() from None

    def receive(self) -> tuple[dict[str, Any], pa.Table | None]:
        try:
            return _receive(self.connection)
        except (EOFError, OSError):
            raise self.death() from None

    def exit_code(self) -> int | None:
        """The child's exit code, negative if a signal ended it; None: it does not end."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(STOP_SECONDS)
        return None

    def death(self) -> WorkerDied:
        """The error for a child that has ended."""
        code = self.exit_code()
        if code is not None and code < 0:  # the end of its log is not the reason
            how = f"was killed by {signal.Signals(-code).name}, which is often for want of memory"
            where = f"; its output is in {self._log}" if self._log else ""
            return WorkerDied(f"{self.module} {how}{where}; the same command goes on from what is committed")
        return WorkerDied(f"{self.module} ended with exit code {code}{self.where()}")

    def where(self) -> str:
        """The last line of the child's log and the log's path, as part of a message."""
        if self._log is None:
            return ""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"; its last words: {lines[-1] if lines else '(none)'} (all of them: {self._log})"

    def has_ended(self) -> bool:
        """Whether the child has ended, or ends within a second."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return self._process.returncode is not None

    def kill(self) -> None:
        """Ends the child at once."""
        self._process.kill()
        self._process.wait()
        self._release()

    def close(self) -> None:
        """Ends the child, busy or not, by closing the pipe that it watches; kills it if it does not end."""
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
    die_with_parent(int(sys.argv[2]))
    while True:
        try:
            header, table = _receive(connection)
        except EOFError:
            os._exit(0)  # there is nothing to save, and an engine's own tear-down takes seconds
        handler = handlers[header.pop("method")]
        if table is not None:
            header["table"] = table
        if "progress" in inspect.signature(handler).parameters:
            header["progress"] = lambda done, total: _send(connection, {"progress": [done, total]}, None)
        try:
            result = handler(**header)
        except UserError as error:
            _send(connection, {"user_error": str(error)}, None)
        except Exception as error:  # the parent decides what to do; the traceback is for the log
            sys.excepthook(type(error), error, error.__traceback__)
            _send(connection, {"error": f"{type(error).__name__}: {error}"}, None)
        else:
            values, rows = result if isinstance(result, tuple) else (result, None)
            _send(connection, *((values, rows) if isinstance(values, dict) else ({}, values)))


def die_with_parent(watched: int) -> None:
    """Makes the kernel end this process when the other end of a pipe is closed, even while the process is busy."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})  # a parent may have blocked it, and masks are inherited
    fcntl.fcntl(watched, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(watched, fcntl.F_SETFL, os.O_ASYNC)  # sends SIGIO, which ends a process by default
    if select.select([watched], [], [], 0)[0]:  # it was closed before
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
