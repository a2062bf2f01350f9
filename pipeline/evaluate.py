"""evaluate: a policy on a benchmark: greedy accuracy, and avg@k from k answers a prompt."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import db, prompts
from pipeline.engine_check import check_weights
from pipeline.materialise import Shard, commit, materialise
from pipeline.progress import bar
from pipeline.run import Processes, Run, policy_location
from pipeline.score import verdicts
from pipeline.store import Store
from pipeline.verifiers import IMPORTED, verifier
from reval.config import Config
from schemas import digest
from schemas.enums import FinishReason

# The settings that decide what a policy answers and who judges that.
SECTIONS = ("prompts", "generate", "score", "evaluate")


def evaluate(run: Run, iteration: int) -> None:
    """Evaluates the policy an iteration ended with, if its turn has come."""
    settings, last = run.config.evaluate, run.config.iterations

    def plan() -> Iterator[Shard]:
        outermost = iteration in (0, last)
        if outermost or iteration % settings.every_iterations == 0:
            n_sampled = settings.samples_per_prompt if outermost else 0
            title = f"evaluate, iteration {iteration}"
            yield from shards(run.store, run.config, run.processes, run.policy_id(iteration), n_sampled, title)

    with run.store.lock(f"evaluate-{run.policy_id(iteration)}"):  # `reval evaluate` may be at the same policy
        materialise(run.store, run.run_id, iteration, "evaluate", plan)


def evaluated_as(store: Store, policy_id: str) -> dict[str, Any]:
    """How the run that made a policy evaluates it: settings by dotted name. Empty: no run made it.

    Without these, other questions or limits would make another benchmark of the same policy.
    """
    found = db.query(store, "evaluated_as", policy_id=policy_id)["config"].to_pylist()
    if not found:
        return {}
    settings = json.loads(found[0])
    names = {f"{section}.{key}": value for section in SECTIONS for key, value in settings[section].items()}
    if names["score.verifier"] == IMPORTED:  # labels judge no answer
        del names["score.verifier"]
    return {"seed": settings["seed"], **names}


def evaluate_policy(store: Store, config: Config, processes: Processes, policy_id: str) -> None:
    """Evaluates any policy of the archive, outside a run.

    Raises:
        UserError: the archive has no such policy.
    """
    policy_location(store, policy_id)
    with store.lock("base"):  # questions belong to all runs
        prompts.ensure(store, config)
    planned = shards(store, config, processes, policy_id, config.evaluate.samples_per_prompt, f"evaluate {policy_id}")
    with store.lock(f"evaluate-{policy_id}"):
        seconds = commit(store, "evaluate", planned)
        store.snapshot_now("evaluate", seconds=seconds)


def shards(
    store: Store, config: Config, processes: Processes, policy_id: str, n_sampled: int, title: str
) -> Iterator[Shard]:
    """The answers a policy still owes: one greedy to each held-out prompt, `n_sampled` at generation's temperature."""
    wanted = [(0.0, 1), (config.generate.temperature, n_sampled)]
    for temperature, n_samples in wanted[: 2 if n_sampled else 1]:
        names: dict[str, Any] = {
            "policy_id": policy_id,
            "benchmark": prompts.benchmark(config),
            "temperature": temperature,
        }
        work = db.query(
            store,
            "heldout_prompts",
            source=prompts.source(config),
            max_prompts=config.evaluate.max_prompts,
            n_samples=n_samples,
            **names,
        )
        # Mostly all or nothing; a larger k than last time adds the answers that are missing.
        for n_answered in sorted(set(work["n_answered"].to_pylist())):
            part = work.filter(pc.field("n_answered") == n_answered)
            name = digest(
                "evaluate",
                policy_id,
                names["benchmark"],
                temperature,
                n_answered,
                n_samples,
                *part["prompt_id"].to_pylist(),
            )
            compute = partial(_answers, store, config, processes, part, names, (n_answered, n_samples), title)
            yield Shard(name, ("evaluations",), compute)


def _answers(
    store: Store,
    config: Config,
    processes: Processes,
    work: pa.Table,
    names: Mapping[str, Any],
    samples: tuple[int, int],
    title: str,
) -> dict[str, pa.Table]:
    """Answers number samples[0] to samples[1] - 1 of each prompt of `work`.

    Raises:
        WrongWeights: the engine does not run the policy; nothing is kept.
    """
    first, n_samples = samples[0], samples[1] - samples[0]
    location = policy_location(store, names["policy_id"])
    encoded = prompts.encode(location, config.prompts, work["problem"].to_pylist())
    engine = processes.engine(location)
    fits = [i for i, ids in enumerate(encoded) if len(ids) < engine.context_tokens]
    with bar(title) as progress:
        completions = engine.generate(
            [encoded[i] for i in fits],
            n=n_samples,
            temperature=names["temperature"],
            max_tokens=config.generate.max_response_tokens,
            seed=int(digest("evaluate", config.seed, names["policy_id"], first)[:7], 16),
            progress=progress,
        )
    asked_ids = [encoded[fits[i]] for i in completions["prompt_index"].to_pylist()]
    rollouts = completions.append_column("prompt_token_ids", pa.array(asked_ids, pa.list_(pa.int32())))
    if processes.checked != location:
        check_weights(engine, processes.trainer(), location, rollouts, names["temperature"], config.runtime)
        processes.checked = location
    texts = prompts.decode(location, completions["response_token_ids"].to_pylist())
    rows: list[dict[str, Any]] = [
        {
            "row": fits[got["prompt_index"]],
            "sample_index": first + got["sample_index"],
            "finish_reason": got["finish_reason"],
            "n_response_tokens": len(got["response_token_ids"]),
            "response_text": text,
        }
        for got, text in zip(completions.to_pylist(), texts, strict=True)
    ]
    # A prompt that does not fit is a question not answered, not a question less.
    unfit = {"finish_reason": FinishReason.PROMPT_TOO_LONG, "n_response_tokens": 0, "response_text": ""}
    for row in sorted(set(range(len(work))) - set(fits)):
        rows += [{"row": row, "sample_index": first + sample, **unfit} for sample in range(n_samples)]
    answers = pa.Table.from_pylist(rows)
    asked = work.take(answers["row"]).select(["prompt_id", "gold_answer"])
    answers = answers.drop_columns(["row"]).append_column("prompt_id", asked["prompt_id"])
    judge = verifier(config.score.verifier)
    with bar(title) as progress:
        judged = verdicts(
            processes.verifiers, judge, asked["gold_answer"].to_pylist(), answers["response_text"].to_pylist(), progress
        )
    constants = {**names, "verifier_id": judge.verifier_id}
    columns = {name: answers[name] for name in answers.column_names}
    columns |= {name: pa.array([value] * len(answers)) for name, value in constants.items()}
    return {"evaluations": pa.table({**columns, "verdict": judged["verdict"], "reward": judged["reward"]})}
