"""generate: an iteration's prompts, its policy and an engine, to trajectories and responses."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.archive.materialise import Shard, materialise
from pipeline.children.worker import Progress
from pipeline.engines.base import COMPLETIONS, Engine
from pipeline.engines.check import check_weights
from pipeline.inputs import prompts
from pipeline.progress import bar
from pipeline.recipes.config import Generate
from pipeline.runs.run import Run
from schemas import UserError, digest
from schemas.enums import FinishReason

TABLES = ("responses", "trajectories")


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
    base, location = run.location(run.base_policy_id), run.location(names["policy_id"])
    encoded = prompts.encode(base, run.config.prompts, chosen["problem"].to_pylist())
    engine = run.processes.engine(location)
    with bar(f"generate, iteration {names['iteration']}") as progress:
        rows = rollouts(chosen["prompt_id"].to_pylist(), encoded, names, run.config.generate, engine, seed, progress)
    texts = prompts.decode(base, rows["response_token_ids"].to_pylist())
    wide = ["prompt_token_ids", "response_token_ids", "behaviour_logprobs"]
    responses = rows.select(["trajectory_id", *wide]).append_column("response_text", pa.array(texts, pa.string()))
    tables = {"responses": responses, "trajectories": rows.drop_columns(wide)}
    if check or run.processes.checked != location:  # this engine may not be the one that made the shards before
        trainer, runtime = run.processes.trainer(), run.config.runtime
        found = check_weights(engine, trainer, location, rows, run.config.generate.temperature, runtime)
        run.processes.checked = location
        tables["engine_checks"] = pa.Table.from_pylist([{**names, **found}])
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
                    "import_id": None,
                    "line": None,
                    "tokenised_by": None,
                    "tokenizer_digest": None,
                    "prompt_token_ids": ids,
                    "response_token_ids": got["response_token_ids"] if got else [],
                    "behaviour_logprobs": got["behaviour_logprobs"] if got else [],
                }
            )
    if next(made, None) is not None:
        raise RuntimeError("the engine returned more rollouts than were asked for")
    return pa.Table.from_pylist(rows)
