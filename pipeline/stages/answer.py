"""Gets a policy's answers to problems; `generate` and `evaluate` share this.

Prompts are encoded, the engine answers those that fit its context, its log-probs are compared with the trainer's, and the
token ids become text. A prompt that does not fit has rows too: their finish_reason says so, and their response is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.children.worker import Progress
from pipeline.engines.base import COMPLETIONS, Engine
from pipeline.engines.check import check_weights
from pipeline.inputs import prompts
from pipeline.progress import bar
from pipeline.recipes.config import Config
from pipeline.runs.processes import Processes
from schemas.enums import FinishReason

IDS = pa.list_(pa.int32())


@dataclass(frozen=True)
class Sampling:
    """How often and how each problem is answered. Temperature 0 is greedy and needs n = 1."""

    n: int
    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Answers:
    """A policy's answers to each problem.

    Attributes:
        rows: see `responses`; with a further column response_text.
        engine: the engine that generated them.
        checked: the result of `check_weights`; None: it was not called.
    """

    rows: pa.Table
    engine: Engine
    checked: dict[str, Any] | None


def answer(
    processes: Processes,
    config: Config,
    location: str,
    problems: Sequence[str],
    sampling: Sampling,
    title: str,
    *,
    tokenizer: str,
    check: bool = False,
) -> Answers:
    """Has the policy at `location` answer each problem.

    Args:
        title: of the progress bar.
        tokenizer: the folder of the tokenizer, the policy's or its base policy's; each process reads a folder's once.
        check: compare the engine with the trainer even if that was already done since the engine loaded these weights.

    Raises:
        WrongWeights: the engine does not run the policy.
    """
    encoded = prompts.encode(tokenizer, config.prompts, list(problems))
    engine = processes.engine(location)
    with bar(title) as progress:
        rows = responses(engine, encoded, sampling, progress)
    found, is_answered = None, pc.any(pc.greater(pc.list_value_length(rows["response_token_ids"]), 0)).as_py()
    if check or (is_answered and processes.checked != location):  # the engine may be a new one since the last shard
        found = check_weights(engine, processes.trainer(), location, rows, sampling.temperature, config.runtime)
        processes.checked = location
    texts = prompts.decode(tokenizer, rows["response_token_ids"].to_pylist())
    return Answers(rows.append_column("response_text", pa.array(texts, pa.string())), engine, found)


def responses(engine: Engine, encoded: Sequence[Sequence[int]], sampling: Sampling, progress: Progress) -> pa.Table:
    """`n` responses to each prompt: COMPLETIONS and a column prompt_token_ids, ordered by prompt and sample.

    If a prompt leaves no room in the engine's context, its responses are empty; their finish_reason is prompt_too_long.

    Args:
        encoded: token ids of each prompt.
    """
    fits = [i for i, ids in enumerate(encoded) if len(ids) < engine.context_tokens]
    made = COMPLETIONS.empty_table()
    if fits:
        made = engine.generate(
            [encoded[i] for i in fits],
            n=sampling.n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            progress=progress,
        )
    if len(made) != len(fits) * sampling.n:
        raise RuntimeError(f"the engine returned {len(made)} responses, not {sampling.n} to each of {len(fits)} prompts")
    places = [fits[i] for i in made["prompt_index"].to_pylist()]
    made = made.set_column(0, COMPLETIONS.field("prompt_index"), pa.array(places, pa.int64()))
    nothing = {"response_token_ids": [], "behaviour_logprobs": [], "finish_reason": FinishReason.PROMPT_TOO_LONG}
    unfit = [
        {"prompt_index": i, "sample_index": sample, **nothing}
        for i in sorted(set(range(len(encoded))) - set(fits))
        for sample in range(sampling.n)
    ]
    rows = pa.concat_tables([made.select(COMPLETIONS.names), pa.Table.from_pylist(unfit, COMPLETIONS)])
    rows = rows.sort_by([("prompt_index", "ascending"), ("sample_index", "ascending")])
    asked = [encoded[i] for i in rows["prompt_index"].to_pylist()]
    return rows.append_column("prompt_token_ids", pa.array(asked, IDS))
