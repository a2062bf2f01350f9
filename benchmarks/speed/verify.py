"""Judging real solutions: the pool compared with plain loops over math-verify, with hostile items, memory and start-up.

python -m benchmarks.speed.verify [--items N] [--repeats 5] [--data DIR]

short: solutions of GSM8K's test problems by its example models, 281 characters each, that end in `A: 18`.
long: each of them after three solutions of other problems, 1,129 characters. aime: solutions of AIME 2024, full of LaTeX,
cut off after each of their lines; of each piece the last lines, at most 1,300 characters; few have a box.
No two items of a set are the same to the verifier, so judging equal items only once gains nothing here.

The plain loop is a script's way: parse the gold answer, parse the response, compare; math-verify's defaults without time
limits. Every measurement has its own process, ours and the peers' in turn; figures are medians. Rates are of the second
half of a set: the first half warms up each process, because the LaTeX parser fills its grammar's tables while it reads.
A hostile item is a tower of powers, each a different one. If it reaches the deadline, it costs that time in any pool. So
only the time beyond is compared with the clean run: the total, minus the deadlines shared among the workers.
Memory: the growth of this process, and every worker's own peak; shared pages count in each.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from threading import Event, Thread
from typing import Any

from benchmarks.measure import N_THREADS, fresh, peak_bytes, say, where
from pipeline.children.pool import Pool
from pipeline.stages import score
from pipeline.verifiers import verifier
from schemas import digest

DATA = Path(__file__).parents[3] / "shared" / "data"
MOST_CHARACTERS = 1300
DEADLINE_SECONDS, CLEAN_TO_A_HOSTILE = 2.0, 100
HOSTILE = r"\boxed{9^{9^{9^{%d}}}}"
PEERS = {"plain": "plain loop", "cached": "with gold answers cached", "limits": "with its own limits of 5 s"}
TARGET_TIMES, LIMIT_BYTES = 1.8, 500e6 + 300e6 * N_THREADS


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.speed.verify", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000, help="of each set at the most; default: all")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--data", type=Path, default=DATA, help="holds gsm8k/ and benchmarks/")
    options = parser.parse_args(words)
    print(where(f"math-verify {version('math-verify')}", verifier("math").verifier_id, f"load {os.getloadavg()[0]:.1f}"))
    for kind in ("short", "long", "aime"):
        rates(options.data, kind, options.items, options.repeats)
    hostile(options.data, options.items, options.repeats)


def solutions(data: str, kind: str, n: int) -> list[tuple[str, str]]:
    """Gold answers and responses."""
    if kind == "aime":
        rows = [json.loads(line) for line in (Path(data) / "benchmarks" / "aime24.jsonl").read_text().splitlines()]
        pairs = [(row["answer"], text) for row in rows for text in _endings(row["solution"].splitlines(keepends=True))]
    else:
        lines = (Path(data) / "gsm8k" / "example_model_solutions.jsonl").read_text().splitlines()
        asked = [list(json.loads(line).values())[1:] for line in lines]  # all but the question
        pairs = [(truth.rsplit("A: ", 1)[1], by["solution"]) for truth, *models in asked for by in models]
    if kind == "long":
        texts = [text for _, text in pairs]
        pairs = [(gold, "\n".join(texts[at - 101 * k] for k in (3, 2, 1, 0))) for at, (gold, _) in enumerate(pairs)]
    read = verifier("math").read
    return list({(gold, read(text)): (str(gold), text) for gold, text in pairs}.values())[:n]


def _endings(lines: list[str]) -> Iterator[str]:
    for end in range(1, len(lines) + 1):
        start, n_left = end, MOST_CHARACTERS
        while start and (n_left := n_left - len(lines[start - 1])) >= 0:
            start -= 1
        if n_left < MOST_CHARACTERS / 2:
            yield "".join(lines[start:end])


def rates(data: Path, kind: str, n: int, repeats: int) -> None:
    """Items per second of the pool against each peer, and its memory."""
    workers, peers = ([N_THREADS, 1], list(PEERS)) if kind == "short" else ([N_THREADS], ["plain"])
    runs: dict[int | str, list[dict[str, Any]]] = {way: [] for way in (*workers, *peers)}
    apart: list[float] = []
    for _ in range(repeats):
        for way, found in runs.items():
            found.append(fresh(looped if way in PEERS else pooled, data, kind, n, way))
        with ThreadPoolExecutor(N_THREADS) as threads:
            loops = list(threads.map(lambda _: fresh(looped, data, kind, n, "plain"), range(N_THREADS)))
        apart.append(sum(run["n_timed"] / run["seconds"] for run in loops))
    rate = {way: median(run["n_timed"] / run["seconds"] for run in found) for way, found in runs.items()}
    loop = runs["plain"][0]
    print(
        f"{kind}: {loop['n']:,} solutions of {loop['characters']:,.0f} characters; {loop['correct']:,} right, says a loop"
    )
    for ours in workers:
        for peer in peers:
            times = rate[ours] / rate[peer]
            held = (f"≥ {TARGET_TIMES}", times >= TARGET_TIMES) if (ours, peer) == (N_THREADS, "plain") else ()
            say(f"{kind}, {ours} at work", f"{rate[ours]:,.0f}/s", f"{PEERS[peer]} {rate[peer]:,.0f}/s", times, *held)
    at_once = median(apart)
    say(
        f"{kind}, {N_THREADS} loops at once",
        f"{at_once:,.0f}/s",
        f"plain loop {rate['plain']:,.0f}/s",
        at_once / rate["plain"],
    )
    _memory(kind, runs[N_THREADS])


def _memory(what: str, runs: list[dict[str, Any]]) -> None:
    peak = max(run["peak"] for run in runs)
    share = peak / LIMIT_BYTES
    say(f"{what}, memory", f"{peak / 1e6:,.0f} MB", f"{LIMIT_BYTES / 1e6:,.0f} MB", share, "< 1", share < 1)


def hostile(data: Path, n: int, repeats: int) -> None:
    """The cost of hostile items beyond their deadlines, and of a killed worker."""
    clean = [fresh(pooled, data, "short", n, N_THREADS, 0, 0, "cold") for _ in range(repeats)]
    n_hostile = max(1, clean[0]["n"] // CLEAN_TO_A_HOSTILE)
    mixed = [fresh(pooled, data, "short", n, N_THREADS, n_hostile, seed, "cold") for seed in range(repeats)]
    seconds = median(run["seconds"] for run in clean)
    beyond = median(run["seconds"] - run["timeouts"] * DEADLINE_SECONDS / N_THREADS for run in mixed)
    same = {run["verdicts"] for run in (*clean, *mixed)} == {clean[0]["verdicts"]}
    ended = f"{mixed[0]['timeouts']} timed out, {mixed[0]['crashes']} crashed, in {mixed[0]['seconds']:.1f} s"
    print(f"{n_hostile} hostile ones among them: {ended}; the others' verdicts are {'the same' if same else 'CHANGED'}")
    share = seconds / beyond if beyond > 0 else float("inf")  # overlapping deadlines cost less than single ones
    said = f"{beyond:.2f} s beyond the deadlines"
    say("hostile, the others' rate", said, f"{seconds:.2f} s without", share, "≥ 0.8", same and share >= 0.8)
    _memory("hostile", mixed)
    say(f"start of {N_THREADS} workers", f"{median(run['start'] for run in clean):.2f} s", "")
    gap = median(fresh(pooled, data, "short", n, 1, 0, 0, "kill")["gap"] for _ in range(repeats))
    say("the only worker is killed: no verdict for", f"{gap:.2f} s", "")


def looped(data: str, kind: str, n: str, way: str) -> dict[str, Any]:
    """A loop over math-verify."""
    from math_verify import parse, verify

    logging.disable()  # a warning that there are no limits
    limit = 5 if way == "limits" else None

    def read(text: str) -> Any:
        return parse(text, parsing_timeout=limit)

    pairs, gold_read = solutions(data, kind, int(n)), cache(read) if way == "cached" else read
    half, n_correct, began = len(pairs) // 2, 0, 0.0
    for part in (pairs[:half], pairs[half:]):
        began = time.perf_counter()
        n_correct += sum(verify(gold_read(gold), read(text), timeout_seconds=limit) for gold, text in part)
    seconds = time.perf_counter() - began
    n_characters = sum(len(text) for _, text in pairs)
    counts = {"n": len(pairs), "n_timed": len(pairs) - half, "correct": n_correct}
    return {**counts, "seconds": seconds, "characters": n_characters / len(pairs)}


def pooled(
    data: str, kind: str, n: str, n_workers: str, n_hostile: str = "0", seed: str = "0", how: str = "warm"
) -> dict[str, Any]:
    """The pool. `warm`: timed over the second half; `cold`: over all; `kill`: like cold, but a worker dies half-way."""
    items, judge, chance = solutions(data, kind, int(n)), verifier("math"), Random(int(seed))
    for number in range(int(n_hostile)):
        items.insert(chance.randrange(len(items) + 1), (chance.choice(items)[0], HOSTILE % (9 + number)))
    golds, texts = (list(column) for column in zip(*items, strict=True))
    before, times = peak_bytes(), []

    def progress(n_done: int, n_all: int) -> None:
        times.append(time.perf_counter())
        if how == "kill" and len(times) == n_all // 2:
            os.kill(pool._places[0].worker.pid, signal.SIGKILL)

    with tempfile.TemporaryDirectory(prefix="verify-benchmark-") as folder:
        started = time.perf_counter()
        pool = Pool("pipeline.verifiers.child", int(n_workers), DEADLINE_SECONDS, Path(folder) / "log", name=judge.name)
        while not all(place.ready for place in pool._places):
            list(pool.map([(judge.example[0], judge.read(judge.example[1]))]))
        ready = time.perf_counter()
        with _watched(pool) as peaks:
            half, rows = len(items) // 2 if how == "warm" else 0, []
            for part in (slice(half), slice(half, None)):
                began = time.perf_counter()
                rows += score.verdicts(pool, judge, golds[part], texts[part], progress).to_pylist()
            done = time.perf_counter()
        pool.close()
    words = [row["verdict"] for row in rows]
    towers = {HOSTILE % (9 + number) for number in range(int(n_hostile))}
    return {
        **{"n": len(items), "n_timed": len(items) - half, "start": ready - started, "seconds": done - began},
        **{"peak": peak_bytes() - before + max(peaks), "gap": max(later - at for at, later in pairwise(times))},
        **{"timeouts": words.count("timeout"), "crashes": words.count("crashed")},
        "verdicts": digest(*(word for word, text in zip(words, texts, strict=True) if text not in towers)),
    }


@contextmanager
def _watched(pool: Pool) -> Iterator[list[int]]:
    """The peak, over time, of the memory that all living workers hold together."""
    stop, peaks = Event(), [0]

    def watch() -> None:
        while not stop.wait(0.05):
            held = 0
            for place in [*pool._places, *pool._spares]:
                with suppress(OSError, StopIteration):  # the worker has just ended
                    held += peak_bytes(place.worker.pid)
            peaks.append(held)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        stop.set()
        watcher.join()


if __name__ == "__main__":
    main(sys.argv[1:])
