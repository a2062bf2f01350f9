"""Rows to padded tensors. Padding is on the right, so under causal attention no real position sees it: no mask is
needed, and what a trajectory is batched with changes nothing but rounding.

Shapes live in names: B trajectories, T tokens of the longest, N response tokens of all B together.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    token_ids_BT: Tensor  # prompt then response then padding
    row_N: Tensor  # which of the B a response token belongs to
    position_N: Tensor  # where the logits that predict it are: one before its own place
    target_N: Tensor  # its id
    first_B: Tensor  # index into N of each trajectory's first response token

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in self))


def collate(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Batch:
    """Pads B trajectories into one batch.

    Raises:
        ValueError: a prompt or a response is empty: V(s₁) and Σ log π would have no position to stand on.
    """
    if not all(prompts) or not all(responses):
        raise ValueError("a trajectory needs at least one prompt token and one response token")
    n_tokens = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    token_ids_BT = torch.zeros(len(prompts), max(n_tokens), dtype=torch.long)
    rows: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    firsts: list[int] = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        token_ids_BT[row, : n_tokens[row]] = torch.tensor([*prompt, *response])
        firsts.append(len(targets))
        rows += [row] * len(response)
        positions += range(len(prompt) - 1, len(prompt) - 1 + len(response))
        targets += response
    return Batch(token_ids_BT, *(torch.tensor(column) for column in (rows, positions, targets, firsts)))


def micro_batches(n_tokens: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Splits rows 0..len-1 into groups of at most `budget` padded tokens, longest first so that padding is small.

    A row longer than the budget is a group of its own.
    """
    group: list[int] = []
    for row in sorted(range(len(n_tokens)), key=lambda row: (-n_tokens[row], row)):
        if group and (len(group) + 1) * n_tokens[group[0]] > budget:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
