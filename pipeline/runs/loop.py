"""The iterations of a run: which are still to do, and what ends one."""

import time
from collections.abc import Iterator

from pipeline.progress import log
from pipeline.runs.keep import prune
from pipeline.runs.report import line, pass_line
from pipeline.runs.run import Run


def iterations(run: Run, *, lines: bool = True) -> Iterator[int]:
    """The iterations still to do. Each ends, once the caller is through with it, with its snapshot and its lines."""
    first = run.next_iteration()
    if first > run.config.iterations:
        log.info(
            "run %s has its %d iterations; --iterations goes on with it, another --run begins a new one",
            run.run_id,
            run.config.iterations,
        )
    elif first > 1:
        log.info("run %s goes on at iteration %d", run.run_id, first)
    else:
        log.info("run %s begins from %s", run.run_id, run.base_policy_id)
    # The first may have been begun by another process; it has no wall time of its own then.
    resumed = bool(run.query("iteration_begun", run_id=run.run_id, iteration=first)["begun"][0].as_py())
    if first > 1:  # it may have been killed over this
        prune(run)
    for iteration in range(first, run.config.iterations + 1):
        began = time.perf_counter()
        yield iteration
        end(run, iteration, None if resumed and iteration == first else time.perf_counter() - began)
        if lines:
            log.info(line(run, iteration))
            if said := pass_line(run, iteration):
                log.info(said)


def end(run: Run, iteration: int, seconds: float | None = None) -> None:
    """Writes that the iteration is over, and lets go of what need not be kept.

    Args:
        seconds: its wall time; None: it did not run in one go.
    """
    name = f"{run.run_id}/{iteration}/iteration"
    run.store.snapshot(name, "iteration", run_id=run.run_id, iteration=iteration, seconds=seconds)
    prune(run)
