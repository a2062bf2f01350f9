"""draw: which rollouts each update of a pass trains on. Decided in SQL over a pinned snapshot, written row by row."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline import db, versions
from pipeline.materialise import Shard, materialise
from pipeline.run import Run
from pipeline.verifiers import verifier_id
from reval.config import Replay
from schemas import UserError

EVERYTHING = 1 << 62


def draw(run: Run, iteration: int) -> None:
    """Writes the draws of an iteration's pass: of `iterate` from its own run, of `retrain` from every run's rollouts."""

    def plan() -> Iterator[Shard]:
        yield Shard("draws", ("draws",), lambda: {"draws": drawn(run, iteration)})

    materialise(run.store, run.run_id, iteration, "draw", plan)


def drawn(run: Run, iteration: int) -> pa.Table:
    """The draws of an iteration's pass, the same rows whenever it is asked: they depend on its snapshot alone.

    Raises:
        UserError: nothing is scored yet, or nothing can be trained on.
    """
    own = run.flow == "iterate"
    snapshot_id = run.snapshot_id(iteration)
    if snapshot_id is None:
        raise UserError(f"run {run.run_id}, iteration {iteration}: nothing is scored yet to draw from")
    connection = db.connect(run.store, versions.resolve(run.store, snapshot_id).versions)
    inputs = {
        "run_id": run.run_id if own else None,
        "policy_id": run.base_policy_id,
        "verifier_id": verifier_id(run.config.score.verifier),
        "baseline": run.config.train.baseline,
    }
    connection.execute(f"CREATE TEMP TABLE candidates AS {db.sql('candidates')}", inputs)
    pass_id = run.policy_id(iteration)
    rows = pa.concat_tables(
        db.rows(connection, rule, pass_id=pass_id, **how) for rule, how in schedule(run.config.replay, fresh=own)
    )
    n_fresh = connection.execute("SELECT count(*) FROM candidates WHERE age_iterations = 0").fetchone()
    if not len(rows) or (own and n_fresh == (0,)):
        raise UserError(
            f"run {run.run_id}, iteration {iteration}: there is nothing to train on: "
            f"{'no rollout of it' if own else f'no rollout in {run.store.layout.root} that this policy can read'} "
            f"was judged by {run.config.score.verifier}; "
            '`reval sql "SELECT verifier_id, verdict, split, count(n_response_tokens) FROM rollouts GROUP BY ALL"` '
            "says why: held-out questions and text without token ids are not trained on"
        )
    return rows.append_column("pass_id", pa.array([pass_id] * len(rows)))


def schedule(settings: Replay, *, fresh: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The draw queries of one iteration with their inputs, in the order of their updates."""
    first = 1 if fresh and settings.schedule == "paper_appendix_a" else 0
    if first:
        yield "draw_fresh", {}
    if settings.updates_per_iteration > first:
        window = settings.window_trajectories
        yield (
            f"draw_{settings.rule}",
            {
                "first_update": first,
                "end_update": settings.updates_per_iteration,
                "n_draws": settings.batch_trajectories,
                "window_trajectories": EVERYTHING if window == "all" else window,
            },
        )
