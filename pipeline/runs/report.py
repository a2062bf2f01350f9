"""What a run says of itself: a line at the end of each iteration, a table at the end, all read from the archive."""

import time
from collections.abc import Iterator

import pyarrow as pa

from pipeline.archive.store import Store
from pipeline.progress import log
from pipeline.query import db
from pipeline.runs.keep import prune
from pipeline.runs.run import Run

STAGES = ("generate", "score", "draw", "reference", "train", "evaluate", "overhead")
CURVE = "SELECT iteration, policy_id, train_reward, heldout_accuracy FROM progress WHERE run_id = '{}' ORDER BY iteration"


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
    """Writes that the iteration is over, and lets go of what need not be kept; null seconds: it did not run in one go."""
    name = f"{run.run_id}/{iteration}/iteration"
    run.store.snapshot(name, "iteration", run_id=run.run_id, iteration=iteration, seconds=seconds)
    prune(run)


def line(run: Run, iteration: int) -> str:
    """One line about an iteration."""
    found = run.query("progress_of", run_id=run.run_id, iteration=iteration).to_pylist()[0]
    seconds = " ".join(
        f"{stage} {found[f'seconds_{stage}']:.1f}" for stage in STAGES if found[f"seconds_{stage}"] is not None
    )
    return (
        f"iteration {iteration}/{run.config.iterations}"
        f"  reward {_number(found['train_reward'])}  held-out {_number(found['heldout_accuracy'])}"
        f"  fresh {found['n_fresh']} replayed {found['n_replayed']} age {_number(found['mean_age_iterations'], '.1f')}"
        f"  loss {_number(found['loss'], '.3g')}  s: {seconds}"
    )


def pass_line(run: Run, iteration: int) -> str | None:
    """One line about an iteration's training; null: there was none."""
    found = run.query("training_of", pass_id=run.policy_id(iteration)).to_pylist()
    if not found:
        return None
    of = found[0]
    parts = ", ".join(f"{name} {of[f'{name}_rms']:.2g}" for name in ("value_gap", "log_ratio", "target"))
    said = [
        f"  residual {of['residual_rms']:.3g} ({parts})  KL {_number(of['kl'], '.2g')}  entropy {of['entropy']:.2g}",
        f"gradient {of['grad_norm']:.3g}, {of['clipped_share']:.0%} of steps clipped",
        f"{of['tokens_per_second']:,.0f} tokens/s  {of['peak_memory_bytes'] / 1e9:.1f} GB",
    ]
    if of["clipped_token_share"] is not None:
        said.append(f"{of['clipped_token_share']:.1%} of tokens clipped")
    if of["flop_utilisation"] is not None:
        said.append(f"{of['flop_utilisation']:.0%} of the device's operations")
    return "  ".join(said)


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def curve(store: Store, run_id: str) -> tuple[str, pa.Table]:
    """The SQL for a run's learning curve, and its answer."""
    statement = CURVE.format(run_id)
    return statement, db.ask(store, statement).read_all()
