"""A worker for the tests of the pool, told by each item what to do: answer, wait, crash, take memory."""

import os
import signal
import sys
import time
from typing import Any

from pipeline.children.pool import Handler, serve_items
from schemas import UserError

HELD: list[bytearray] = []


def start(how: str = "well") -> Handler:
    if how == "refused":
        raise UserError("no such colour: try green")
    if how == "broken":
        raise RuntimeError("the colours are out")
    return lambda command, *taken: {"said": COMMANDS[command](*taken)}


def hang(power: int = 9**9) -> str:
    """Hangs in C code with the interpreter's lock held, so no Python signal handler can run."""
    return str(9**power)[:10]


def swallow(megabytes: int = 1 << 20) -> str:
    """Like a library that continues after a MemoryError."""
    held = []
    try:
        for _ in range(megabytes // 64):
            held.append(b"x" * (64 << 20))
    except MemoryError:
        held.clear()
    return "wrong"


def gulp(n_bytes: int) -> str:
    """Asks for all the memory at once; this fails before any of it is used."""
    try:
        bytes(n_bytes)
    except MemoryError:
        return "wrong"
    return "right"


def keep(megabytes: int) -> int:
    HELD.append(bytearray(b"x" * (megabytes << 20)))
    return os.getpid()


def keep_little(megabytes: float) -> int:
    """Keeps a little memory, and answers at once."""
    HELD.append(bytearray(int(megabytes * (1 << 20))))
    return os.getpid()


def shout(n: int) -> str:
    sys.stdout.write("x" * n)
    sys.stdout.flush()
    os.write(2, b'{"values": {}, "failure": null}\n' * 100)
    return "said"


def err(text: str) -> None:
    raise ValueError(text)


def leave(code: int) -> None:
    sys.exit(code)


def append(path: str, name: str) -> None:
    with open(path, "a") as file:
        file.write(".")
    os.kill(os.getpid(), signal.Signals[name])


def sleep(seconds: float, said: Any = None) -> Any:
    time.sleep(seconds)
    return said


COMMANDS: dict[str, Any] = {
    "echo": lambda said: said,
    "pid": os.getpid,
    "hang": hang,
    "sleep": sleep,
    "exit": os._exit,
    "leave": leave,
    "append": append,
    "signal": lambda name: os.kill(os.getpid(), signal.Signals[name]),
    "raise": err,
    "swallow": swallow,
    "gulp": gulp,
    "keep": keep,
    "keep_little": keep_little,
    "shout": shout,
    "large": lambda n: "x" * n,
    "length": len,
    "unsayable": lambda: {1, 2},
}

if __name__ == "__main__":
    serve_items(start)
