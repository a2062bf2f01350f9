"""Every loss: numbers worked out by hand, and passes of the real trainer against float64 from whole logits."""

import math
import statistics
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reval.bellman import Sample
from reval.model import load
from reval.objectives import objective
from reval.trainer import Trainer
from tests.helpers.archives import random_model
from tests.helpers.passes import BETA, HIGH, LOW, gradients, run_rows, sample

OBJECTIVES = ("reval", "tbrm", "grpo", "reinforce", "tba")


def terms(name: str, given: Sample):
    return objective(name, clip_low=LOW, clip_high=HIGH).terms(given)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Two trajectories of a prompt, rewards 1 and 0, baseline 0.25, beta = 0.5:
#   log-ratios   -3 + 4 = 1      and -5 + 4.5 = -0.5
#   value gaps   2.5 - 1.5 = 1   and 1 - 1.25 = -0.25
#   targets      0.75/0.5 = 1.5  and -0.25/0.5 = -0.5
#   centre       mean of 1 - 1/0.5 = -1 and -0.5 - 0 = -0.5:  -0.75
TWO = {
    "logp_sum_B": doubles(-3, -5),
    "value_B": doubles(2.5, 1),
    "ref_logp_sum_B": doubles(-4, -4.5),
    "ref_value_B": doubles(1.5, 1.25),
    "target_B": doubles(1.5, -0.5),
    "advantage_B": doubles(0.75, -0.25),
    "centre_B": doubles(-0.75, -0.75),
    "raw_B": doubles(2, 0),
}


@pytest.mark.parametrize(
    ("name", "value_gap", "residual", "loss"),
    [
        # 1 + 1 - 1.5 = 0.5; -0.25 - 0.5 + 0.5 = -0.25; squared
        ("reval", (1, -0.25), (0.5, -0.25), (0.25, 0.0625)),
        # V itself: 2.5 + 1 - 1.5 = 2; 1 - 0.5 + 0.5 = 1
        ("tbrm", (2.5, 1), (2, 1), (4, 1)),
        # log Z = 0.75 and the raw reward: 0.75 + 1 - 2 = -0.25; 0.75 - 0.5 - 0 = 0.25
        ("tba", (0.75, 0.75), (-0.25, 0.25), (0.0625, 0.0625)),
        # -0.75 * -3 = 2.25; 0.25 * -5 = -1.25; what it says of the residual is Eq. 2's
        ("reinforce", (1, -0.25), (0.5, -0.25), (2.25, -1.25)),
    ],
)
def test_worked_numbers(name, value_gap, residual, loss) -> None:
    found = terms(name, sample(2, **TWO))
    assert found.value_gap_B.tolist() == list(value_gap)
    assert found.log_ratio_B.tolist() == [1, -0.5]
    assert found.residual_B.tolist() == list(residual)
    assert found.loss_B.tolist() == list(loss)
    assert found.clipped_share_B is None
    torch.testing.assert_close(found.residual_B, found.value_gap_B + found.log_ratio_B - found.target_B)


def test_worked_numbers_of_grpo() -> None:
    # A = (reward - baseline) / (deviation + 0.0001), ratios clipped to 0.8 ... 1.28; of |τ| tokens:
    #   τ0  A = 0.5/0.5 = 1    ratios 1.5, 0.5, 1.1: min(1.5, 1.28), min(0.5, 0.8), 1.1: -(1.28 + 0.5 + 1.1)/3 = -0.96
    #   τ1  A = -0.5/0.5 = -1  ratios 1.5, 0.5: min(-1.5, -1.28), min(-0.5, -0.8): (1.5 + 0.8)/2 = 1.15
    #   τ2  a group of one: A = 0/0.0001 = 0, whatever the ratio
    #   τ3  A = 0.3/0.15 = 2   ratio 1: -2
    # Cut are 1.5 where A > 0 and 0.5 where A < 0, so 1/3, 1/2, 0 and 0 of the tokens. The gradient by log π is
    # -A·ratio/|τ|, and none where it is cut.
    ratio_N = torch.tensor([1.5, 0.5, 1.1, 1.5, 0.5, 3.0, 1.0])
    logp_N = torch.tensor([-1.0, -2.0, -0.5, -1.5, -3.0, -1.0, -0.1], requires_grad=True)
    given = sample(
        4,
        logp_N=logp_N,
        behaviour_N=logp_N.detach() - ratio_N.log(),
        row_N=torch.tensor([0, 0, 0, 1, 1, 2, 3]),
        advantage_B=doubles(0.5, -0.5, 0, 0.3),
        deviation_B=doubles(0.4999, 0.4999, 0, 0.1499),
    )
    found = terms("grpo", given)
    torch.testing.assert_close(found.loss_B, doubles(-0.96, 1.15, 0, -2), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.clipped_share_B, doubles(1 / 3, 1 / 2, 0, 0))
    found.loss_B.sum().backward()
    expected = torch.tensor([0, -0.5 / 3, -1.1 / 3, 1.5 / 2, 0, 0, -2.0])
    torch.testing.assert_close(logp_N.grad, expected, rtol=1e-5, atol=0)


def test_a_group_of_one_reward_teaches_grpo_and_reinforce_nothing() -> None:
    logp_N = torch.tensor([-1.0, -2.0], requires_grad=True)
    given = sample(2, logp_N=logp_N, logp_sum_B=logp_N.double(), behaviour_N=torch.tensor([-3.0, -0.5]))
    for name in ("grpo", "reinforce"):
        logp_N.grad = None
        found = terms(name, given)
        found.loss_B.sum().backward(retain_graph=True)
        assert found.loss_B.tolist() == logp_N.grad.tolist() == [0, 0], name


@pytest.mark.parametrize(("weights", "same"), [((2.0, 2.0, 2.0), True), ((1.0, 2.0, 1.0), False)])
def test_a_centre_over_rows_of_one_weight_needs_no_gradient(weights, same) -> None:
    # d/dc Σ w (x - c)² = -2 Σ w (x - c), which is zero for the mean c if all weights are one number.
    def gradient(attached: bool) -> Tensor:
        ratio_B = doubles(0.3, -1.2, 0.7).requires_grad_()
        centre = ratio_B.mean() if attached else ratio_B.mean().detach()
        given = sample(3, logp_sum_B=ratio_B, centre_B=centre.expand(3))
        (terms("tba", given).loss_B * doubles(*weights)).sum().backward()
        return ratio_B.grad

    assert torch.allclose(gradient(True), gradient(False), rtol=0, atol=1e-12) == same


# Passes of the trainer: four prompts, their groups of 5, 4, 2 and 1, made by policies that are not the one trained.
PROMPTS = [[3, 4, 13, 5], [6, 7], [8, 14, 9, 3, 5, 6], [11, 12, 4]]
PROMPT_OF = [0, 1, 0, 2, 0, 1, 0, 3, 1, 0, 2, 1]
N = len(PROMPT_OF)
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]  # the third group's are alike
WEIGHTS = [0.5 + 0.25 * (row % 5) for row in range(N)]


def group(row: int) -> list[float]:
    return [REWARDS[other] for other in range(N) if PROMPT_OF[other] == PROMPT_OF[row]]


def deviation(row: int) -> float:
    return statistics.stdev(group(row)) if len(group(row)) > 1 else 0.0


def responses() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 12, (N,), generator=generator).tolist()
    return [torch.randint(3, 17, (n,), generator=generator).tolist() for n in lengths]


def walk(model, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """log π of a trajectory's tokens, V(s₁) and its mean entropy, by itself, from all logits of a float64 model."""
    prompt, response = PROMPTS[PROMPT_OF[row]], responses()[row]
    logits_TV = model(torch.tensor([prompt + response])).logits[0][len(prompt) - 1 : -1]
    logp_TV = logits_TV.log_softmax(-1)
    logp_T = torch.stack([logp_TV[t, token] for t, token in enumerate(response)])
    return logp_T, logits_TV[0].logsumexp(0), -(logp_TV.exp() * logp_TV).sum(-1).mean()


@pytest.fixture(scope="module")
def made(model_folder, tmp_path_factory) -> SimpleNamespace:
    """The rollouts of those passes, and the reference's log-probs and values as numbers."""
    folder = random_model(tmp_path_factory.mktemp("ref"), seed=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        theta, ref = (load(str(path), torch.device("cpu")).double() for path in (model_folder, folder))
        under = [walk(ref, row) for row in range(N)]
        logps = [walk(theta, row)[0] for row in range(N)]
    behaviour = [logp_T + 0.4 * torch.randn(len(logp_T), generator=generator) for logp_T in logps]
    table = pa.table(
        {
            "trajectory_id": [f"t{row}" for row in range(N)],
            "prompt_id": [f"p{prompt}" for prompt in PROMPT_OF],
            "prompt_token_ids": [PROMPTS[prompt] for prompt in PROMPT_OF],
            "response_token_ids": responses(),
            "behaviour_logprobs": pa.array([part.tolist() for part in behaviour], pa.list_(pa.float32())),
            "ref_logprob_sum": [float(logp_T.sum()) for logp_T, _, _ in under],
            "ref_value": [float(value) for _, value, _ in under],
        }
    )
    return SimpleNamespace(table=table, behaviour=[part.float().double() for part in behaviour])


def draws(updates: list[list[int]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                **{"update": update, "slot": slot, "trajectory_id": f"t{row}", "weight": WEIGHTS[row]},
                **{"reward": REWARDS[row], "baseline": statistics.mean(group(row)), "deviation": deviation(row)},
            }
            for update, rows in enumerate(updates)
            for slot, row in enumerate(rows)
        ]
    )


def float64(name: str, theta, made: SimpleNamespace) -> list[tuple[Tensor, dict[str, float]]]:
    """The loss of every row, and what `updates` says of it, written out from the formulas."""
    seen = [walk(theta, row) for row in range(N)]
    ref_sums, ref_values = (made.table[column].to_pylist() for column in ("ref_logprob_sum", "ref_value"))
    ratios = [logp_T.sum() - ref_sum for (logp_T, _, _), ref_sum in zip(seen, ref_sums, strict=True)]
    rows = []
    for row, (logp_T, value, entropy) in enumerate(seen):
        advantage = REWARDS[row] - statistics.mean(group(row))
        target, value_gap, clipped = advantage / BETA, value - ref_values[row], math.nan
        if name == "tbrm":
            value_gap = value
        elif name == "tba":
            alike = [ratios[other] - REWARDS[other] / BETA for other in range(N) if PROMPT_OF[other] == PROMPT_OF[row]]
            target, value_gap = REWARDS[row] / BETA, -torch.stack(alike).mean().detach()
        residual = value_gap + ratios[row] - target
        loss = residual**2
        if name == "reinforce":
            loss = -advantage * logp_T.sum()
        elif name == "grpo":
            a = advantage / (deviation(row) + 1e-4)
            ratio_T = (logp_T - made.behaviour[row]).exp()
            loss = -(a * (ratio_T.clamp(max=1 + HIGH) if a > 0 else ratio_T.clamp(min=1 - LOW))).mean()
            clipped = ((ratio_T > 1 + HIGH) if a > 0 else (ratio_T < 1 - LOW) & (a < 0)).double().mean().item()
        parts = {"residual": residual.item(), "value_gap": value_gap.item(), "log_ratio": ratios[row].item()}
        rows.append((loss, {**parts, "target": target, "entropy": entropy.item(), "clipped_share": clipped}))
    return rows


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_pass_against_float64(name, model_folder, made, tmp_path) -> None:
    found = run_rows(tmp_path, model_folder, made.table, draws([list(range(N))]), objective=name)
    theta = load(str(model_folder), torch.device("cpu")).double()
    expected = float64(name, theta, made)
    for column in expected[0][1]:
        wanted = doubles(*(row[column] for _, row in expected))
        got = doubles(*(math.nan if row[column] is None else row[column] for row in found))
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-5, equal_nan=True, msg=column)
    if name == "grpo":
        shares = [row["clipped_share"] for row in found]
        assert 0 in shares
        assert sum(share > 0 for share in shares) > 3
    loss = sum(weight * row_loss for weight, (row_loss, _) in zip(WEIGHTS, expected, strict=True)) / N
    loss.backward()
    step = pq.read_table(tmp_path / "steps.parquet").to_pylist()[0]
    assert step["loss"] == pytest.approx(loss.item(), rel=1e-5)
    got, scale = gradients(tmp_path), max(float(weight.grad.abs().max()) for weight in theta.parameters())
    norm = math.sqrt(sum(float(weight.grad.square().sum()) for weight in theta.parameters()))
    assert step["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for key, weight in theta.named_parameters():
        torch.testing.assert_close(got[key].double(), weight.grad, rtol=1e-4, atol=1e-5 * scale, msg=key)


def test_tba_centres_over_the_rows_of_an_update_that_answer_a_prompt(model_folder, made, tmp_path) -> None:
    # Nothing moves (learning rate 0), and Σ log π_ref is given such that the log-ratios are, nat for nat,
    #   t0 1, t2 -2, t4 0.5, t6 0 (prompt 0),   t1 0.25, t5 -0.75 (prompt 1),   t7 3 (prompt 3, which it alone answers),
    # as those of rows of other policies may be. reward/β: 2, 0, 1, 0; 0, 2; 2. So log-ratio - reward/β is
    #   -1, -2, -0.5, 0;   0.25, -2.75;   1
    # Update 0 has t0, t1, t2, t5, t7:      centres -1.5; -1.25; 1.  residuals 0.5, 1.5, -0.5, -1.5, 0
    # Update 1 has t0, t4, t6 of prompt 0:  centre -0.5, for it does not look beyond its rows. residuals -0.5, 0, 0.5
    log_ratios = {0: 1.0, 2: -2.0, 4: 0.5, 6: 0.0, 1: 0.25, 5: -0.75, 7: 3.0}
    own = Trainer().forward(str(model_folder), made.table, device="cpu", micro_batch_tokens=64)["logprob_sum"].to_pylist()
    sums = pa.array([own[row] - log_ratios.get(row, 0.0) for row in range(N)])
    at = made.table.column_names.index("ref_logprob_sum")
    table = made.table.set_column(at, "ref_logprob_sum", sums)
    drawn = draws([[0, 1, 2, 5, 7], [0, 4, 6]])
    found = run_rows(tmp_path, model_folder, table, drawn, objective="tba", learning_rate=0.0, micro_batch_tokens=16)
    assert [row["target"] for row in found] == [2, 0, 0, 2, 2, 2, 1, 0]
    residuals, values = (doubles(*(row[name] for row in found)) for name in ("residual", "value_gap"))
    torch.testing.assert_close(residuals, doubles(0.5, 1.5, -0.5, -1.5, 0, -0.5, 0, 0.5), rtol=0, atol=1e-4)
    torch.testing.assert_close(values, doubles(1.5, 1.25, 1.5, 1.25, -1, 0.5, 0.5, 0.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["ref_logprob_sum", "ref_value", "behaviour_logprobs"])
def test_a_number_that_is_not_finite_stops_the_pass_by_name(model_folder, made, tmp_path, column, value) -> None:
    """For positive and negative advantages, because clipping would make a ratio of 0 or infinity a finite loss."""
    at = made.table.column_names.index(column)
    for row in (0, 2):  # advantages above and below zero
        values = made.table[column].to_pylist()
        values[row] = [*values[row][:-1], value] if column == "behaviour_logprobs" else value
        table = made.table.set_column(at, column, pa.array(values, made.table[column].type))
        with pytest.raises(FloatingPointError, match=rf"^update 0, trajectory t{row}: (log_ratio|residual|loss) is "):
            run_rows(tmp_path, model_folder, table, draws([list(range(N))]), objective="grpo")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["draws.parquet", "pass.json", "rollouts.parquet"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_weight_that_is_not_finite_stops_the_pass_by_name(made, tmp_path, name) -> None:
    folder = random_model(tmp_path / "broken", seed=1)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][16] = math.nan  # what stands before token 16 is not touched
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    first = next(row for row in range(N) if 16 in responses()[row][:-1])
    (tmp_path / "pass").mkdir()
    with pytest.raises(FloatingPointError, match=f"^update 0, trajectory t{first}: "):
        run_rows(tmp_path / "pass", folder, made.table, draws([list(range(N))]), objective=name)
    assert len(list((tmp_path / "pass").iterdir())) == 3
