"""Log-probs, V and entropies from hidden states, and their gradients, against float64."""

import pytest
import torch
from torch import Tensor

from reval import head

N, D, V = 23, 16, 37
FIRST_B = torch.tensor([0, 5, 6, 20])
WEIGHT_N = torch.randn(N, generator=torch.Generator().manual_seed(1))
WEIGHT_B = torch.tensor([1.0, -2.0, 0.5, 3.0])


def given(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND, weight_VD = (torch.randn(n, D, generator=generator).to(dtype).requires_grad_() for n in (N, V))
    return hidden_ND, weight_VD, torch.randint(V, (N,), generator=generator)


def expected(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """The same in float64, from all logits."""
    logits_NV = hidden_ND.double() @ weight_VD.double().T / temperature
    logp_NV = logits_NV.log_softmax(-1)
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return logp_NV.gather(1, target_N[:, None])[:, 0], logits_NV.logsumexp(-1)[FIRST_B], entropy_N


def assert_close(scores: head.Scores, wanted: tuple[Tensor, ...]) -> None:
    for got, want in zip(scores, wanted, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=2e-6)


def gradients(given: tuple[Tensor, Tensor], *scored: tuple[Tensor, ...]) -> zip:
    """Of the hidden states and of the weight, under each of the scores."""
    return zip(*(torch.autograd.grad(loss(*scores[:2]), given) for scores in scored), strict=True)


def loss(logp_N: Tensor, value_B: Tensor) -> Tensor:
    """A loss whose gradient is different for every log-prob and every V."""
    return (WEIGHT_N * logp_N).sum() + (WEIGHT_B * value_B.square()).sum()


@pytest.mark.parametrize(("kept", "fused"), [(0, False), (200, False), (10**6, False), (10**6, True)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_against_float64(monkeypatch, temperature, kept, fused) -> None:
    """With probabilities computed again in backward, with some kept and with all; six rows in a chunk.

    Code that is compiled on a GPU runs uncompiled here.
    """
    monkeypatch.setattr(head, "_compiled", lambda function: function)
    monkeypatch.setattr(head, "FEWEST_ROWS", 3)
    monkeypatch.setattr(head, "CHUNK_LOGITS", {"cpu": 6 * V})
    monkeypatch.setattr(head, "KEPT_LOGITS", {"cpu": kept})
    hidden_ND, weight_VD, target_N = given(torch.float32)
    given_N = hidden_ND, weight_VD, target_N, FIRST_B
    scores = head.scores(*given_N, temperature=temperature, entropy=True, fused=fused)
    wanted = expected(hidden_ND, weight_VD, target_N, temperature)
    assert_close(scores, wanted)
    for got, want in gradients((hidden_ND, weight_VD), scores, wanted):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


def test_in_bfloat16_only_what_is_given_is_rounded(monkeypatch) -> None:
    """Against float64 on the same rounded numbers: rounding logits too would cost a hundredth of a nat."""
    monkeypatch.setattr(head, "KEPT_LOGITS", {"cpu": 0})
    hidden_ND, weight_VD, target_N = given(torch.bfloat16)
    scores = head.scores(hidden_ND, weight_VD, target_N, FIRST_B, entropy=True)
    wanted = expected(hidden_ND, weight_VD, target_N, 1.0)
    assert_close(scores, wanted)
    # Their gradient is computed from probabilities rounded to 8 binary digits, as their matrix products are.
    for got, want in gradients((hidden_ND, weight_VD), scores, wanted):
        assert (got.double() - want.double()).norm() < 2**-7 * want.double().norm()


def test_v_alone_has_the_gradient_of_a_logsumexp() -> None:
    # dV/d logits = softmax: it reaches hidden states of first tokens only, and is the mean of the weight's rows there.
    hidden_ND, weight_VD, target_N = given(torch.float32)
    scores = head.scores(hidden_ND, weight_VD, target_N, FIRST_B)
    assert scores.entropy_N.numel() == 0
    (gradient_ND,) = torch.autograd.grad(scores.value_B.sum(), hidden_ND)
    mean_BD = (hidden_ND[FIRST_B] @ weight_VD.T).softmax(-1) @ weight_VD
    torch.testing.assert_close(gradient_ND, torch.zeros_like(hidden_ND).index_copy(0, FIRST_B, mean_BD))
