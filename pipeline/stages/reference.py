"""reference: Σ log π_ref and V_ref of each drawn rollout, by the trainer's model, once for each reference."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.materialise import Shard, materialise
from pipeline.archive.store import Store
from pipeline.children.team import Team
from pipeline.inputs.policies import policy_location
from pipeline.progress import bar
from pipeline.query.fetch import TOKEN_IDS, fetch
from pipeline.recipes.config import Runtime
from pipeline.runs.run import Run
from schemas import digest


def reference(run: Run, iteration: int) -> None:
    """Computes the missing reference sums of the iteration's draws. After a reset all are missing.

    Sums in another precision are different numbers and count as missing too. If each row has its own reference, the
    policy that generated it, the sums of every rollout are computed once, in the iteration that generates it.
    """
    pass_id, reference_id = run.policy_id(iteration), run.reference_id(iteration)
    precision = run.config.train.precision

    def lacking() -> pa.Table:
        where = {"pass_id": pass_id, "reference_id": reference_id, "precision": precision}
        return run.query("unreferenced", **where, run_id=run.run_id, iteration=iteration)

    def plan() -> Iterator[Shard]:
        work = lacking()
        for name in _named(work):
            part = work.filter(pc.field("reference_id") == name)
            shard = digest(name, *part["trajectory_id"].to_pylist())
            yield Shard(shard, ("references",), partial(compute, part, name))

    def compute(work: pa.Table, name: str) -> Mapping[str, pa.Table]:
        title = f"reference, iteration {iteration}"
        trainer, runtime = run.processes.trainer(), run.config.runtime
        rows = sums(trainer, run.store, name, work, precision, runtime, title)
        return {"references": rows.append_column("pass_id", pa.array([pass_id] * len(rows)))}

    with ExitStack() as stack:
        for name in (
            [reference_id] if reference_id else _named(lacking())
        ):  # always in this order, so that two processes never wait for each other
            stack.enter_context(run.store.lock(f"reference-{name}"))  # other runs may have the same reference and rows
        materialise(run.store, run.run_id, iteration, "reference", plan)


def _named(work: pa.Table) -> list[str]:
    return sorted(set(work["reference_id"].to_pylist()))


def sums(
    trainer: Team, store: Store, reference_id: str, work: pa.Table, precision: str, runtime: Runtime, title: str
) -> pa.Table:
    """Rows of references for rows of trajectory_id: all columns except pass_id."""
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
