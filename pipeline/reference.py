"""reference: Σ log π_ref and V_ref of every rollout a pass draws, from the trainer's own forward, once per reference."""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipeline.materialise import Shard, materialise
from pipeline.progress import bar
from pipeline.run import Run
from schemas import digest


def reference(run: Run, iteration: int) -> None:
    """Computes what the iteration's draws lack under its reference; a reset is a new reference and lacks everything."""

    def plan() -> Iterator[Shard]:
        reference_id = run.reference_id(iteration)
        work = run.query("unreferenced", pass_id=run.policy_id(iteration), reference_id=reference_id)
        if len(work):
            name = digest(reference_id, *work["trajectory_id"].to_pylist())
            yield Shard(name, ("references",), lambda: compute(work, reference_id))

    def compute(work: pa.Table, reference_id: str) -> Mapping[str, pa.Table]:
        with bar(f"reference, iteration {iteration}") as progress:
            _, scores = run.processes.trainer().call(
                "forward",
                work.select(["prompt_token_ids", "response_token_ids"]),
                progress=progress,
                location=run.location(reference_id),
                device=run.config.runtime.device,
                micro_batch_tokens=run.config.runtime.micro_batch_tokens,
            )
        assert scores is not None
        columns = {
            "trajectory_id": work["trajectory_id"],
            "reference_id": pa.array([reference_id] * len(work)),
            "ref_logprob_sum": scores["logprob_sum"],
            "ref_value": scores["value"],
        }
        return {"references": pa.table(columns)}

    with run.store.lock(f"reference-{run.reference_id(iteration)}"):  # other runs may stand on it and draw the same rows
        materialise(run.store, run.run_id, iteration, "reference", plan)
