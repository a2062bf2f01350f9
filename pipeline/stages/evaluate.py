"""evaluate: a policy answers benchmarks, each question once greedily and k times sampled.

The view `scores` has the results.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.materialise import Shard, commit, materialise
from pipeline.archive.store import Store
from pipeline.inputs import prompts
from pipeline.inputs.policies import policy_location
from pipeline.inputs.prompts import EvaluationSet
from pipeline.progress import bar
from pipeline.query import db
from pipeline.recipes.config import Config
from pipeline.runs.processes import Processes
from pipeline.runs.run import Run
from pipeline.stages.answer import Sampling, answer
from pipeline.stages.score import verdicts
from pipeline.verifiers import IMPORTED, verifier
from schemas import digest

# The sections of settings that decide a policy's answers and their verdicts.
SECTIONS = ("prompts", "generate", "score", "evaluate")


@dataclass(frozen=True)
class Asked:
    """Which policy answers which benchmark, at which temperature."""

    policy_id: str
    benchmark: EvaluationSet
    temperature: float

    def names(self) -> dict[str, Any]:
        """The columns that these answers share."""
        return {
            "policy_id": self.policy_id,
            "benchmark": self.benchmark.name,
            "temperature": self.temperature,
        }


def evaluate(run: Run, iteration: int) -> None:
    """Evaluates the policy an iteration ended with, if the settings say so for this iteration."""
    settings, last = run.config.evaluate, run.config.iterations
    every = settings.sampled_every_iterations
    is_sampled = iteration in (0, last) or (every > 0 and iteration % every == 0)

    def plan() -> Iterator[Shard]:
        if is_sampled or iteration % settings.every_iterations == 0:
            n_sampled = settings.samples_per_prompt if is_sampled else 0
            title = f"evaluate, iteration {iteration}"
            yield from shards(run.store, run.config, run.processes, run.policy_id(iteration), n_sampled, title)

    with run.store.lock(f"evaluate-{run.policy_id(iteration)}"):  # `reval evaluate` may evaluate the same policy
        materialise(run.store, run.run_id, iteration, "evaluate", plan)


def evaluated_as(store: Store, policy_id: str) -> dict[str, Any]:
    """The settings, by dotted name, with which the run that made a policy evaluates it. Empty: no run made it.

    With other questions or limits, an evaluation of the same policy would be another benchmark.
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
    if not config.evaluate.benchmarks:
        with store.lock("base"):  # questions belong to all runs
            prompts.ensure(store, config)
    n_sampled, title = config.evaluate.samples_per_prompt, f"evaluate {policy_id}"
    with store.lock(f"evaluate-{policy_id}"):
        planned = list(shards(store, config, processes, policy_id, n_sampled, title))
        if planned:
            store.snapshot_now("evaluate", seconds=commit(store, "evaluate", planned))


def shards(
    store: Store, config: Config, processes: Processes, policy_id: str, n_sampled: int, title: str
) -> Iterator[Shard]:
    """The missing answers of a policy: one greedy to each held-out prompt, `n_sampled` at generate.temperature."""
    wanted = [(0.0, 1), (config.generate.temperature, n_sampled)][: 2 if n_sampled else 1]
    most = config.evaluate.max_prompts
    for benchmark in prompts.evaluation_sets(store, config):
        for temperature, n_samples in wanted:
            asked = Asked(policy_id, benchmark, temperature)
            work = db.query(
                store,
                "heldout_prompts",
                source=benchmark.source,
                max_prompts=None if most == "all" else most,
                n_samples=n_samples,
                **asked.names(),
            )
            for part, n_answered in _parts(work, n_samples, config.generate.shard_trajectories):
                samples = (n_answered, n_samples)
                name = digest("evaluate", *asked.names().values(), *samples, *part["prompt_id"].to_pylist())
                compute = partial(_answers, store, config, processes, part, asked, samples, title)
                yield Shard(name, ("evaluations",), compute)


def _parts(work: pa.Table, n_samples: int, most_answers: int) -> Iterator[tuple[pa.Table, int]]:
    """Groups of prompts that have the same number of answers, with that number; at most `most_answers` new answers each.

    Usually all prompts have the same number. If k is larger than last time, only the missing answers are added.
    """
    for n_answered in sorted(set(work["n_answered"].to_pylist())):
        alike = work.filter(pc.field("n_answered") == n_answered)
        n_prompts = max(1, most_answers // (n_samples - n_answered))
        for start in range(0, len(alike), n_prompts):
            yield alike.slice(start, n_prompts), n_answered


def _answers(
    store: Store,
    config: Config,
    processes: Processes,
    work: pa.Table,
    asked: Asked,
    samples: tuple[int, int],
    title: str,
) -> Mapping[str, pa.Table]:
    """Generates and judges the answers samples[0] to samples[1] - 1 to each prompt of `work`.

    Raises:
        WrongWeights: the engine does not run the policy; nothing is kept.
    """
    first, n_samples = samples[0], samples[1] - samples[0]
    location = policy_location(store, asked.policy_id)
    seed = int(digest("evaluate", config.seed, asked.policy_id, first)[:7], 16)
    sampling = Sampling(n_samples, asked.temperature, config.generate.max_response_tokens, seed)
    # A prompt that does not fit still counts as a question, without an answer.
    rows = answer(processes, config, location, work["problem"].to_pylist(), sampling, title, tokenizer=location).rows
    questions = work.take(rows["prompt_index"]).select(["prompt_id", "gold_answer"])
    columns = {
        "prompt_id": questions["prompt_id"],
        "sample_index": pc.add(rows["sample_index"], first),
        "finish_reason": rows["finish_reason"],
        "n_response_tokens": pc.list_value_length(rows["response_token_ids"]),
        "response_text": rows["response_text"],
    }
    judge = verifier(asked.benchmark.verifier)
    with bar(title) as progress:
        gold_answers, texts = questions["gold_answer"].to_pylist(), rows["response_text"].to_pylist()
        judged = verdicts(processes.verifiers(judge.name), judge, gold_answers, texts, progress)
    columns |= {name: judged[name] for name in ("verdict", "reward", "extracted_answer")}
    for name, value in {**asked.names(), "verifier_id": judge.verifier_id}.items():
        columns[name] = pa.array([value] * len(rows))
    return {"evaluations": pa.table(columns)}
