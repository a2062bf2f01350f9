"""What a run says of itself: a line at the end of each iteration, a table at the end, all read from the archive."""

import time
from collections.abc import Iterator

import polars as pl

from pipeline import db
from pipeline.progress import log
from pipeline.run import Run
from pipeline.store import Store

STAGES = ("generate", "score", "draw", "reference", "train", "evaluate", "overhead")
CURVE = "SELECT iteration, policy_id, train_reward, heldout_accuracy FROM progress WHERE run_id = '{}' ORDER BY iteration"


def iterations(run: Run) -> Iterator[int]:
    """The iterations still to do. Each ends, once the caller is through with it, with its snapshot and its line."""
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
    for iteration in range(first, run.config.iterations + 1):
        # An iteration that was begun before has no wall time of its own.
        resumed = any(run.has_ended(iteration, stage) for stage in ("generate", "draw"))
        began = time.perf_counter()
        yield iteration
        end(run, iteration, None if resumed else time.perf_counter() - began)
        log.info(line(run, iteration))


def end(run: Run, iteration: int, seconds: float | None = None) -> None:
    """Writes that the iteration is over; null seconds: it did not run in one go."""
    name = f"{run.run_id}/{iteration}/iteration"
    run.store.snapshot(name, "iteration", run_id=run.run_id, iteration=iteration, seconds=seconds)


def line(run: Run, iteration: int) -> str:
    """One line about an iteration."""
    found = run.query("progress_of", run_id=run.run_id, iteration=iteration).to_pylist()[0]
    seconds = " ".join(
        f"{stage} {found[f'seconds_{stage}']:.1f}" for stage in STAGES if found[f"seconds_{stage}"] is not None
    )
    return (
        f"iteration {iteration}/{run.config.iterations}"
        f"  reward {_number(found['train_reward'])}  held-out {_number(found['heldout_accuracy'])}"
        f"  fresh {found['n_fresh']} replayed {found['n_replayed']} age {found['mean_age_iterations']:.1f}"
        f"  loss {found['loss']:.3g}  s: {seconds}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def curve(store: Store, run_id: str) -> tuple[str, pl.DataFrame]:
    """The SQL for a run's learning curve, and its answer."""
    statement = CURVE.format(run_id)
    return statement, pl.DataFrame(db.ask(store, statement).read_all())
