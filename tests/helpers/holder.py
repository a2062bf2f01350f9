"""Another process that holds a lock of an archive."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.command import environment

HOLD = """
import sys
from pipeline.archive.store import Store
with Store(sys.argv[1]).lock(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def lock_held(archive: str | Path, name: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of this name until its standard input is closed or it is killed."""
    command = [sys.executable, "-c", HOLD, str(archive), name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(cwd), **pipes) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
