"""What benchmarks share: output lines with a ratio, seconds by name, and measuring in a separate process."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

N_THREADS = len(os.sched_getaffinity(0))


def where(*versions: str) -> str:
    """The date and the machine of a measurement."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {N_THREADS} of {os.cpu_count()} CPUs, {platform.machine()} · "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def say(
    what: str, measured: str, peer: str, ratio: float | None = None, target: str = "", met: bool | None = None
) -> None:
    """Prints a line: the name of the measurement, its result, the limit or peer, the ratio, the target, met or not."""
    verdict = "" if met is None else "met" if met else "MISSED"
    times = "" if ratio is None else f"{ratio:.2f}"
    print(f"{what:<46} {measured:>40} {peer:>47} {times:>6} {target:>11} {verdict}".rstrip(), flush=True)


class Timer:
    """Wall and processor seconds of blocks, by name."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)

    def __getitem__(self, name: str) -> float:
        return median(self.wall[name])

    def text(self, name: str) -> str:
        return f"{name} {1000 * self[name]:,.0f} ms (cpu {1000 * median(self.cpu[name]):,.0f})"


def fresh(child: Callable[..., dict[str, Any]], *words: object) -> dict[str, Any]:
    """Runs `child` in a new process: its result, and as `process` the seconds from the process's start to its end."""
    began = time.perf_counter()
    module = sys.modules[child.__module__].__spec__.name  # the real name of a module that runs as __main__
    program = f"import json, sys; from {module} import {child.__name__} as f; print(json.dumps(f(*sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, check=True, text=True
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - began}


def peak_bytes(process: int | str = "self") -> int:
    """Peak memory of a process. Does not use ru_maxrss, because a child starts with its parent's value."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
