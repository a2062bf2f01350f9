"""A causal language model's log-probs of given tokens and V(s₁), without logits for the whole batch.

Shapes live in names: B trajectories, T tokens, N response tokens, D hidden units, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from reval.batch import Batch
from schemas import UserError

# Logits held at once: 2^26 float32 are 256 MiB.
MAX_LOGITS = 1 << 26


class Scores(NamedTuple):
    logp_N: Tensor  # log π(a_h|s_h) of each response token, float32
    value_B: Tensor  # V(s₁) of each trajectory, float32


def load(location: str, device: torch.device) -> Any:
    """The model in a Hugging Face folder, in float32, without dropout.

    Raises:
        UserError: it is missing or not a causal language model.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"policy {location}: not a model folder transformers can load ({first})") from None
    return model.to(device).eval()


def score(model: Any, batch: Batch, temperature: float = 1.0) -> Scores:
    """Log-probs of the batch's response tokens, and V(s₁) from the logsumexp already taken for the first of each.

    Differentiable. Only rows of the hidden states that predict a response token meet the vocabulary, a chunk at a
    time; a chunk's logits are computed again in the backward pass rather than kept.
    """
    hidden_BTD = model.base_model(input_ids=batch.token_ids_BT, use_cache=False).last_hidden_state
    hidden_ND = hidden_BTD[batch.row_N, batch.position_N]
    head = model.get_output_embeddings()

    def chunk(hidden_CD: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor]:
        logits_CV = head(hidden_CD).float() / temperature
        value_C = logits_CV.logsumexp(-1)
        return logits_CV.gather(-1, target_C[:, None])[:, 0] - value_C, value_C

    n_rows = max(1, MAX_LOGITS // head.weight.shape[0])
    parts = list(zip(hidden_ND.split(n_rows), batch.target_N.split(n_rows), strict=True))
    if len(parts) == 1:
        logp_N, value_N = chunk(*parts[0])
    else:
        scored = [checkpoint(chunk, *part, use_reentrant=False) for part in parts]
        logp_N, value_N = (torch.cat(column) for column in zip(*scored, strict=True))
    return Scores(logp_N, value_N[batch.first_B])


def sum_by_trajectory(logp_N: Tensor, batch: Batch) -> Tensor:
    """Σ over each trajectory's response tokens, in float64: a difference of two such sums is what Eq. 2 is about."""
    zeros_B = torch.zeros(len(batch.first_B), dtype=torch.float64, device=logp_N.device)
    return zeros_B.index_add(0, batch.row_N, logp_N.double())


def pick_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one.

    Raises:
        UserError: `cuda` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is cuda and torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
