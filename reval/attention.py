"""Attention over trajectories packed end to end: each sees itself only.

On a GPU in bfloat16 it is PyTorch's own kernel for sequences of varying length; elsewhere trajectories of one length that
lie next to each other, as they do where batches are made by length, are attended together, so that nothing is padded.

Shapes live in names: B trajectories, T tokens of the longest, P tokens of all B together, H heads, K units of a head.
"""

from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from reval.batch import Batch

NAME = "reval_packed"
# What a model's attention may ask for that this does not do: then the model is not packed.
MORE = ("sliding_window", "softcap", "s_aux", "position_bias")


def arguments(batch: Batch) -> dict[str, Any]:
    """What a model has to hand on to its attention."""
    assert batch.starts_B1 is not None
    lengths = [(len(list(run)), n_tokens) for n_tokens, run in groupby(batch.n_tokens_B.tolist())]
    return {"starts_B1": batch.starts_B1, "longest": batch.longest, "lengths": lengths}


def attend(
    module: Any, query_1HPK: Tensor, key_1HPK: Tensor, value_1HPK: Tensor, mask: None, scaling: float, **more: Any
) -> tuple[Tensor, None]:
    """Causal attention within each trajectory, as transformers' attention interface calls it.

    Raises:
        NotImplementedError: the model asks for more than that.
    """
    if asked := [name for name in MORE if more.get(name) is not None]:
        raise NotImplementedError(f"packed attention without {asked[0]}")
    if "starts_B1" not in more:  # a padded batch: B and T are where 1 and P are
        return _causal(query_1HPK, key_1HPK, value_1HPK, scaling).transpose(1, 2), None
    query_PHK, key_PHK, value_PHK = (part[0].transpose(0, 1) for part in (query_1HPK, key_1HPK, value_1HPK))
    if query_PHK.is_cuda and query_PHK.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query_PHK, key_PHK, value_PHK, more["starts_B1"], more["longest"], scaling)[None], None
    lengths: list[tuple[int, int]] = more["lengths"]
    sizes = [n_rows * n_tokens for n_rows, n_tokens in lengths]
    found: list[Tensor] = []
    split = (part.split(sizes) for part in (query_PHK, key_PHK, value_PHK))
    for shape, *runs in zip(lengths, *split, strict=True):
        query_BHTK, key_BHTK, value_BHTK = (run.unflatten(0, shape).transpose(1, 2) for run in runs)
        found.append(_causal(query_BHTK, key_BHTK, value_BHTK, scaling).transpose(1, 2).flatten(0, 1))
    return torch.cat(found)[None], None


def _causal(query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, scaling: float) -> Tensor:
    parts = query_BHTK, key_BHTK, value_BHTK
    out_BHTK: Tensor = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scaling, enable_gqa=True)
    return out_BHTK


def _varlen(
    query_PHK: Tensor, key_PHK: Tensor, value_PHK: Tensor, starts_B1: Tensor, longest: int, scaling: float
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    causal = (-1, 0)  # everything before a token, nothing behind it
    out = varlen_attn(
        *(query_PHK, key_PHK, value_PHK, starts_B1, starts_B1, longest, longest),
        scale=scaling,
        window_size=causal,
        enable_gqa=True,
    )
    assert isinstance(out, Tensor)
    return out


AttentionInterface.register(NAME, attend)
