"""generate: an iteration's prompts, its policy and an engine, to trajectories and responses."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import prompts
from pipeline.engines import COMPLETIONS, Engine, Progress
from pipeline.materialise import Shard, materialise
from pipeline.progress import bar
from pipeline.run import Run
from reval.config import Generate
from schemas import digest
from schemas.enums import FinishReason

TABLES = ("responses", "trajectories")
CHECKED_ROLLOUTS = 64
# Mean |engine - trainer| log-prob per token above which the engine is said to run other weights, by its weights' type.
# Measured: 1e-7 in float32 on a CPU; consecutive policies of a run differ by 1e-2. bfloat16 rounds by about 1e-2.
MAX_LOGPROB_GAP = {"float32": 1e-3, "bfloat16": 5e-2}


class WrongWeights(Exception):
    """The engine's log-probs are not those of the policy it claims to run. Nothing of the batch is kept."""


def generate(run: Run, iteration: int) -> None:
    """Adds the iteration's rollouts, one shard at a time, and one comparison of the engine with the trainer."""

    def plan() -> Iterator[Shard]:
        settings, policy_id = run.config.generate, run.policy_id(iteration - 1)
        chosen = run.query(
            "choose_prompts",
            source=prompts.source(run.config),
            seed=run.config.seed,
            iteration=iteration,
            n_prompts=settings.prompts_per_iteration,
        )
        per_shard = max(1, settings.shard_trajectories // settings.samples_per_prompt)
        for number, start in enumerate(range(0, len(chosen), per_shard)):
            seed = int(digest("engine", run.config.seed, run.run_id, iteration, number)[:7], 16)
            part = chosen.slice(start, per_shard)
            names = {"policy_id": policy_id, "run_id": run.run_id, "iteration": iteration}

            check = number == 0
            compute = partial(_shard, run, part, names, seed=seed, check=check)
            yield Shard(f"shard-{number}", ("engine_checks", *TABLES) if check else TABLES, compute)

    materialise(run.store, run.run_id, iteration, "generate", plan)


def _shard(run: Run, chosen: pa.Table, names: dict[str, Any], *, seed: int, check: bool) -> dict[str, pa.Table]:
    base = run.location(run.base_policy_id)
    encoded = prompts.encode(base, run.config.prompts, chosen["problem"].to_pylist())
    engine = run.processes.engine(run.location(names["policy_id"]))
    with bar(f"generate, iteration {names['iteration']}") as progress:
        rows = rollouts(chosen["prompt_id"].to_pylist(), encoded, names, run.config.generate, engine, seed, progress)
    texts = prompts.decode(base, rows["response_token_ids"].to_pylist())
    tables = {name: rows.append_column("response_text", pa.array(texts, pa.string())) for name in TABLES}
    tables = {
        "responses": tables["responses"].select(
            ["trajectory_id", "response_text", "prompt_token_ids", "response_token_ids", "behaviour_logprobs"]
        ),
        "trajectories": rows.drop_columns(["prompt_token_ids", "response_token_ids", "behaviour_logprobs"]),
    }
    if check:
        tables["engine_checks"] = _check(run, rows, names, engine.dtype)
    return tables


def rollouts(
    prompt_ids: Sequence[str],
    encoded: Sequence[Sequence[int]],
    names: Mapping[str, Any],
    settings: Generate,
    engine: Engine,
    seed: int,
    progress: Progress,
) -> pa.Table:
    """`samples_per_prompt` rollouts of each prompt: the columns of trajectories, and token ids and log-probs beside.

    A prompt that leaves no room in the engine's context is not generated from; its rows say so and hold no response.

    Args:
        names: policy_id, run_id and iteration, the same for every row.
    """
    n = settings.samples_per_prompt
    fits = [len(ids) < engine.context_tokens for ids in encoded]
    completions = COMPLETIONS.empty_table()
    if any(fits):
        completions = engine.generate(
            [ids for ids, fit in zip(encoded, fits, strict=True) if fit],
            n=n,
            temperature=settings.temperature,
            max_tokens=settings.max_response_tokens,
            seed=seed,
            progress=progress,
        )
    made = iter(completions.to_pylist())
    rows: list[dict[str, Any]] = []
    for prompt_id, ids, fit in zip(prompt_ids, encoded, fits, strict=True):
        how = (names["policy_id"], prompt_id, settings.temperature, settings.max_response_tokens, seed)
        for sample_index in range(n):
            got = next(made) if fit else None
            rows.append(
                {
                    "trajectory_id": digest("trajectory", *how, sample_index),
                    "group_id": digest("group", *how),
                    "prompt_id": prompt_id,
                    **names,
                    "sample_index": sample_index,
                    "temperature": settings.temperature,
                    "max_response_tokens": settings.max_response_tokens,
                    "seed": seed,
                    "engine": engine.name,
                    "engine_version": engine.version,
                    "finish_reason": got["finish_reason"] if got else FinishReason.PROMPT_TOO_LONG,
                    "n_prompt_tokens": len(ids),
                    "n_response_tokens": len(got["response_token_ids"]) if got else 0,
                    "behaviour_logprob_sum": sum(got["behaviour_logprobs"]) if got else None,
                    "prompt_token_ids": ids,
                    "response_token_ids": got["response_token_ids"] if got else [],
                    "behaviour_logprobs": got["behaviour_logprobs"] if got else [],
                }
            )
    if next(made, None) is not None:
        raise RuntimeError("the engine returned more rollouts than were asked for")
    return pa.Table.from_pylist(rows)


def _check(run: Run, rows: pa.Table, names: dict[str, Any], dtype: str) -> pa.Table:
    """The engine's log-probs against the trainer's own forward on the first rollouts of a batch.

    Raises:
        WrongWeights: they are further apart than rounding explains.
    """
    sample = rows.filter(pc.field("n_response_tokens") > 0).slice(0, CHECKED_ROLLOUTS)
    gaps: list[float] = []
    if len(sample):
        _, ours = run.processes.trainer().call(
            "forward",
            sample.select(["prompt_token_ids", "response_token_ids"]),
            location=run.location(names["policy_id"]),
            device=run.config.runtime.device,
            micro_batch_tokens=run.config.runtime.micro_batch_tokens,
            temperature=run.config.generate.temperature,
        )
        assert ours is not None
        theirs = pc.list_flatten(sample["behaviour_logprobs"]).to_pylist()
        gaps = [abs(a - b) for a, b in zip(pc.list_flatten(ours["logprobs"]).to_pylist(), theirs, strict=True)]
    gap = sum(gaps) / max(1, len(gaps))
    if not gap <= MAX_LOGPROB_GAP[dtype]:
        raise WrongWeights(
            f"run {names['run_id']}, iteration {names['iteration']}: the engine's log-probs are {gap:.4f} nats a token "
            f"from those of {names['policy_id']} (at most {MAX_LOGPROB_GAP[dtype]} in {dtype}): it runs other weights; "
            "the batch is not kept"
        )
    return pa.Table.from_pylist([{**names, "n_tokens": len(gaps), "mean_abs_logprob_gap": gap}])
