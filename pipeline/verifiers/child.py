"""Runs a verifier in a process of its own, since model output may be hostile text.

There it can be killed, and the text can do no harm, even if it makes a parser run it as code.
"""

import os
import sys
from typing import Any

from pipeline.children.pool import Handler, serve_items
from pipeline.verifiers import verifier

# Audit events that no parser of an answer needs (processes, sockets, signals, files), and events that only read.
_NEVER = {"os", "subprocess", "pty", "shutil", "signal", "socket", "sqlite3", "mmap", "fcntl"}
_NOR = {"ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function"}
_LOOKS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def start(name: str) -> Handler:
    """The handler of items for a verifier's name. An item is a gold answer and an answer; None: no answer was read."""
    found = verifier(name)
    if found.prepare is not None:
        found.prepare()  # a user's own function, which may do anything
    else:
        found.judge(found.example[0], found.read(found.example[1]))  # so that all its imports happen now
        sys.addaudithook(_refuse)

    def judge(gold_answer: str, answer: str | None) -> dict[str, Any]:
        return found.judge(gold_answer, answer)._asdict()

    return judge


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    acts = event in _NOR or (event.partition(".")[0] in _NEVER and event not in _LOOKS)
    if acts or (event == "open" and arguments[2] & _WRITES):
        raise PermissionError(f"{event}: no answer has to do this")


if __name__ == "__main__":
    serve_items(start)
