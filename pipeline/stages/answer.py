"""Problems to a policy's answers: what `generate` and `evaluate` have in common.

Prompts are encoded, the engine answers those that fit its context, its log-probs are held against the trainer's, and the
token ids become text. A prompt that does not fit has its rows all the same, which say so and hold no response.
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
    """How often and how each problem is answered. Temperature 0 is greedy and wants n = 1."""

    n: int
    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Answers:
    """What a policy said to each problem.

    Attributes:
        rows: see `responses`, and a column response_text.
        engine: which gave them.
        checked: what `check_weights` found; None: it was not asked.
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
        tokenizer: whose tokenizer is used, the policy's or its base policy's; of each folder it is read once a process.
        check: compare the engine with the trainer even if that was done since the engine took these weights.

    Raises:
        WrongWeights: the engine does not run the policy.
    """
    encoded = prompts.encode(tokenizer, config.prompts, list(problems))
    engine = processes.engine(location)
    with bar(title) as progress:
        rows = responses(engine, encoded, sampling, progress)
    found, is_answered = None, pc.any(pc.greater(pc.list_value_length(rows["response_token_ids"]), 0)).as_py()
    if check or (is_answered and processes.checked != location):  # this engine may not be the one of the shards before
        found = check_weights(engine, processes.trainer(), location, rows, sampling.temperature, config.runtime)
        processes.checked = location
    texts = prompts.decode(tokenizer, rows["response_token_ids"].to_pylist())
    return Answers(rows.append_column("response_text", pa.array(texts, pa.string())), engine, found)


def responses(engine: Engine, encoded: Sequence[Sequence[int]], sampling: Sampling, progress: Progress) -> pa.Table:
    """`n` responses to each prompt: COMPLETIONS and a column prompt_token_ids, ordered by prompt and sample.

    Those to a prompt that leaves no room in the engine's context are empty; their finish_reason is prompt_too_long.

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
