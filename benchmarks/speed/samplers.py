"""The peer of benchmarks/speed/replay.py: torchrl's samplers. Needs only torch and torchrl.

python benchmarks/speed/samplers.py uniform|prioritised ROWS    (prints one JSON object)

This is a separate file for a separate interpreter: torchrl's samplers are compiled for one version of torch each.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

DRAWS, ITERATION, REPEATS = 1024, 4096, 5


def sampling(kind: str, n: int) -> dict[str, Any]:
    """Median seconds of a draw, median seconds of setting all priorities again, and the peak memory of the process."""
    import torch
    import torchrl
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler, RandomSampler

    sampler = PrioritizedSampler(n, alpha=0.6, beta=0.4) if kind == "prioritised" else RandomSampler()
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(n), sampler=sampler, batch_size=DRAWS)
    for start in range(0, n, 100_000):
        stop = min(start + 100_000, n)
        buffer.extend(TensorDict({"row": torch.arange(start, stop)}, [stop - start]))
    residual = torch.randn(n, generator=torch.Generator().manual_seed(0))
    age, index = torch.arange(n) // ITERATION, torch.arange(n)
    seconds, priorities = list[float](), list[float]()
    for _ in range(REPEATS):
        began = time.perf_counter()
        if kind == "prioritised":
            # The sampler raises the priority to alpha, and with it the age term.
            buffer.update_priority(index, (residual.abs() + 0.01) * torch.exp(-age / 100) ** (1 / 0.6))
        priorities.append(time.perf_counter() - began)
        assert len(buffer.sample()) == DRAWS
        seconds.append(time.perf_counter() - began)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    versions = f"torchrl {torchrl.__version__} with torch {torch.__version__}"
    return {"seconds": median(seconds), "priorities": median(priorities), "peak": peak, "versions": versions}


if __name__ == "__main__":
    print(json.dumps(sampling(sys.argv[1], int(sys.argv[2]))))
