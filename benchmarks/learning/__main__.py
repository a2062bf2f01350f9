"""Compares training with replay against GRPO: objectives, replay rules and seeds, at equal numbers of new rollouts.

    python -m benchmarks.learning [--tasks …] [--arms …] [--seeds …]     runs what is missing, then reports
    python -m benchmarks.learning --report [FOLDER]                     reports alone, of the saved rows or others
    python -m benchmarks.learning --quick                               a few short runs in an archive of their own

Every run goes through the project's own stages into one archive. A run is a task, an arm and a seed. Finished runs are
read from the archive and from `results/` beside this file, so an arm that is added later runs alone. It can be killed and
started again; if it is started twice, both processes share the work. Each arm is first tuned over its grid on seed 0.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.learning import results
from benchmarks.learning.arms import ARMS, CORE, SEEDS, TASKS, TUNING_SEED, RecipeSettings
from benchmarks.learning.report import report
from benchmarks.learning.tasks import prepare
from pipeline.archive.store import Store
from pipeline.progress import ConsoleHandler, log
from pipeline.recipes import load
from pipeline.recipes.config import Config
from pipeline.runs.loop import iterations
from pipeline.runs.processes import Processes
from pipeline.runs.request import check
from pipeline.runs.run import Busy, open_run
from pipeline.stages.evaluate import evaluate
from pipeline.stages.order import STAGES
from pipeline.upkeep.compaction import compact
from schemas import UserError

QUICK_ITERATIONS = 8


@dataclass(frozen=True)
class Trial:
    """One run: an arm with a try of its grid. Runs on the tuning seed choose the best try and are not reported."""

    task: str
    arm: str
    seed: int
    number: int  # of the try
    iterations: int

    @property
    def run_id(self) -> str:
        return f"{self.task}.{self.arm}.t{self.number}.s{self.seed}"

    def config(self, extra: RecipeSettings) -> Config:
        arm = ARMS[self.arm]
        rate, beta = arm.grid[self.number]
        settings = {
            "evaluate.samples_per_prompt": 0,
            "evaluate.every_iterations": 1000,
            "keep.policies_every": 1000,
            "runtime.micro_batch_tokens": 4096,
            # An arm must not change when the recipe does.
            "train.reference": "reset",
            "train.baseline": "group_mean",
            "train.reset_every_iterations": 1,
            **TASKS[self.task].settings,
            **arm.settings,
            "train.objective": arm.objective,
            "train.learning_rate": rate,
            "train.beta": beta,
            "seed": self.seed,
            **extra,
        }
        return load("arithmetic", settings, iterations=self.iterations)


def unfinished(trials: Iterable[Trial], ended: Mapping[str, int]) -> list[Trial]:
    """The trials that still have iterations to do; `ended`: the number of finished iterations of each run."""
    return [trial for trial in trials if ended.get(trial.run_id, 0) < trial.iterations]


class Board:
    """The runs that are done and those still to do, read from the archive and from the saved results."""

    def __init__(self, store: Store, tasks: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> None:
        self._store, self._tasks, self._arms, self._seeds = store, tasks, arms, seeds
        self._kept = results.ended()
        self._best: dict[tuple[str, str], int] = {}

    def missing(self) -> list[Trial]:
        """Runs to do, in order: each task's tuning, then seed after seed.

        For an arm whose tuning has not ended, only the runs of its tuning.
        """
        ended = self._kept | results.ended(self._store)
        return unfinished(self._wanted(ended), ended)

    def _wanted(self, ended: Mapping[str, int]) -> Iterator[Trial]:
        for name in self._tasks:
            task, tuned = TASKS[name], []
            tuned_on = task.tuned_on or name
            for arm in self._arms:
                n_tries, iterations = len(ARMS[arm].grid), TASKS[tuned_on].tuning_iterations
                tries = [Trial(tuned_on, arm, TUNING_SEED, number, iterations) for number in range(n_tries)]
                yield from tries
                if not unfinished(tries, ended):
                    tuned.append(arm)
            for seed in self._seeds:
                for arm in tuned:
                    yield Trial(name, arm, seed, self._chosen(tuned_on, arm), task.iterations * ARMS[arm].times)

    def _chosen(self, task: str, arm: str) -> int:
        if (task, arm) not in self._best:
            self._best[task, arm] = results.best(task, arm, self._store)
        return self._best[task, arm]


def run(trial: Trial, config: Config, archive: str, processes: Processes) -> None:
    """The loop of flows/iterate.py without Prefect, because nobody has to watch thousands of iterations."""
    with open_run(check("iterate", config, archive, name=trial.run_id), processes=processes) as this:
        evaluate(this, 0)
        for i in iterations(this, lines=False):
            for stage in STAGES.values():
                stage(this, i)


def work(archive: str, extra: Mapping[str, RecipeSettings], missing: Callable[[], list[Trial]]) -> None:
    """Does the missing runs in order. Skips a run that another process works on."""
    store, n_made, since, trials = Store(archive), 0, time.perf_counter(), missing()
    with closing(Processes(load("arithmetic"), store)) as processes:
        while trials:
            for trial in trials:
                began = time.perf_counter()
                try:
                    run(trial, trial.config(extra.get(trial.task, {})), archive, processes)
                except Busy:
                    continue
                for _ in compact(store):  # otherwise thousands of commits would be thousands of files
                    pass
                now, trials, n_made = time.perf_counter(), missing(), n_made + 1  # the next run may have changed
                left = f"{len(trials)} runs are left, about {len(trials) * (now - since) / n_made / 60:.0f} min"
                print(f"{trial.run_id} in {now - began:.0f} s; {left}", flush=True)
                break
            else:
                time.sleep(5)
                trials = missing()


def quick(archive: str, extra: Mapping[str, RecipeSettings]) -> None:
    """One short seed of the main arms, with the best tries of the saved results. The new results are not saved."""
    store = Store(archive)
    trials = [Trial("arithmetic", arm, SEEDS[0], results.best("arithmetic", arm), QUICK_ITERATIONS) for arm in CORE]

    work(archive, extra, lambda: unfinished(trials, results.ended(store)))
    with TemporaryDirectory() as folder:
        results.save(store, Path(folder))
        report(Path(folder), draw=False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", help="the archive of all runs (default: learning, or learning-quick)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N", help="default: 1 to 5")
    said = "no runs: say what the saved results say, or those in a folder"
    parser.add_argument("--report", nargs="?", type=Path, const=results.SAVED_IN, metavar="FOLDER", help=said)
    parser.add_argument("--quick", action="store_true", help="one short seed of the main arms, in under ten minutes")
    asked = parser.parse_args(argv)
    if asked.report:
        return report(asked.report)
    log.handlers = [handler := ConsoleHandler()]
    archive = asked.archive or ("learning-quick" if asked.quick else "learning")
    store = Store.create(archive, {})
    try:
        extra = prepare(store, ("arithmetic",) if asked.quick else asked.tasks)
    except UserError as error:
        parser.error(str(error))
    handler.setLevel(logging.WARNING)  # the weights pruned in every iteration need no line in the log
    if asked.quick:
        return quick(archive, extra)
    work(archive, extra, Board(store, asked.tasks, asked.arms, asked.seeds).missing)
    with store.lock("learning-results"):
        results.save(store)
    report()


if __name__ == "__main__":
    main()
