"""reference: Σ log π_ref and V_ref of every rollout a pass draws, from the trainer's own forward, once per reference."""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipeline.fetch import TOKEN_IDS, fetch
from pipeline.materialise import Shard, materialise
from pipeline.progress import bar
from pipeline.run import Run, policy_location
from pipeline.store import Store
from pipeline.team import Team
from reval.config import Runtime
from schemas import digest


def reference(run: Run, iteration: int) -> None:
    """Computes what the iteration's draws lack under its reference; a reset is a new reference and lacks everything.

    Sums in another precision are other numbers, and are lacking too.
    """
    precision = run.config.train.precision

    def plan() -> Iterator[Shard]:
        reference_id = run.reference_id(iteration)
        where = {"pass_id": run.policy_id(iteration), "reference_id": reference_id, "precision": precision}
        work = run.query("unreferenced", **where)
        if len(work):
            name = digest(reference_id, *work["trajectory_id"].to_pylist())
            yield Shard(name, ("references",), lambda: compute(work, reference_id))

    def compute(work: pa.Table, reference_id: str) -> Mapping[str, pa.Table]:
        title = f"reference, iteration {iteration}"
        trainer, runtime = run.processes.trainer(), run.config.runtime
        rows = sums(trainer, run.store, reference_id, work, precision, runtime, title)
        return {"references": rows.append_column("pass_id", pa.array([run.policy_id(iteration)] * len(rows)))}

    with run.store.lock(f"reference-{run.reference_id(iteration)}"):  # other runs may stand on it and draw the same rows
        materialise(run.store, run.run_id, iteration, "reference", plan)


def sums(
    trainer: Team, store: Store, reference_id: str, work: pa.Table, precision: str, runtime: Runtime, title: str
) -> pa.Table:
    """Rows of references for rows of trajectory_id, all columns but pass_id."""
    with bar(title) as progress:
        _, scores = trainer.call(
            "forward",
            fetch(store, work["trajectory_id"].to_pylist(), TOKEN_IDS),
            progress=progress,
            location=policy_location(store, reference_id),
            device=runtime.device,
            micro_batch_tokens=runtime.micro_batch_tokens,
            precision=precision,
            batching=runtime.batching,
        )
    assert scores is not None
    columns = {
        "trajectory_id": work["trajectory_id"],
        "reference_id": pa.array([reference_id] * len(work)),
        "ref_logprob_sum": scores["logprob_sum"],
        "ref_value": scores["value"],
        "precision": pa.array([precision] * len(work), pa.string()),
    }
    return pa.table(columns)
