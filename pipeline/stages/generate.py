"""generate: an engine answers the iteration's prompts with the policy; this makes trajectories and responses."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.archive.materialise import Shard, materialise
from pipeline.inputs import prompts
from pipeline.recipes.config import Generate
from pipeline.runs.run import Run
from pipeline.stages.answer import Answers, Sampling, answer
from schemas import UserError, digest
from schemas.enums import FinishReason

TABLES = ("responses", "trajectories")
# The columns of responses, without the rollout's id.
WIDE = ["prompt_token_ids", "response_token_ids", "behaviour_logprobs", "response_text"]


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
        if not len(chosen):
            raise UserError(
                f"source {prompts.source(run.config)} has no training prompts, all of its questions are held out: "
                "import others with --split train, or choose another prompts.source"
            )
        if len(chosen) < settings.prompts_per_iteration:
            raise UserError(
                f"generate.prompts_per_iteration = {settings.prompts_per_iteration}: "
                f"{prompts.source(run.config)} has {len(chosen)} training prompts"
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
    settings = run.config.generate
    given = answer(
        run.processes,
        run.config,
        run.location(names["policy_id"]),
        chosen["problem"].to_pylist(),
        Sampling(settings.samples_per_prompt, settings.temperature, settings.max_response_tokens, seed),
        f"generate, iteration {names['iteration']}",
        tokenizer=run.location(run.base_policy_id),
        check=check,
    )
    rows = rollouts(chosen["prompt_id"].to_pylist(), given, names, settings, seed)
    tables = {"responses": rows.select(["trajectory_id", *WIDE]), "trajectories": rows.drop_columns(WIDE)}
    if check:
        tables["engine_checks"] = pa.Table.from_pylist([{**names, **(given.checked or {})}])
    return tables


def rollouts(
    prompt_ids: Sequence[str], given: Answers, names: Mapping[str, Any], settings: Generate, seed: int
) -> pa.Table:
    """A row for each answer, with the columns of trajectories and of responses.

    Args:
        prompt_ids: ids of the answered problems, in order.
        names: policy_id, run_id and iteration, the same for every row.
    """
    rows: list[dict[str, Any]] = []
    for got in given.rows.to_pylist():
        prompt_id, sample_index = prompt_ids[got["prompt_index"]], got["sample_index"]
        how = (names["policy_id"], prompt_id, settings.temperature, settings.max_response_tokens, seed)
        is_answered = got["finish_reason"] != FinishReason.PROMPT_TOO_LONG
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
                "engine": given.engine.name,
                "engine_version": given.engine.version,
                "finish_reason": got["finish_reason"],
                "n_prompt_tokens": len(got["prompt_token_ids"]),
                "n_response_tokens": len(got["response_token_ids"]),
                "behaviour_logprob_sum": sum(got["behaviour_logprobs"]) if is_answered else None,
                "import_id": None,
                "line": None,
                "tokenised_by": None,
                "tokenizer_digest": None,
                **{name: got[name] for name in WIDE},
            }
        )
    return pa.Table.from_pylist(rows)
