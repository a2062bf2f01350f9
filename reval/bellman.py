"""Eq. 2 of ReVal (arXiv 2603.23355), on sums that are already taken. Pure tensors.

Shapes live in names: B trajectories. All quantities are in nats.

    δ(τ) = [V_θ(s₁) − V_ref(s₁)] + Σ_h [log π_θ(a_h|s_h) − log π_ref(a_h|s_h)] − target(τ)
    L    = mean over trajectories of δ²

where s₁ is the prompt, V the logsumexp of the logits at the last prompt position, the sum runs over response tokens
with end-of-sequence, and target = (reward − baseline) / β. The language model's logits are Q_θ; there is no critic.

Two consequences, both tests: at θ = ref with target 0, δ = 0 for every trajectory (Prop. 2); and since
V_θ(s₁) + log π_θ(a₁|s₁) is the raw logit of a₁, adding a constant to all logits at s₁ moves δ by that constant.
V_θ is not detached: the gradient flows through both terms. The paper's printed gradient drops the first.
"""

from typing import NamedTuple

from torch import Tensor


class Sums(NamedTuple):
    """What a residual is made of, one entry per trajectory."""

    logp_sum_B: Tensor  # Σ_h log π_θ(a_h|s_h), carries gradient
    value_B: Tensor  # V_θ(s₁), carries gradient
    ref_logp_sum_B: Tensor  # Σ_h log π_ref(a_h|s_h)
    ref_value_B: Tensor  # V_ref(s₁)
    target_B: Tensor  # (reward − baseline) / β


class Residual(NamedTuple):
    """δ and the three parts it is the sum of: residual = value_gap + log_ratio − target."""

    residual_B: Tensor
    value_gap_B: Tensor
    log_ratio_B: Tensor
    target_B: Tensor


def reval(sums: Sums) -> Residual:
    """Eq. 2: δ with the potential −V_ref, which makes the start calibrated."""
    return compose(sums, value_gap_B=sums.value_B - sums.ref_value_B)


def compose(sums: Sums, value_gap_B: Tensor) -> Residual:
    """δ for a given value term; the log-ratio and the target are common to Eq. 2 and its relatives."""
    log_ratio_B = sums.logp_sum_B - sums.ref_logp_sum_B
    return Residual(value_gap_B + log_ratio_B - sums.target_B, value_gap_B, log_ratio_B, sums.target_B)


def loss(residual_B: Tensor, weight_B: Tensor, n_trajectories: int) -> Tensor:
    """Σ weight·δ² / n_trajectories, a scalar.

    `n_trajectories` is the size of the whole update, of which these B may be a part: the losses of the parts add up to
    the loss of the update, however it was cut.
    """
    return (weight_B * residual_B.square()).sum() / n_trajectories
