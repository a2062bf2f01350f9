"""Runs a verifier in a process of its own, since model output may be hostile text.

There it can be killed, and could do no harm even if a parser were talked into running it.
"""

import os
import sys
from typing import Any

from pipeline.children.pool import Handler, serve_items
from pipeline.verifiers import verifier

# Audited acts that no parser of an answer needs: with processes, sockets, signals, files; and those that only look.
_NEVER = {"os", "subprocess", "pty", "shutil", "signal", "socket", "sqlite3", "mmap", "fcntl"}
_NOR = {"ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function"}
_LOOKS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def start(name: str) -> Handler:
    """The handler of items, each a gold answer and an answer (None: none was read), by a verifier's name."""
    found = verifier(name)
    if found.prepare is not None:
        found.prepare()  # a user's own function: what that may do is the user's affair
    else:
        found.judge(found.example[0], found.read(found.example[1]))  # what it imports, it imports now
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
