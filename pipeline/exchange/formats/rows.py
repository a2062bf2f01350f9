"""The general format: a row is a prompt and a response to it, under any of the usual column names.

A row may hold several responses, as lists: `responses`, or `response` itself as a list. Then labels, log-probs and token
ids are lists of the same length. Every other format is converted to these columns first and then read here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.exchange.formats import values
from pipeline.exchange.formats.values import Array, BadRow, Columns
from schemas.enums import FinishReason

# Usual names of each of our columns; the first one that is not None counts.
ALIASES: dict[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "prompt", "query", "input"),
    "gold_answer": ("gold_answer", "answer", "ground_truth", "solution", "target", "final_answer", "gts"),
    "policy": ("policy", "model", "policy_id", "model_name"),
    "step": ("iteration", "step", "global_step"),
    "response": (
        *("responses", "completions", "outputs", "generations", "samples"),
        *("response", "completion", "output", "generation", "response_text", "text"),
    ),
    "prompt_token_ids": ("prompt_token_ids", "prompt_ids", "input_token_ids"),
    "response_token_ids": (
        *("response_token_ids", "completion_token_ids", "output_token_ids"),
        *("response_ids", "completion_ids", "output_ids", "tokens"),
    ),
    "logprobs": ("logprobs", "behaviour_logprobs", "response_logprobs", "completion_logprobs", "token_logprobs"),
    "correct": ("is_correct", "correct"),
    "reward": ("reward", "score", "rewards", "scores"),
    "finish_reason": ("finish_reason", "finish_reasons", "stop_reason"),
    "temperature": ("temperature",),
    "max_response_tokens": ("max_response_tokens", "max_tokens", "max_new_tokens"),
    "seed": ("seed",),
    "engine_version": ("engine_version",),
}

FINISHED: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), FinishReason.STOP),
    **dict.fromkeys(("length", "max_tokens", "max_length", "truncated"), FinishReason.LENGTH),
    "abort": FinishReason.ABORT,
}


@dataclass(frozen=True)
class Rollout:
    """One response from a file. None: the file does not say."""

    problem: str
    chat: list[dict[str, str]] | None  # the messages that contain the problem
    gold_answer: str | None
    policy: str | None
    step: int | None
    text: str | None  # None: only token ids are known
    prompt_token_ids: Array | None
    response_token_ids: Array | None
    logprobs: Array | None
    correct: bool | None  # None: no label
    reward: float | None
    finish_reason: FinishReason
    temperature: float | None
    max_response_tokens: int | None
    seed: int | None
    engine_version: str | None


def matches(row: values.Values, file: str) -> bool:
    """Any row that no other format claims."""
    return True


def rollouts(row: values.Values, columns: Columns, file: str) -> Iterator[Rollout]:
    """The responses of a row.

    Raises:
        BadRow: one of them cannot be read; then the whole row is bad.
    """
    yield from read({name: columns.find(row, name, aliases) for name, aliases in ALIASES.items()})


def read(row: Mapping[str, Any]) -> Iterator[Rollout]:
    """The responses of a row in our columns; missing values are None.

    Raises:
        BadRow: see `rollouts`.
    """
    problem, chat = values.problem(row.get("problem"))
    version = row.get("engine_version")
    whole = Rollout(
        problem=problem,
        chat=chat,
        gold_answer=values.gold(row.get("gold_answer")),
        policy=None if row.get("policy") is None else values.string("policy", row["policy"]),
        step=values.integer("step", row.get("step")),
        text=None,
        prompt_token_ids=values.token_ids("prompt_token_ids", row.get("prompt_token_ids")),
        response_token_ids=None,
        logprobs=None,
        correct=None,
        reward=None,
        finish_reason=FinishReason.UNKNOWN,
        temperature=values.finite("temperature", row.get("temperature")),
        max_response_tokens=values.integer("max_response_tokens", row.get("max_response_tokens")),
        seed=values.integer("seed", row.get("seed")),
        engine_version=None if version is None else values.string("engine_version", version),
    )
    for each in _responses(row):
        yield _one(whole, each)


def _responses(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """For each response, the values that differ between the responses of a row."""
    each = {name: values.from_json(row.get(name)) for name in ("response_token_ids", "logprobs", "correct", "reward")}
    said = row.get("response")
    if not isinstance(said, str):
        said = values.from_json(said)
    each |= {"response": said, "finish_reason": row.get("finish_reason")}
    ids = each["response_token_ids"]
    several_texts = isinstance(said, list) and values.messages(said) is None
    several_ids = isinstance(ids, list) and bool(ids) and all(isinstance(part, list) for part in ids)
    if not several_texts and not several_ids:
        yield each
        return
    n = len(said) if several_texts else len(ids)
    if n == 0:
        raise BadRow("the row has no response: the list is empty")
    for name, value in each.items():
        if value is not None and not (isinstance(value, list) and len(value) == n):
            raise BadRow(f"{n} responses, but {name} is {values.shown(value)}, not a list of {n}")
    for i in range(n):
        yield {name: None if value is None else value[i] for name, value in each.items()}


def _one(whole: Rollout, each: Mapping[str, Any]) -> Rollout:
    text = None if each["response"] is None else values.response(each["response"])
    ids = values.token_ids("response_token_ids", each["response_token_ids"])
    if text is None and ids is None:
        raise BadRow("no response, neither text nor token ids; name its column with --map response=COLUMN")
    logprobs = values.logprobs("logprobs", each["logprobs"])
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise BadRow(f"{len(logprobs)} log-probs for {len(ids)} token ids")
    correct, reward = values.truth("correct", each["correct"]), values.finite("reward", each["reward"])
    if correct is None and reward is not None:
        correct = float(reward > 0)
    reason = each["finish_reason"]
    return replace(
        whole,
        text=text,
        response_token_ids=ids,
        logprobs=logprobs,
        correct=None if correct is None else bool(correct),
        reward=correct if reward is None else reward,
        finish_reason=FINISHED.get(str(reason).lower(), FinishReason.UNKNOWN),
    )
