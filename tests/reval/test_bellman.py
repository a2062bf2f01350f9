"""Eq. 2: numbers worked out by hand, a float64 reference from whole logits, and its two properties."""

import torch

from reval import bellman
from reval.batch import collate
from reval.bellman import LossTerms
from reval.model import load, policy, sum_by_trajectory
from reval.objectives import objective, tbrm
from tests.helpers.passes import sample

PROMPTS = [[3, 4, 13, 5], [6, 7], [8, 14, 9, 3, 5, 6]]
RESPONSES = [[15, 4, 1], [3, 3, 7, 9, 1], [5]]


def test_worked_numbers() -> None:
    # One prompt, a vocabulary of two, one response token a=0, beta = 0.5, reward 1, baseline 0.25.
    #   theta's logits (1, 0):  V = ln(e + 1) = 1.3132617,  log pi(a) = 1 - V = -0.3132617
    #   ref's logits   (0, 0):  V = ln 2      = 0.6931472,  log pi(a) = -0.6931472
    #   delta = (1.3132617 - 0.6931472) + (-0.3132617 + 0.6931472) - 0.75/0.5
    #         = 0.6201145 + 0.3798855 - 1.5 = -0.5
    # and since V + log pi(a1) is the raw logit of a1: delta = 1 - 0 - 1.5.
    logits, ref = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    given = sample(
        1,
        logp_sum_B=logits.log_softmax(0)[:1],
        value_B=logits.logsumexp(0)[None],
        ref_logp_sum_B=ref.log_softmax(0)[:1],
        ref_value_B=ref.logsumexp(0)[None],
        target_B=torch.tensor([1.5]),
    )
    terms = bellman.reval(given)
    torch.testing.assert_close(terms.value_gap_B, torch.tensor([0.6201145]))
    torch.testing.assert_close(terms.log_ratio_B, torch.tensor([0.3798855]))
    torch.testing.assert_close(terms.residual_B, torch.tensor([-0.5]))
    torch.testing.assert_close(terms.loss_B, torch.tensor([0.25]))
    # TBRM leaves out V_ref: delta = 1.3132617 + 0.3798855 - 1.5 = 0.1931472.
    torch.testing.assert_close(tbrm(given).residual_B, torch.tensor([0.1931472]))


def test_loss_of_the_parts_adds_up() -> None:
    # losses (1, 4, 9), weights (1, 0.5, 2): (1 + 0.5*4 + 2*9) / 3 = 7.
    losses, weight = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([1.0, 0.5, 2.0])
    assert bellman.loss(losses, weight, 3).item() == 7.0
    parts = bellman.loss(losses[:1], weight[:1], 3) + bellman.loss(losses[1:], weight[1:], 3)
    torch.testing.assert_close(parts, torch.tensor(7.0))


def float64_sums(model, prompt: list[int], response: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ log π and V(s₁) of one trajectory by itself, from all logits in float64."""
    logits_TV = model(torch.tensor([prompt + response])).logits[0]
    logp_TV = logits_TV.log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return sum(logp_TV[t, token] for t, token in zip(at, response, strict=True)), logits_TV[len(prompt) - 1].logsumexp(-1)


def terms(model, ref, target_B: torch.Tensor, name: str = "reval") -> LossTerms:
    batch = collate(PROMPTS, RESPONSES)
    scores = model(batch)
    with torch.no_grad():
        ref_scores = ref(batch)
    return objective(name, clip_low=0.2, clip_high=0.2).terms(
        sample(
            3,
            logp_N=scores.logp_N,
            row_N=batch.row_N,
            logp_sum_B=sum_by_trajectory(scores.logp_N, batch),
            value_B=scores.value_B.double(),
            ref_logp_sum_B=sum_by_trajectory(ref_scores.logp_N, batch),
            ref_value_B=ref_scores.value_B.double(),
            target_B=target_B,
        )
    )


def test_against_float64(model_folder, tmp_path) -> None:
    from tests.helpers.archives import random_model

    folders = str(model_folder), str(random_model(tmp_path / "ref", seed=2))
    trained, before = (policy(folder, torch.device("cpu")) for folder in folders)
    target_B = torch.tensor([0.7, -0.3, 0.0], dtype=torch.float64)
    ours = terms(trained, before, target_B)
    bellman.loss(ours.loss_B, torch.ones(3), 3).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in trained.model.named_parameters()}

    theta, ref = (load(folder, torch.device("cpu")).double() for folder in folders)
    expected = []
    for prompt, response, target in zip(PROMPTS, RESPONSES, target_B, strict=True):
        logp, value = float64_sums(theta, prompt, response)
        with torch.no_grad():
            ref_logp, ref_value = float64_sums(ref, prompt, response)
        expected.append(value - ref_value + logp - ref_logp - target)
    torch.stack(expected).square().mean().backward()
    torch.testing.assert_close(ours.residual_B, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert ours.residual_B.abs().min() > 0.1, "the two models are too alike to tell anything"
    for name, parameter in theta.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(gradients[name].double(), parameter.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_calibrated_start(model_folder) -> None:
    """Prop. 2: at θ = ref, with target 0, δ is exactly 0 for every trajectory; TBRM's is not."""
    model = policy(str(model_folder), torch.device("cpu"))
    zeros = torch.zeros(3, dtype=torch.float64)
    assert terms(model, model, zeros).residual_B.tolist() == [0.0, 0.0, 0.0]
    assert terms(model, model, zeros, "tbrm").residual_B.abs().min() > 1.0


def test_gradient_flows_through_the_value() -> None:
    # d delta / d logits of the first step: V + log pi(a1) is the raw logit of a1, so it is one-hot at a1.
    logits = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    given = sample(1, logp_sum_B=logits.log_softmax(0)[1:2], value_B=logits.logsumexp(0)[None])
    bellman.reval(given).residual_B.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.0, 1.0, 0.0]))
