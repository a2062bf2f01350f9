"""The loop over the iterations of a run that are still to do, and the end of each."""

import time
from collections.abc import Iterator

from pipeline.progress import log
from pipeline.runs.keep import prune
from pipeline.runs.report import line, pass_line
from pipeline.runs.run import Run


def iterations(run: Run, *, lines: bool = True) -> Iterator[int]:
    """The iterations still to do. When the caller has finished one, its snapshot is written and its lines are logged."""
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
    # Another process may have begun the first one; its wall time is not known then.
    resumed = bool(run.query("iteration_begun", run_id=run.run_id, iteration=first)["begun"][0].as_py())
    if first > 1:  # the run may have been killed during this
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
    """Writes that the iteration has ended, and prunes the weights that need not be kept.

    Args:
        seconds: its wall time; None: the iteration was interrupted.
    """
    name = f"{run.run_id}/{iteration}/iteration"
    run.store.snapshot(name, "iteration", run_id=run.run_id, iteration=iteration, seconds=seconds)
    prune(run)
