"""draw: decides in SQL, from a pinned snapshot, which rollouts each update of a pass trains on, and records each draw."""

from collections.abc import Iterator

import pyarrow as pa

from pipeline.archive.materialise import Shard, materialise
from pipeline.query import states as versions
from pipeline.replay import draws
from pipeline.runs.run import Run
from schemas import UserError


def draw(run: Run, iteration: int) -> None:
    """Writes the draws of an iteration's pass: in `iterate` from its own run, in `retrain` as the recipe says."""

    def plan() -> Iterator[Shard]:
        yield Shard("draws", ("draws",), lambda: {"draws": drawn(run, iteration)})

    materialise(run.store, run.run_id, iteration, "draw", plan)


def drawn(run: Run, iteration: int) -> pa.Table:
    """The draws of an iteration's pass; every call returns the same rows.

    Raises:
        UserError: nothing is scored yet, or nothing can be trained on; also see `draws.draw`.
    """
    snapshot_id = run.snapshot_id(iteration)
    if snapshot_id is None:
        raise UserError(f"run {run.run_id}, iteration {iteration}: nothing is scored yet to draw from")
    state, parent_id = versions.resolve(run.store, snapshot_id).versions, run.policy_id(iteration - 1)
    where = draws.scope(run.config, run.flow, run.run_id, iteration, state, run.base_policy_id, parent_id)
    return draws.rows(run.store, where, run.config.replay, run.policy_id(iteration), iteration)
