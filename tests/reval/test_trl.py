"""`grpo` against TRL's GRPO: the same rollouts, rewards and behaviour log-probs give the same loss and gradient."""

import os
import statistics
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from reval.model import load
from reval.trainer import Trainer
from tests.helpers.passes import HIGH, LOW, gradients, run_rows

# Three groups of four; the rewards of the last are alike.
PROMPTS = [[3, 4, 13, 5], [6, 7], [8, 14, 9, 3, 5, 6]]
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.5, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
N = 12


@pytest.fixture(scope="module")
def rollouts(model_folder) -> pa.Table:
    """Made by a policy that is some way from the one trained, so that ratios are clipped above and below."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 14, (N,), generator=generator).tolist()
    table = pa.table(
        {
            "trajectory_id": [f"t{row}" for row in range(N)],
            "prompt_token_ids": [PROMPTS[row // 4] for row in range(N)],
            "response_token_ids": [torch.randint(3, 17, (n,), generator=generator).tolist() for n in lengths],
        }
    )
    scores = Trainer().forward(str(model_folder), table, device="cpu", micro_batch_tokens=64)
    behaviour = [
        (torch.tensor(logp_T) + 0.4 * torch.randn(len(logp_T), generator=generator)).tolist()
        for logp_T in scores["logprobs"].to_pylist()
    ]
    return (
        table.append_column("behaviour_logprobs", pa.array(behaviour, pa.list_(pa.float32())))
        .append_column("ref_logprob_sum", scores["logprob_sum"])
        .append_column("ref_value", scores["value"])
    )


def trl(folder: Path, model_folder: Path, rollouts: pa.Table) -> SimpleNamespace:
    """TRL's loss, gradient and share of clipped tokens, by its own trainer, which is handed the rollouts.

    TRL looks for vLLM, whose import takes longer than all else here and which nothing here wants.
    """
    with mock.patch.dict(os.environ, TRL_EXPERIMENTAL_SILENCE="1"):
        from trl import import_utils

        with mock.patch.object(import_utils, "is_vllm_available", return_value=False):
            from datasets import Dataset
            from trl import GRPOConfig, GRPOTrainer
        how = GRPOConfig(
            **{
                "output_dir": str(folder),
                "use_cpu": True,
                "bf16": False,
                "report_to": [],
                "gradient_checkpointing": False,
            },
            **{"loss_type": "grpo", "beta": 0.0, "epsilon": LOW, "epsilon_high": HIGH, "scale_rewards": "group"},
            **{"num_generations": 4, "per_device_train_batch_size": N, "max_completion_length": 16, "temperature": 1.0},
        )
        model = load(str(model_folder), torch.device("cpu"))
        trainer = GRPOTrainer(
            model=model,
            args=how,
            reward_funcs=lambda completions, **_: [reward for group in REWARDS for reward in group],
            train_dataset=Dataset.from_list([{"prompt": "1+1="}]),
            processing_class=AutoTokenizer.from_pretrained(model_folder),
            rollout_func=lambda prompts, _: {
                "prompt_ids": rollouts["prompt_token_ids"].to_pylist(),
                "completion_ids": rollouts["response_token_ids"].to_pylist(),
                "logprobs": rollouts["behaviour_logprobs"].to_pylist(),
            },
        )
        model.train()  # there is no dropout; in evaluation its groups are others
        trainer.current_gradient_accumulation_steps = 1
        inputs = trainer._generate_and_score_completions([{"prompt": ""}] * N)
        loss = trainer.compute_loss(model, {**inputs, "old_per_token_logps": inputs["sampling_per_token_logps"]})
        loss.backward()
    return SimpleNamespace(
        loss=loss.item(),
        gradients={name: weight.grad for name, weight in model.named_parameters()},
        clipped_share=trainer._metrics["train"]["clip_ratio/region_mean"][0],
        advantages=inputs["advantages"].tolist(),
    )


def test_grpo_is_that_of_trl(model_folder, rollouts, tmp_path) -> None:
    draws = [
        {
            **{"update": 0, "slot": row, "trajectory_id": f"t{row}", "weight": 1.0, "reward": REWARDS[row // 4][row % 4]},
            **{"baseline": statistics.mean(REWARDS[row // 4]), "deviation": statistics.stdev(REWARDS[row // 4])},
        }
        for row in range(N)
    ]
    ours = run_rows(tmp_path, model_folder, rollouts, pa.Table.from_pylist(draws), objective="grpo")
    theirs = trl(tmp_path / "trl", model_folder, rollouts)
    assert theirs.advantages == pytest.approx([(d["reward"] - d["baseline"]) / (d["deviation"] + 1e-4) for d in draws])
    assert pq.read_table(tmp_path / "steps.parquet")["loss"][0].as_py() == pytest.approx(theirs.loss, rel=1e-5)
    lengths = [len(response) for response in rollouts["response_token_ids"].to_pylist()]
    clipped = sum(row["clipped_share"] * length for row, length in zip(ours, lengths, strict=True))
    assert 0.1 < clipped / sum(lengths) == pytest.approx(theirs.clipped_share, rel=1e-6)
    got, scale = gradients(tmp_path), max(weight.abs().max().item() for weight in theirs.gradients.values())
    assert got.keys() == theirs.gradients.keys()
    assert scale > 0.01
    for name, gradient in theirs.gradients.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)
