"""Log-probs of given tokens and V(s₁) from hidden states; logits exist for only a few rows at a time.

The backward pass computes a chunk's logits again, except for as many rows as may be kept. Logits, logsumexp and sums are
float32 for every type of weights. V of a trajectory is the logsumexp that its first token's log-prob needs anyway.
With `fused`, the operations on logits are compiled: a GPU spends most of their time on reading logits, and reads them
less often then.

Shapes live in names: N response tokens, C of them in a chunk, D hidden units, V vocabulary, B trajectories.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reval.limits import CHUNK_LOGITS, FEWEST_ROWS, KEPT_LOGITS


class Scores(NamedTuple):
    logp_N: Tensor  # log π(a_h|s_h) of each response token, float32, carries gradient
    value_B: Tensor  # V(s₁) of each trajectory, float32, carries gradient
    entropy_N: Tensor  # entropy of π(·|s_h), in nats, float32; empty if `entropy` is False


def scores(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    first_B: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    fused: bool = False,
) -> Scores:
    """Scores of tokens under softmax(hidden · weightᵀ / temperature).

    Matrix products are in the type of `hidden_ND`; the weight's gradient is in the type of the weight.

    Args:
        first_B: the rows, of the N, for which V is computed.
        fused: whether to compile; not on a CPU.
    """
    return Scores(*_Scores.apply(hidden_ND, weight_VD, target_N, first_B, temperature, entropy, fused))


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


def _of_logits(logits_CV: Tensor, target_C1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The target's logit, the logsumexp and the entropy of each row."""
    most_C1 = logits_CV.amax(1, keepdim=True)
    below_CV = logits_CV - most_C1
    p_CV = below_CV.exp()
    sum_C = p_CV.sum(1)
    log_C = sum_C.log()
    return logits_CV.gather(1, target_C1)[:, 0], most_C1[:, 0] + log_C, log_C - (p_CV * below_CV).sum(1) / sum_C


def _gradient(
    logits_CV: Tensor, lse_C1: Tensor, share_C1: Tensor, onehot_C1: Tensor, target_C1: Tensor, dtype: torch.dtype
) -> Tensor:
    """share · p, plus onehot at the target."""
    is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == target_C1
    return ((logits_CV - lse_C1).exp() * share_C1 + torch.where(is_target_CV, onehot_C1, 0.0)).to(dtype)


def _gradient_(p_CV: Tensor, share_C1: Tensor, onehot_C1: Tensor, target_C1: Tensor) -> Tensor:
    """The same from probabilities, in place."""
    p_CV *= share_C1
    return p_CV.scatter_add_(1, target_C1, onehot_C1)


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left · right in float32. A GPU sums in float32 anyway; a CPU would round to the type of the factors."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    left, right = left.float(), right.float()
    return torch.mm(left, right) if out is None else torch.mm(left, right, out=out)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        first_B: Tensor,
        temperature: float,
        entropy: bool,
        fused: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, n_vocabulary, device = len(target_N), len(weight_VD), hidden_ND.device.type
        chunk = max(FEWEST_ROWS, CHUNK_LOGITS[device] // n_vocabulary)
        n_kept = min(n, KEPT_LOGITS[device] // n_vocabulary) if any(ctx.needs_input_grad) and not fused else 0
        weight_DV = weight_VD.to(hidden_ND.dtype).T
        logp_N, lse_N = (hidden_ND.new_empty(n, dtype=torch.float32) for _ in range(2))
        entropy_N = torch.empty_like(lse_N if entropy else lse_N[:0])
        kept = hidden_ND.new_empty(n_kept, n_vocabulary, dtype=torch.float32)
        for rows in _chunks(n, n_kept, chunk):
            logits_CV = _product(hidden_ND[rows], weight_DV)
            if temperature != 1:
                logits_CV /= temperature
            target_C1 = target_N[rows, None]
            if fused:
                logp_N[rows], lse_N[rows], entropy_C = _compiled(_of_logits)(logits_CV, target_C1)
                if entropy:
                    entropy_N[rows] = entropy_C
                continue
            logp_N[rows] = logits_CV.gather(1, target_C1)[:, 0]
            most_C1 = logits_CV.amax(1, keepdim=True)
            logits_CV -= most_C1
            p_CV = torch.exp(logits_CV, out=kept[rows]) if rows.stop <= n_kept else logits_CV.exp()
            sum_C = p_CV.sum(1)
            log_C = sum_C.log()
            lse_N[rows] = most_C1[:, 0] + log_C
            if entropy:
                entropy_N[rows] = log_C - torch.linalg.vecdot(p_CV, logits_CV) / sum_C
            if rows.stop <= n_kept:
                p_CV /= sum_C[:, None]
        logp_N -= lse_N
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, first_B, lse_N, kept)
        ctx.temperature, ctx.chunk, ctx.fused = temperature, chunk, fused
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, lse_N[first_B], entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """d log π(a)/d logits = onehot(a) − p and dV/d logits = p, so a row's gradient is g·onehot + (v − g)·p."""
        grad_logp_N, grad_value_B, _ = gradients
        hidden_ND, weight_VD, target_N, first_B, lse_N, kept = ctx.saved_tensors
        weight = weight_VD.to(hidden_ND.dtype)
        share_N = (-grad_logp_N).index_add(0, first_B, grad_value_B) / ctx.temperature
        onehot_N = grad_logp_N / ctx.temperature
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(target_N), len(kept), ctx.chunk):
            of_row = share_N[rows, None], onehot_N[rows, None], target_N[rows, None]
            if rows.stop <= len(kept):
                grad_CV = _gradient_(kept[rows], *of_row)
            else:
                logits_CV = _product(hidden_ND[rows], weight.T)
                if ctx.temperature != 1:
                    logits_CV /= ctx.temperature
                if ctx.fused:
                    grad_CV = _compiled(_gradient)(logits_CV, lse_N[rows, None], *of_row, hidden_ND.dtype)
                else:
                    logits_CV -= lse_N[rows, None]
                    grad_CV = _gradient_(logits_CV.exp_(), *of_row)
            grad_CV = grad_CV.to(hidden_ND.dtype)
            torch.mm(grad_CV, weight, out=grad_hidden_ND[rows])
            if grad_weight_VD is not None:
                if grad_CV.dtype == torch.float32:
                    grad_weight_VD.addmm_(grad_CV.T, hidden_ND[rows])
                else:
                    grad_weight_VD += _product(grad_CV.T, hidden_ND[rows])
        return grad_hidden_ND, grad_weight_VD, None, None, None, None, None


def _chunks(n: int, n_kept: int, chunk: int) -> list[slice]:
    """Cuts 0 … n into slices of at most `chunk`. No slice crosses n_kept."""
    starts = [*range(0, n_kept, chunk), *range(n_kept, n, chunk)]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], n], strict=True)]
