"""The processes that a benchmark started, found in /proc: children, commands, memory used, and ending them."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def below(pid: int) -> list[int]:
    """All descendants of a process: its children, their children, and so on."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found + [further for pid in found for further in below(pid)]


def words_of(pid: int) -> list[str]:
    with suppress(OSError):
        return [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    return []


def cpu(pid: int) -> int:
    """Clock ticks of CPU time; 0: the process has ended."""
    with suppress(OSError):
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return 0


def kill(pids: Iterable[int]) -> bool:
    """Sends SIGKILL to each process; returns whether any was still there."""
    n_there = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            n_there += 1
    return n_there > 0
