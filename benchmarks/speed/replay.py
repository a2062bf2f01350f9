"""Time and memory of drawing an update's rows by every rule, as the archive grows, compared with torchrl's samplers.

python -m benchmarks.speed.replay [RULE ...] [--rows 1000000] [--folder DIR] [--torchrl PYTHON]

The archive is one run of iterations of 4,096 rollouts, with draws and updates of its passes, made by Store.write. A draw
is everything that `draw` does, from opening the archive to the rows of draws. torchrl's samplers draw from memory; they
first need a number for each row in their storage, and this is not included in their time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.measure import fresh, peak_bytes, say, where
from benchmarks.speed import rollouts
from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.progress import ConsoleHandler, bar, log
from pipeline.recipes.config import RULES
from pipeline.replay import draws
from pipeline.verifiers import verifier_id
from schemas import TABLES, pass_name

ITERATION = 4096
DRAWS, WINDOW = 1024, 5120
REPEATS = 5
SAMPLERS = Path(__file__).with_name("samplers.py")
SETTINGS: dict[str, dict[str, Any]] = {
    "custom": {"replay.custom.weight": "1 + (verdict = 'correct')::INT + abs(coalesce(residual, target)) / (1 + n_uses)"}
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.speed.replay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rules", nargs="*", help=f"of {', '.join(RULES)}; default: all")
    parser.add_argument("--rows", type=int, default=1_000_000, help="candidates; a tenth of it is the smaller archive")
    parser.add_argument("--folder", type=Path, help="where to work; archives are kept there and used again")
    parser.add_argument(
        "--torchrl", default=sys.executable, help="Python with torchrl and a torch it is compiled for; default: this one"
    )
    options = parser.parse_args(words)
    if unknown := set(options.rules) - {*RULES}:
        parser.error(f"{sorted(unknown)} is none of {', '.join(RULES)}")
    log.handlers = [ConsoleHandler()]
    print(where(f"duckdb {duckdb.__version__}"))
    with tempfile.TemporaryDirectory(prefix="replay-benchmark-") as scratch:
        folder = options.folder or Path(scratch)
        small, large = (_archive(folder / f"archive-{n}", n) for n in (options.rows // 10, options.rows))
        ours = measure(small, large, options.rows, options.rules or RULES)
        peers(options.rows, options.torchrl, ours)


def _archive(root: Path, n: int) -> Path:
    """An archive with at least `n` rollouts that can be drawn, in whole iterations; made if it does not exist."""
    done, chance = root.with_suffix(".done"), np.random.default_rng(0)
    if done.exists():
        return root
    store = Store.create(root)
    store.write("prompts", {"prompts": rollouts.prompts()})
    store.write("base", {"policies": _policies(0)})
    judge, used, last = verifier_id("math"), np.array([], object), -(-n // ITERATION)
    with bar(f"archive of {n:,}") as progress:
        for iteration in range(1, last + 1):
            rows = rollouts.trajectories(rollouts.bare(ITERATION, chance), iteration, chance)
            rows = _with(rows, iteration=iteration, run_id="bench", policy_id=_policy(iteration - 1))
            used = np.concatenate([used, rows["trajectory_id"].to_numpy()])[-5 * ITERATION :]
            tables = {"verdicts": _with(rollouts.verdicts(rows, chance), verifier_id=judge), "trajectories": rows}
            tables |= {**_pass(iteration, used, chance), "policies": _policies(iteration)}
            store.write(f"bench/{iteration}", tables)
            progress(iteration, last)
    done.touch()
    return root


def _with(rows: pa.Table, **values: Any) -> pa.Table:
    """The rows with one value for a whole column."""
    for name, value in values.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array([value] * len(rows)))
    return rows


def _policy(iteration: int) -> str:
    return pass_name("bench", iteration)


def _policies(iteration: int) -> pa.Table:
    row = dict.fromkeys(TABLES["policies"].schema.names)
    row |= {"policy_id": _policy(iteration), "tokenizer_digest": "t", "run_id": "bench", "iteration": iteration}
    if iteration:
        row |= {"parent_id": _policy(iteration - 1), "pass_id": _policy(iteration)}
    return pa.Table.from_pylist([row], TABLES["policies"].schema)


def _pass(iteration: int, used: np.ndarray, chance: np.random.Generator) -> dict[str, pa.Table]:
    """Two updates drawn uniformly from the newest rollouts."""
    n = min(DRAWS, len(used))
    names = np.concatenate([chance.choice(used, n, replace=False) for _ in range(2)])
    place = {
        "pass_id": pa.array([_policy(iteration)] * 2 * n),
        "update": pa.array(np.arange(2 * n) // n),
        "slot": pa.array(np.arange(2 * n) % n),
    }
    zeros = pa.array(np.zeros(2 * n))
    of_draws = {
        "trajectory_id": pa.array(names, pa.string()),
        "source": ["replay"] * 2 * n,
        "age_iterations": [0] * 2 * n,
        "weight": pa.array(np.ones(2 * n)),
        "reward": zeros,
        "baseline": zeros,
        "rule": ["fifo"] * 2 * n,
        "deviation": zeros,
    }
    names_of_sums = ("residual", "value_gap", "log_ratio", "target", "entropy")
    sums = {name: pa.array(chance.normal(size=2 * n)) for name in names_of_sums}
    sums["clipped_share"] = pa.nulls(2 * n, pa.float64())
    return {"draws": pa.table({**place, **of_draws}), "updates": pa.table({**place, **sums})}


def measure(small: Path, large: Path, n: int, rules: Sequence[str]) -> dict[str, float]:
    """Measures each rule over the whole archive and over a window, in both archives, each in its own process.

    Returns:
        the seconds over the whole large archive, by rule.
    """
    found = {}
    for rule in rules:
        ours, less = (fresh(drawing, root, rule, "all") for root in (large, small))
        seconds, peak = ours["seconds"], ours["peak"]
        found[rule] = seconds
        said = f"{seconds:.2f} s, {peak / 1e6:,.0f} MB"
        share = max(seconds / 2, peak / 1e9)
        say(f"{rule}, {DRAWS:,} of {n:,}", said, "2 s, 1,000 MB", share, "< 1", share < 1)
        growth = seconds / less["seconds"]
        say(f"{rule}, 10 times the archive", f"{seconds:.2f} s", f"{less['seconds']:.2f} s", growth, "≤ 10", growth <= 10)
        ours, less = (fresh(drawing, root, rule, WINDOW) for root in (large, small))
        said, theirs = f"{ours['seconds']:.3f} s", f"{less['seconds']:.3f} s"
        growth = ours["seconds"] / less["seconds"]
        say(f"{rule}, window {WINDOW:,}, 10 times the archive", said, theirs, growth, "≈ 1", growth < 1.5)
    return found


def drawing(root: str, rule: str, window: str) -> dict[str, Any]:
    """Median seconds of a draw, and the process's peak memory. The first draw also reads the files and is not counted."""
    changes = {"replay.rule": rule, "replay.window_trajectories": "all" if window == "all" else int(window)}
    changes |= {
        "replay.batch_trajectories": DRAWS,
        "replay.updates_per_iteration": 1,
        "replay.schedule": "paper_algorithm_1",
    }
    changes |= {"generate.prompts_per_iteration": ITERATION // 8, "generate.samples_per_prompt": 8}
    config = recipes.load("arithmetic", {**changes, **SETTINGS.get(rule, {})})
    seconds = []
    for number in range(REPEATS + 1):
        began = time.perf_counter()
        store = Store(root)
        newest = store.logged("trajectories")
        last = max(file.greatest for file in newest.values())
        scope = draws.scope(config, "iterate", "bench", last, store.versions(), _policy(0), _policy(last - 1))
        rows = draws.rows(store, scope, config.replay, f"bench-{number}", last)
        seconds.append(time.perf_counter() - began)
        assert len(rows) == DRAWS, len(rows)
    return {"seconds": median(seconds[1:]), "first": seconds[0], "peak": peak_bytes()}


def peers(n: int, python: str, ours: dict[str, float]) -> None:
    """torchrl's samplers, in memory, in an interpreter that has them."""
    for kind, rule in (("uniform", "fifo"), ("prioritised", "fresh_priority")):
        if rule not in ours:
            continue
        words = [python, str(SAMPLERS), kind, str(n)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or "it says nothing").splitlines()[-1]
            print(f"{kind}: {python} does not run torchrl's sampler ({last}); see --torchrl")
            return
        theirs = json.loads(done.stdout.splitlines()[-1])
        what = f"{rule}, {theirs['versions']}, {kind}"
        said = f"{theirs['seconds']:.4f} s (priorities {theirs['priorities']:.3f})"
        say(what, f"{ours[rule]:.2f} s", said, ours[rule] / theirs["seconds"])


if __name__ == "__main__":
    main(sys.argv[1:])
