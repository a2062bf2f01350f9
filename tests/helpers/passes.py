"""Passes of the trainer in this process, over rows made here."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

from reval.batch import micro_batches
from reval.bellman import Sample
from reval.rollouts import Rollouts
from reval.settings import Settings
from reval.trainer import Trainer

N = 12
REFERENCE = Trainer()  # which needs loading once
LOW, HIGH = 0.2, 0.28
BETA = 0.5


def sample(n: int, **given: torch.Tensor) -> Sample:
    """A sample of n trajectories with one response token each; everything that is not given is zero."""
    zeros = dict.fromkeys(Sample._fields, torch.zeros(n, dtype=torch.float64))
    return Sample(**{**zeros, "row_N": torch.arange(n), **given})


def rollouts() -> pa.Table:
    generator = torch.Generator().manual_seed(0)

    def tokens(low: int, high: int) -> list[int]:
        n = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 20, (n,), generator=generator).tolist()

    return pa.table(
        {
            "trajectory_id": [f"t{i}" for i in range(N)],
            "prompt_token_ids": [tokens(1, 9) for _ in range(N)],
            "response_token_ids": [tokens(1, 14) for _ in range(N)],
        }
    )


def settings(folder: Path, policy: Path, **changes) -> Settings:
    made = Settings(
        policy=str(policy),
        optimizer=None,
        policy_out=str(folder / "policy"),
        optimizer_out=str(folder / "optimizer.safetensors"),
        objective="reval",
        beta=0.5,
        learning_rate=1e-3,
        adam_beta1=0.9,
        adam_beta2=0.99,
        weight_decay=0.0,
        max_grad_norm=1.0,
        micro_batch_tokens=4096,
        device="cpu",
    )
    return replace(made, **changes)


def prepare(folder: Path, how: Settings, updates: list[list[int]], reference: Path | None = None) -> None:
    """Writes a pass whose updates are the given rows, under the policy itself or another reference."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rollouts()
    under = REFERENCE.forward(str(reference or how.policy), rows, device="cpu", micro_batch_tokens=64)
    more = {
        "ref_logprob_sum": under["logprob_sum"],
        "ref_value": under["value"],
        "behaviour_logprobs": pa.array([[x - 0.1 for x in row] for row in under["logprobs"].to_pylist()]),
        "prompt_id": pa.array([f"p{i // 4}" for i in range(N)]),
    }
    for name, values in more.items():
        rows = rows.append_column(name, values)
    draws = [
        {
            **{"update": u, "slot": s, "trajectory_id": f"t{row}", "weight": 1.0 + 0.1 * (row % 3)},
            **{"reward": row % 2, "baseline": 0.25, "deviation": 0.5},
        }
        for u, drawn in enumerate(updates)
        for s, row in enumerate(drawn)
    ]
    pq.write_table(rows, folder / "rollouts.parquet")
    pq.write_table(pa.Table.from_pylist(draws), folder / "draws.parquet")
    (folder / "pass.json").write_text(json.dumps(asdict(how)))


def run(folder: Path, how: Settings, updates: list[list[int]]) -> pa.Table:
    """Runs a pass whose updates are the given rows; returns what it wrote about them."""
    prepare(folder, how, updates)
    Trainer().run_pass(folder)
    return pq.read_table(folder / "updates.parquet")


def run_rows(folder: Path, policy: Path, table: pa.Table, drawn: pa.Table, **changes) -> list[dict]:
    """Runs a pass in several packed micro-batches; gives its rows of `updates`.

    With these moments and no clipping, `exp_avg` of the optimizer's state after one update is the update's gradient.
    """
    small = {"micro_batch_tokens": 40, "adam_beta1": 0.0, "max_grad_norm": 1e9, "beta": BETA}
    how = settings(folder, policy, **{**small, "clip_low": LOW, "clip_high": HIGH, **changes})
    assert len(micro_batches(Rollouts(table).n_tokens, how.micro_batch_tokens)) >= 3
    pq.write_table(table, folder / "rollouts.parquet")
    pq.write_table(drawn, folder / "draws.parquet")
    (folder / "pass.json").write_text(json.dumps(asdict(how)))
    Trainer().run_pass(folder)
    assert json.loads((folder / "result.json").read_text())["batching"] == "packed"
    return pq.read_table(folder / "updates.parquet").to_pylist()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy" / "model.safetensors")


def gradients(folder: Path) -> dict[str, Tensor]:
    state = load_file(folder / "optimizer.safetensors")
    return {name.removeprefix("exp_avg."): value for name, value in state.items() if name.startswith("exp_avg.")}
