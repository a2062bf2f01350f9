"""Several workers that answer a call together, like the processes of a trainer; the first one's answer counts.

They find each other through a file and communicate over the loopback interface. If one of them ends or fails, the others
cannot go on: all are ended, and the next call starts new ones.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.children.worker import Progress, Worker, WorkerDied
from schemas import UserError


class Team:
    """`size` child processes that run `python -m MODULE`, started by the first call.

    Args:
        module: a module whose `main` ends in `serve`.
        log: the file for the output of the first; the others' files are beside it. None: they share the parent's output.
    """

    def __init__(self, module: str, size: int, *, log: Path | None = None) -> None:
        self._module, self._size, self._log = module, size, log
        self._workers: list[Worker] = []
        self._meeting: Path | None = None

    @property
    def pids(self) -> list[int]:
        """The ids of the running processes."""
        return [worker.pid for worker in self._workers]

    def call(
        self, method: str, table: pa.Table | None = None, *, progress: Progress | None = None, **params: Any
    ) -> tuple[dict[str, Any], pa.Table | None]:
        """Calls a handler in all workers and waits for all answers; returns the first worker's.

        Raises:
            UserError: the handler raised one.
            WorkerDied: one of them ended, or its handler raised anything else.
        """
        if not self._workers:
            self._start()
        if self._size == 1:
            return self._workers[0].call(method, table, progress=progress, **params)
        with ExitStack() as unless_answered:
            unless_answered.callback(self.close)
            for worker in self._workers:
                worker.send(method, table, **params)
            answer = self._answer(progress)
            unless_answered.pop_all()
        return answer

    def _answer(self, progress: Progress | None) -> tuple[dict[str, Any], pa.Table | None]:
        waiting = {worker.connection: worker for worker in self._workers}
        answers: dict[Worker, tuple[dict[str, Any], pa.Table | None]] = {}
        while waiting:
            for connection in wait(list(waiting)):
                worker = waiting[connection]  # type: ignore[index]
                header, rows = worker.receive()
                if "progress" in header:
                    if progress is not None and worker is self._workers[0]:
                        progress(*header["progress"])
                    continue
                if "user_error" in header:
                    raise UserError(header["user_error"])
                if "error" in header:
                    self._raise_a_death(worker)
                    raise WorkerDied(f"{self._module}: {header['error']}{worker.where()}")
                answers[worker] = header, rows
                del waiting[connection]  # type: ignore[arg-type]
        return answers[self._workers[0]]

    def _raise_a_death(self, but: Worker) -> None:
        """Raises the death of another worker, if one ended, because that is often the reason for an error in one."""
        for worker in self._workers:
            if worker is not but and worker.has_ended():
                raise worker.death()

    def _start(self) -> None:
        if self._size == 1:
            self._workers = [Worker(self._module, log=self._log)]
            return
        self._meeting = Path(tempfile.mkdtemp(prefix="reval-team-"))
        n_threads = max(1, len(os.sched_getaffinity(0)) // self._size)
        shared = {
            "WORLD_SIZE": str(self._size),
            "LOCAL_WORLD_SIZE": str(self._size),
            "REVAL_RENDEZVOUS": str(self._meeting / "meeting"),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(n_threads)),
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
        for rank in range(self._size):
            log = self._log if self._log is None or not rank else self._log.with_stem(f"{self._log.stem}-{rank}")
            environment: Mapping[str, str] = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            self._workers.append(Worker(self._module, log=log, environment=environment))

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.close()
        self._workers = []
        if self._meeting is not None:
            with suppress(OSError):
                shutil.rmtree(self._meeting)
            self._meeting = None
