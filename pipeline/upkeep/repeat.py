"""Repeats a finished training pass from its snapshot, and compares the draws and the weights."""

import shutil
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.recipes.config import recorded
from pipeline.runs.processes import Processes
from pipeline.runs.run import Run
from pipeline.stages.draw import drawn
from pipeline.stages.train import run_pass
from schemas import UserError

COLUMNS = ("update", "slot", "trajectory_id", "weight", "reward", "baseline", "deviation")


@dataclass(frozen=True)
class Repeated:
    """How a repeated pass compares with the recorded one. Weights are compared bit for bit. Residuals are in nats; their
    gap is 0 if there are none."""

    n_draws: int
    n_draws_equal: int
    weights_equal: bool
    max_residual_gap: float

    @property
    def equal(self) -> bool:
        return self.n_draws == self.n_draws_equal and self.weights_equal


def repeat(store: Store, pass_id: str, *, verbose: bool = False) -> Repeated:
    """Draws and trains a pass of the archive again, in a scratch folder; the archive does not change.

    On the same CPU, with the same versions of torch and transformers, everything is equal.

    Raises:
        UserError: there is no such pass, or something that it needs is gone.
    """
    found = db.query(store, "pass_recorded", pass_id=pass_id).to_pylist()
    if not found:
        raise UserError(f'pass {pass_id!r} is not in the archive; `reval sql "SELECT pass_id FROM passes"` lists them')
    row = found[0]
    config = recorded(row["recipe"], row["config"])
    how = {name: row[name] for name in ("batching", "micro_batch_tokens")}
    # With the verifier version of that time, not the present one.
    score = config.score.model_copy(update={"verifier": row["verifier_id"]})
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update=how), "score": score})
    processes = Processes(config, store, verbose=verbose)
    run = Run(row["run_id"], row["flow"], config, store, row["base_policy_id"], processes)
    folder = store.layout.scratch(f"repeat-{pass_id}")
    try:
        stored, updates = run.query("pass_draws", pass_id=pass_id), run.query("pass_updates", pass_id=pass_id)
        if len(stored) != len(updates):
            raise UserError(
                f"pass {pass_id}: {len(stored):,} draws and {len(updates):,} updates are left of it; "
                "`reval check` says what is lost"
            )
        again = drawn(run, row["iteration"]).select(COLUMNS)
        n_equal = sum(a == b for a, b in zip(again.to_pylist(), stored.to_pylist(), strict=False))
        result = run_pass(run, row["iteration"], folder, folder / "policy", folder / "moments.safetensors")
        residuals = pq.read_table(folder / "updates.parquet").sort_by([("update", "ascending"), ("slot", "ascending")])
        gaps = pc.abs(pc.subtract(residuals["residual"], updates["residual"]))
    finally:
        processes.close()
        shutil.rmtree(folder, ignore_errors=True)
    same = result["weights_digest"] == row["weights_digest"]
    return Repeated(max(len(again), len(stored)), n_equal, same, pc.max(gaps).as_py() or 0.0)
