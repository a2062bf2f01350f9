"""Attention over trajectories that lie end to end in one row: each sees only itself.

Batches are made by length, so trajectories of the same length lie next to each other. These are computed together, and
nothing is padded. On a GPU this is as fast as PyTorch's kernel for varying lengths (LOG.md).

Shapes live in names: B trajectories, T tokens of each, P tokens of all together, H heads, K units of a head.
"""

from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from reval.batch import Batch

NAME = "reval_packed"
# Arguments that this attention does not support. A model that uses one of them is not packed.
MORE = ("sliding_window", "softcap", "s_aux", "position_bias")


class Runs:
    """For each run of neighbours of the same length: the number of trajectories, and the number of tokens of each.

    This is a class and not a list: a compiled layer that gets a list is compiled again for each new length of the list.
    """

    def __init__(self, lengths: list[int]) -> None:
        self.shapes = [(len(list(run)), n_tokens) for n_tokens, run in groupby(lengths)]


def arguments(batch: Batch) -> dict[str, Any]:
    """The arguments that a model must pass on to its attention."""
    return {"runs": Runs(batch.lengths)} if batch.packed else {}


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its work depends on the lengths
def attend(
    module: Any, query_1HPK: Tensor, key_1HPK: Tensor, value_1HPK: Tensor, mask: None, scaling: float, **more: Any
) -> tuple[Tensor, None]:
    """Causal attention within each trajectory, as transformers' attention interface calls it.

    Raises:
        NotImplementedError: the model passes one of the arguments in MORE.
    """
    if asked := [name for name in MORE if more.get(name) is not None]:
        raise NotImplementedError(f"packed attention without {asked[0]}")
    if "runs" not in more:  # a padded batch: its shape is B, H, T, K
        return _causal(query_1HPK, key_1HPK, value_1HPK, scaling).transpose(1, 2), None
    query_PHK, key_PHK, value_PHK = (part[0].transpose(0, 1) for part in (query_1HPK, key_1HPK, value_1HPK))
    shapes: list[tuple[int, int]] = more["runs"].shapes
    sizes = [n_rows * n_tokens for n_rows, n_tokens in shapes]
    found: list[Tensor] = []
    split = (part.split(sizes) for part in (query_PHK, key_PHK, value_PHK))
    for shape, *runs in zip(shapes, *split, strict=True):
        query_BHTK, key_BHTK, value_BHTK = (run.unflatten(0, shape).transpose(1, 2) for run in runs)
        found.append(_causal(query_BHTK, key_BHTK, value_BHTK, scaling).transpose(1, 2).flatten(0, 1))
    return torch.cat(found)[None], None


def _causal(query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, scaling: float) -> Tensor:
    parts = query_BHTK, key_BHTK, value_BHTK
    out_BHTK: Tensor = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scaling, enable_gqa=True)
    return out_BHTK


AttentionInterface.register(NAME, attend)
