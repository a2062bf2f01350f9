"""Runs training passes in forks of one process that has imported everything, since a new process takes seconds.

Reads one folder per line, forks, prints the child's pid, and waits for it; the child runs the pass and ends.
"""

import os
import sys
from pathlib import Path

import torch

from reval.trainer import Trainer


def main() -> None:
    torch.set_num_threads(1)  # threads do not outlive a fork
    for line in sys.stdin:
        child = os.fork()
        if not child:
            Trainer().run_pass(Path(line.strip()))
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
