"""Checks that the engine runs the right policy: compares its log-probs with those of the trainer's model."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.children.team import Team
from pipeline.engines.base import Engine
from pipeline.recipes.config import Runtime
from schemas import Failure

CHECKED_ROLLOUTS = 64
# Mean |engine - trainer| log-prob per token above which the weights count as wrong, by the type of the engine's weights.
# Measured: 1e-7 to 1e-6 in float32 on a CPU, where one iteration of the recipe moves a policy by 1e-2. bfloat16 itself
# rounds by about 1e-2, so there the check detects another policy, but not weights that are one small step old.
MAX_LOGPROB_GAP = {"float32": 1e-4, "bfloat16": 5e-2}


class WrongWeights(Failure):
    """The engine's log-probs are not those of the policy that it should run. The batch is not kept."""


def check_weights(
    engine: Engine, trainer: Team, location: str, rows: pa.Table, temperature: float, runtime: Runtime
) -> dict[str, Any]:
    """Compares the first rollouts of a batch.

    Args:
        rows: prompt_token_ids, response_token_ids and behaviour_logprobs; rows without a response are skipped.
        temperature: the sampling temperature; greedy rollouts have log-probs of temperature 1.

    Returns:
        n_tokens and mean_abs_logprob_gap, as in engine_checks.

    Raises:
        WrongWeights: the log-probs differ by more than rounding explains.
    """
    answered = pc.greater(pc.list_value_length(rows["response_token_ids"]), 0)
    sample = rows.filter(answered).slice(0, CHECKED_ROLLOUTS)
    gaps: list[float] = []
    if len(sample):
        _, ours = trainer.call(
            "forward",
            sample.select(["prompt_token_ids", "response_token_ids"]),
            location=location,
            device=runtime.device,
            micro_batch_tokens=runtime.micro_batch_tokens,
            precision=engine.dtype,
            batching=runtime.batching,
            temperature=temperature or 1.0,
        )
        assert ours is not None
        theirs = pc.list_flatten(sample["behaviour_logprobs"]).to_pylist()
        gaps = [abs(a - b) for a, b in zip(pc.list_flatten(ours["logprobs"]).to_pylist(), theirs, strict=True)]
    gap, most = sum(gaps) / max(1, len(gaps)), MAX_LOGPROB_GAP[engine.dtype]
    if not gap <= most:
        raise WrongWeights(
            f"the engine's log-probs are {gap:.4f} nats a token from those of {location} "
            f"(at most {most} in {engine.dtype}): it runs other weights; the batch is not kept"
        )
    return {"n_tokens": len(gaps), "mean_abs_logprob_gap": gap}
