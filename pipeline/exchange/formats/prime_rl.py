"""Saved rollouts of prime-rl: OUTPUT_DIR/rollouts/step_N/train_rollouts.jsonl, also .gz.

prime-rl took the format from verifiers, whose `results.jsonl` is the same.

Two layouts. Before verifiers v1, `state_to_output` in verifiers/utils/save_utils.py (0.1): prompt and completion as chat
messages, answer, reward, is_truncated, and `trajectory` with token ids if it was not left out. Since then a `Trace`
(verifiers/v1/trace.py and graph.py, TRACE_VERSION 1): `nodes` with message, parent, sampled, token_ids, mask and
logprobs, whose concatenation along a path is what the model saw; `rewards` with score and weight; `task.data`.

Only a rollout with one model turn is imported, as a prompt and a response; others are rejected. The model's name is in
the trace. Its weights change with every step, so the policy is NAME-step-STEP; NAME is the run's folder if no model is
named.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.exchange.formats import values
from pipeline.exchange.formats.rows import ALIASES, Rollout, read
from pipeline.exchange.formats.values import BadRow, Columns, Values


def matches(row: Values, file: str) -> bool:
    if isinstance(row.get("nodes"), list):
        return True
    return isinstance(row.get("completion"), list) and bool({"example_id", "trajectory", "is_completed"} & set(row))


def rollouts(row: Values, columns: Columns, file: str) -> Iterator[Rollout]:
    """The one response of a row.

    Raises:
        BadRow: the row cannot be read, or has more than one model turn.
    """
    found = _trace(row) if "nodes" in row else _output(row)
    mapped = {name: columns.find(row, name, ()) for name in columns.mapped if name in ALIASES}
    yield from read({**found, **mapped})


def _output(row: Values) -> dict[str, Any]:
    found = {name: row.get(theirs) for name, theirs in (("problem", "prompt"), ("response", "completion"))}
    steps = row.get("trajectory")
    if isinstance(steps, list) and steps:
        if len(steps) > 1:
            raise BadRow(f"{len(steps)} model turns; only a rollout of one turn can be imported")
        tokens = steps[0].get("tokens") if isinstance(steps[0], Mapping) else None
        if isinstance(tokens, Mapping):
            found["prompt_token_ids"] = tokens.get("prompt_ids")
            found["response_token_ids"] = tokens.get("completion_ids")
            found["logprobs"] = tokens.get("completion_logprobs") or None
    truncated = row.get("is_truncated")
    finished = "length" if truncated else "stop" if truncated is False and row.get("is_completed") else None
    # A rollout that failed was not judged, and its reward of 0 is only a default.
    reward = None if row.get("error") else row.get("reward")
    sampling = row.get("sampling_args")
    return {
        **found,
        **_sampling(sampling),
        "gold_answer": row.get("answer"),
        "reward": reward,
        "finish_reason": finished,
        "step": _first(row, "step"),
        "policy": _first(row, "model"),
    }


def _trace(row: Values) -> dict[str, Any]:
    nodes = row["nodes"]
    if not isinstance(nodes, list) or not all(isinstance(node, Mapping) and "message" in node for node in nodes):
        raise BadRow("nodes is not a list of message nodes")
    sampled = [node for node in nodes if node.get("sampled") or any(node.get("mask") or ())]
    if (
        len(sampled) != 1
        or sampled[0] is not nodes[-1]
        or any(node.get("parent") != i - 1 for i, node in enumerate(nodes) if i)
    ):
        raise BadRow(f"{len(sampled)} model turns in {len(nodes)} messages; only a rollout of one turn can be imported")
    task = _struct(_struct(row, "task"), "data") or _struct(row, "task")
    agent, info = _struct(_struct(row, "agent"), "config"), _struct(row, "info")
    call: Values = next(
        (c for c in reversed(row.get("calls") or ()) if isinstance(c, Mapping) and not c.get("error")), {}
    )
    ship = _first(_struct(info, "ship"), "step")
    return {
        "problem": [node["message"] for node in nodes[:-1]] or task.get("prompt"),
        "response": [nodes[-1]["message"]],
        "gold_answer": _first(task, "answer", "gold_answer", "ground_truth", "solution"),
        "reward": _reward(row.get("rewards")),
        "finish_reason": call.get("finish_reason") or nodes[-1].get("finish_reason"),
        "step": ship if ship is not None else _first(_struct(info, "prime_rl"), "step"),
        "policy": call.get("model") or agent.get("model"),
        **_sampling(call.get("sampling") or agent.get("sampling")),
        **_tokens(nodes),
    }


def _tokens(nodes: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The token ids of a path: the prompt's before the first sampled token, the response's from there on."""
    ids = [token for node in nodes for token in node.get("token_ids") or ()]
    mask = [flag for node in nodes for flag in node.get("mask") or ()]
    if not ids:
        return {}
    if len(mask) != len(ids) or True not in mask:
        raise BadRow(f"{len(mask)} mask entries for {len(ids)} token ids, {sum(map(bool, mask))} of them sampled")
    first = mask.index(True)
    if not all(mask[first:]):
        raise BadRow("tokens that were not sampled stand between or after those that were")
    return {
        "prompt_token_ids": ids[:first],
        "response_token_ids": ids[first:],
        "logprobs": nodes[-1].get("logprobs") or None,
    }


def _reward(rewards: Any) -> float | None:
    """The weighted sum of the rewards; None if scoring did not run."""
    if not isinstance(rewards, Mapping):
        return None
    total = None
    for name, reward in rewards.items():
        score = reward.get("score") if isinstance(reward, Mapping) else reward
        weight = reward.get("weight", 1.0) if isinstance(reward, Mapping) else 1.0
        if score is not None:
            number = values.finite(f"reward {name}", score)
            factor = values.finite(f"weight of {name}", weight)
            total = (total or 0.0) + (number or 0.0) * (1.0 if factor is None else factor)
    return total


def _sampling(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        return {}
    limit = _first(settings, "max_tokens", "max_completion_tokens")
    return {"temperature": settings.get("temperature"), "max_response_tokens": limit, "seed": settings.get("seed")}


def _struct(row: Values, name: str) -> Values:
    found = row.get(name)
    return found if isinstance(found, Mapping) else {}


def _first(row: Values, *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
