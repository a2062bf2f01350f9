"""A pass gives the same result however it is cut up, and begins exactly where the one before ended."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch._dynamo.utils import counters

from reval import fused, head
from reval import model as models
from reval.batch import collate, micro_batches
from reval.model import Policy
from reval.rollouts import Rollouts
from reval.trainer import Trainer
from tests.helpers.passes import N, rollouts, run, settings, weights


def gradient(folder: Path, groups: list[list[int]], batching: str = "packed", dtype=None) -> torch.Tensor:
    """Of the mean square of Σ log π + V over all rows, in whatever groups they are scored."""
    rows = Rollouts(rollouts())
    policy = models.policy(str(folder), torch.device("cpu"))
    assert policy.packs
    for group in groups:
        batch = policy.collate([rows.prompts[i] for i in group], [rows.responses[i] for i in group], batching)
        scores = policy(batch)
        sums = models.sum_by_trajectory(scores.logp_N, batch) + scores.value_B
        (sums.square().sum() / len(rows)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_packing_padding_and_micro_batches_change_nothing(model_folder, batching) -> None:
    one_by_one = gradient(model_folder, [[i] for i in range(N)], "padded")
    close(gradient(model_folder, [list(range(N))], batching), one_by_one)
    cut = micro_batches(Rollouts(rollouts()).n_tokens, 40, batching)
    assert len(cut) > 3
    close(gradient(model_folder, cut, batching), one_by_one)


@pytest.mark.slow
def test_compiled_layers_change_nothing(model_folder, monkeypatch) -> None:
    """No layer is compiled again for each batch. As on a GPU, but without making kernels, which takes half a minute."""
    groups = [[i] for i in range(3)] + [[3, 4], [5, 6, 7], [8, 9, 10, 11]]
    eager = gradient(model_folder, groups)
    monkeypatch.setattr(fused, "pays", lambda device, n_parameters: True)
    monkeypatch.setattr(Policy.fuse, "__defaults__", ("aot_eager",))
    monkeypatch.setattr(head, "_compiled", lambda function: function)
    torch._dynamo.reset()
    counters.clear()
    close(gradient(model_folder, groups), eager)
    n_graphs = counters["stats"]["unique_graphs"]
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    close(gradient(model_folder, [[0, 1, 2, 3, 4], *[[i] for i in range(5, N)]]), eager)
    assert counters["stats"]["unique_graphs"] == n_graphs > 0


@pytest.mark.parametrize("kept", [0, 100, 10**6])
def test_chunks_of_logits_change_nothing(model_folder, monkeypatch, kept) -> None:
    whole = gradient(model_folder, [list(range(N))])
    monkeypatch.setattr(head, "FEWEST_ROWS", 3)
    monkeypatch.setattr(head, "CHUNK_LOGITS", {"cpu": 100})  # three or four rows at a time
    monkeypatch.setattr(head, "KEPT_LOGITS", {"cpu": kept})
    close(gradient(model_folder, [list(range(N))]), whole)


def test_a_pass_is_the_same_through_any_micro_batch(model_folder, tmp_path) -> None:
    updates = [list(range(N)), [3, 1, 4, 5, 9, 2, 6]]
    one = run(tmp_path / "a", settings(tmp_path / "a", model_folder), updates)
    two = run(tmp_path / "b", settings(tmp_path / "b", model_folder, micro_batch_tokens=20), updates)
    assert one["slot"].to_pylist() == two["slot"].to_pylist() == [*range(N), *range(7)]
    for name in ("residual", "value_gap", "log_ratio", "target"):
        torch.testing.assert_close(
            torch.tensor(one[name].to_pylist()), torch.tensor(two[name].to_pylist()), rtol=1e-3, atol=1e-4
        )


def test_first_update_is_calibrated_and_says_its_target(model_folder, tmp_path) -> None:
    rows = run(tmp_path, settings(tmp_path, model_folder), [list(range(N))])
    # theta = ref: delta = -target = -(reward - 0.25) / 0.5, which is 0.5 for rows of reward 0 and -1.5 for the others.
    expected = [0.5 if row % 2 == 0 else -1.5 for row in range(N)]
    torch.testing.assert_close(torch.tensor(rows["residual"].to_pylist()), torch.tensor(expected), rtol=0, atol=1e-4)
    assert rows["target"].to_pylist() == [-value for value in expected]


def test_two_passes_are_one_pass_cut_in_two(model_folder, tmp_path) -> None:
    """Weights and moments carry from pass to pass, bit for bit; without the moments they would not."""
    updates = [list(range(N)), [0, 2, 5, 7], [1, 3, 11]]
    run(tmp_path / "whole", settings(tmp_path / "whole", model_folder), updates)
    first = settings(tmp_path / "first", model_folder)
    run(tmp_path / "first", first, updates[:1])
    # The reference stays the first policy, so its sums come from there.
    folder = tmp_path / "second"
    run(folder, settings(folder, model_folder), updates[1:])
    second = settings(folder, Path(first.policy_out), optimizer=first.optimizer_out)
    (folder / "pass.json").write_text(json.dumps(asdict(second)))
    Trainer().run_pass(folder)
    for name, expected in weights(tmp_path / "whole").items():
        assert torch.equal(weights(folder)[name], expected), name
    (folder / "pass.json").write_text(json.dumps(asdict(replace(second, optimizer=None))))
    Trainer().run_pass(folder)
    assert any(not torch.equal(weights(folder)[name], w) for name, w in weights(tmp_path / "whole").items())


def test_the_policy_is_an_ordinary_folder(model_folder, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(tmp_path, settings(tmp_path, model_folder), [[0, 1]])
    before, after = Path(model_folder), tmp_path / "policy"
    assert sorted(p.name for p in after.iterdir()) == sorted(p.name for p in before.iterdir())
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (after / name).read_bytes() == (before / name).read_bytes()
    assert AutoTokenizer.from_pretrained(after).decode([4, 5]) == "12"
    assert AutoModelForCausalLM.from_pretrained(after).config.tie_word_embeddings


def test_what_is_not_finite_stops_the_pass_by_name(model_folder, tmp_path) -> None:
    how = settings(tmp_path, model_folder)
    run(tmp_path, how, [[0, 1, 2]])
    table = pq.read_table(tmp_path / "rollouts.parquet")
    broken = [float("nan") if name == "t1" else 0.0 for name in table["trajectory_id"].to_pylist()]
    pq.write_table(table.set_column(3, "ref_logprob_sum", pa.array(broken)), tmp_path / "rollouts.parquet")
    before = weights(tmp_path)
    with pytest.raises(FloatingPointError, match="update 0, trajectory t1: log_ratio is nan"):
        Trainer().run_pass(tmp_path)
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path).items())


def test_empty_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([[1], [2]], [[3], []])


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_micro_batches_hold_every_row_once_within_the_budget(batching) -> None:
    n_tokens = [5, 9, 2, 2, 7, 30, 1, 9, 9, 2]
    groups = micro_batches(n_tokens, 18, batching)
    assert sorted(row for group in groups for row in group) == list(range(10))
    for group in groups:
        sizes = [n_tokens[row] for row in group]
        places = sum(sizes) if batching == "packed" else len(group) * max(sizes)
        assert len(group) == 1 or places <= 18
        assert places - sum(sizes) < 0.05 * places
    assert len(groups) < len(n_tokens)
