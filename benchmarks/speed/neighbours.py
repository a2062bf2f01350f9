"""Updates on a CPU that other runs use too: tokens per second alone and beside others, by how OpenMP's threads wait.

python -m benchmarks.speed.neighbours [--seconds 5] [--repeats 5] [--neighbours 2] [--models small medium]

A run is a process that only makes updates (reval.update.update, as in benchmarks.speed.train, mix short). All runs start
together and are measured over the same seconds; if there are several, their mean counts. The ways take turns, and the
median of a way's measurements is printed with their range, because one measurement may differ from the next by a tenth.
spin: OpenMP's default, where threads wait for one another by spinning. ours: what pipeline.children.worker sets.
one thread: OMP_NUM_THREADS=1, the limit, since no thread waits for another.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import mean, median

import torch

from benchmarks.measure import say, where
from benchmarks.speed.gpu_train import how, optimizer_of, ours
from benchmarks.speed.train import BUDGET, MODELS, mixed, policy_of
from pipeline.children.worker import QUIET
from reval.rollouts import Rollouts

WAYS: dict[str, dict[str, str]] = {"spin": {}, "ours": QUIET, "one thread": {"OMP_NUM_THREADS": "1"}}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.speed.neighbours", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each way")
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--tokens", type=int, default=4096, help="of an update, about")
    parser.add_argument("--child", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child:
        child(options.child, options.tokens, options.seconds)
        return
    print(where(f"torch {torch.__version__}", f"load {os.getloadavg()[0]:.1f}"))
    for model in options.models:
        for n in (0, options.neighbours):
            turns = [
                {way: measured(model, options, n, extra) for way, extra in WAYS.items()} for _ in range(options.repeats)
            ]
            rates = {way: sorted(turn[way] for turn in turns) for way in WAYS}
            said = {
                way: f"{median(found):,.0f} tokens/s [{found[0]:,.0f}, {found[-1]:,.0f}]" for way, found in rates.items()
            }
            beside = f"beside {n}" if n else "alone"
            for way in ("ours", "one thread"):
                times = median(rates[way]) / median(rates["spin"])
                target, met = ("≥ 0.97", times >= 0.97) if way == "ours" and not n else ("", None)
                say(f"{model}, {beside}, {way}", said[way], f"spin {said['spin']}", times, target, met)


def measured(model: str, options: argparse.Namespace, n_neighbours: int, extra: dict[str, str]) -> float:
    """Tokens per second of a run: the mean over the run and its neighbours."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-m", "benchmarks.speed.neighbours", "--child", model]
    command += ["--seconds", str(options.seconds), "--tokens", str(options.tokens)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": {**plain, **extra}}
    runs = [subprocess.Popen(command, **pipes) for _ in range(1 + n_neighbours)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    return mean(float(run.communicate()[0]) for run in runs)


def child(model: str, n_tokens: int, seconds: float) -> None:
    """After a line on standard input, makes updates for this many seconds, then prints the tokens per second."""
    policy = policy_of(model)
    rows = mixed("short", n_tokens, policy.model.config.vocab_size)
    step = ours(policy, optimizer_of(policy), how(micro_batch_tokens=BUDGET, device="cpu"), rows)
    step()
    print("ready", flush=True)
    sys.stdin.readline()
    began, n_updates = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        n_updates += 1
    print(n_updates * sum(Rollouts(rows).n_tokens) / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
