"""The residual and the loss of ReVal (arXiv 2603.23355, Eq. 2), from sums over tokens. Pure tensors.

Shapes live in names: B trajectories, N response tokens of all B together. All quantities are in nats.

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


class Sample(NamedTuple):
    """The inputs of an objective. Only those computed from θ carry gradient: logp_N, logp_sum_B and value_B."""

    logp_N: Tensor  # log π_θ(a_h|s_h) of each response token, float32
    behaviour_N: Tensor  # the same under the policy that generated it, from its engine, float32
    row_N: Tensor  # which of the B trajectories a token belongs to
    logp_sum_B: Tensor  # Σ_h log π_θ(a_h|s_h), float64 like all fields below
    value_B: Tensor  # V_θ(s₁)
    ref_logp_sum_B: Tensor  # Σ_h log π_ref(a_h|s_h)
    ref_value_B: Tensor  # V_ref(s₁)
    target_B: Tensor  # (reward − baseline) / β
    advantage_B: Tensor  # reward − baseline
    deviation_B: Tensor  # standard deviation of the rewards of its group
    centre_B: (
        Tensor  # mean of log-ratio − reward / β over its prompt's rows of the update; 0 but for objectives that centre
    )
    raw_B: Tensor  # reward / β


class LossTerms(NamedTuple):
    """The results of an objective for B trajectories: the loss of each, the parts of δ in Eq. 2, and the share clipped.

    For every objective residual = value_gap + log_ratio − target, unless its own docstring says otherwise.
    """

    loss_B: Tensor
    residual_B: Tensor
    value_gap_B: Tensor
    log_ratio_B: Tensor
    target_B: Tensor
    clipped_share_B: Tensor | None = None  # share of the response tokens; None: the objective does not clip


def reval(sample: Sample) -> LossTerms:
    """Eq. 2: δ with the potential −V_ref, which makes the start calibrated."""
    return squared(sample, sample.value_B - sample.ref_value_B, sample.target_B)


def squared(sample: Sample, value_gap_B: Tensor, target_B: Tensor) -> LossTerms:
    """δ² for a given value term and target. Eq. 2 and the losses related to it share the log-ratio."""
    log_ratio_B = sample.logp_sum_B - sample.ref_logp_sum_B
    residual_B = value_gap_B + log_ratio_B - target_B
    return LossTerms(residual_B.square(), residual_B, value_gap_B, log_ratio_B, target_B)


def loss(loss_B: Tensor, weight_B: Tensor, n_trajectories: int) -> Tensor:
    """Σ weight·loss / n_trajectories, a scalar.

    `n_trajectories` is the size of the whole update, and these B may be only a part of it. The losses of the parts add up
    to the loss of the update, however it was split.
    """
    return (weight_B * loss_B).sum() / n_trajectories
