"""The losses by name. Each takes a sample of an update and returns the loss of each trajectory (bellman.py).

Shapes live in names: B trajectories, N response tokens of all B together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reval import bellman
from reval.bellman import LossTerms, Sample

# Avoids a division by zero for a group whose rewards are all equal (as in the code of arXiv 2402.03300 and in TRL).
EPSILON = 1e-4


def tbrm(sample: Sample) -> LossTerms:
    """TBRM (arXiv 2505.15311): Eq. 2 without V_ref. `value_gap` is V_θ(s₁) itself, so it is not zero at θ = ref."""
    return bellman.squared(sample, sample.value_B, sample.target_B)


def tba(sample: Sample) -> LossTerms:
    """Asynchronous trajectory balance (TBA, arXiv 2503.18929, VarGrad form): a prompt's rows estimate its log Z(s₁).

        log Ẑ = mean over the prompt's rows of [reward/β − log-ratio],   loss = (log-ratio − reward/β + log Ẑ)²

    The mean is over the rows of the update that answer the same prompt, from any policy. It carries no gradient: over
    rows of equal weight that gradient sums to zero. The only row of a prompt has residual 0. `value_gap` is log Ẑ.
    """
    return bellman.squared(sample, -sample.centre_B, sample.raw_B)


def reinforce(sample: Sample) -> LossTerms:
    """REINFORCE (Williams 1992) with the group's mean as baseline: −(reward − baseline) · Σ_h log π_θ(a_h|s_h)."""
    diagnosed = bellman.reval(sample)
    return diagnosed._replace(loss_B=-sample.advantage_B * sample.logp_sum_B)


def grpo(sample: Sample, *, clip_low: float, clip_high: float) -> LossTerms:
    """GRPO (arXiv 2402.03300, Eq. 3) without a KL term, clipped above and below as DAPO does (arXiv 2503.14476):

        A    = (reward − baseline) / (deviation + 1e-4)
        ρ_h  = π_θ(a_h|s_h) / π_behaviour(a_h|s_h)
        loss = −1/|τ| Σ_h min(ρ_h A, clip(ρ_h, 1 − clip_low, 1 + clip_high) A)

    π_behaviour is the engine's probability when it sampled a token. `clipped_share` counts tokens whose gradient is cut.
    """
    advantage_B = sample.advantage_B / (sample.deviation_B + EPSILON)
    advantage_N = advantage_B[sample.row_N]
    ratio_N = (sample.logp_N - sample.behaviour_N).double().exp()
    ratio_N = ratio_N.where(sample.behaviour_N.isfinite(), torch.nan)  # clipping would make an infinite ratio finite
    plain_N = ratio_N * advantage_N
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantage_N
    n_tokens_B = torch.bincount(sample.row_N, minlength=len(advantage_B))

    def mean(part_N: Tensor) -> Tensor:
        return torch.zeros_like(advantage_B).index_add(0, sample.row_N, part_N) / n_tokens_B

    return bellman.reval(sample)._replace(
        loss_B=-mean(torch.minimum(plain_N, clipped_N)), clipped_share_B=mean((clipped_N < plain_N).double())
    )


@dataclass(frozen=True)
class Objective:
    """`centres`: it needs `Sample.centre_B`, and so the whole update is scored once before training."""

    terms: Callable[[Sample], LossTerms]
    centres: bool = False


def objective(name: str, *, clip_low: float, clip_high: float) -> Objective:
    """An objective by its name in a recipe."""
    return {
        "reval": Objective(bellman.reval),
        "tbrm": Objective(tbrm),
        "tba": Objective(tba, centres=True),
        "reinforce": Objective(reinforce),
        "grpo": Objective(partial(grpo, clip_low=clip_low, clip_high=clip_high)),
    }[name]
