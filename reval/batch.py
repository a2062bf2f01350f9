"""Makes tensors of rows, packed or padded. Which rows share a batch changes only rounding.

Packed: rows lie end to end in one row, without padding; attention is told where each begins. Padded: rows lie side by
side, padded on the right, so under causal attention no real position sees padding and no mask is needed. Rows of about
the same length are put together, as long as less than a twentieth of the batch is padding.

Shapes live in names: B trajectories, T tokens of the longest, P places (tokens with padding) of all B together, N
response tokens of all B together.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from schemas.enums import Batching

MOST_PADDING = 0.05


class Batch(NamedTuple):
    token_ids: Tensor  # end to end: 1 × P; side by side: B × T, P = B·T; prompt then response, trajectory by trajectory
    position_ids: Tensor  # from 0 in each trajectory
    place_N: Tensor  # where, among the P, the logits that predict a response token are: one before its own place
    target_N: Tensor  # id of that token
    row_N: Tensor  # which of the B trajectories it belongs to
    first_B: Tensor  # index into N of each trajectory's first response token
    packed: bool  # end to end
    lengths: list[int]  # prompt and response tokens of each trajectory

    def to(self, device: torch.device) -> "Batch":
        there: dict[str, Any] = {
            name: sent(part, device) for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**there)

    @property
    def n_tokens(self) -> int:
        """Without padding."""
        return sum(self.lengths)

    @property
    def n_padding(self) -> int:
        return self.token_ids.numel() - self.n_tokens


Ids = Sequence[int] | np.ndarray


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device. Does not wait for a GPU, which may still be busy."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def collate(prompts: Sequence[Ids], responses: Sequence[Ids], batching: str = Batching.PACKED) -> Batch:
    """Puts B trajectories into one batch.

    Raises:
        ValueError: a prompt or a response is empty, so there is no position for V(s₁) or Σ log π.
    """
    n_prompt_B, n_response_B = (np.array([len(ids) for ids in rows]) for rows in (prompts, responses))
    if not (n_prompt_B.all() and n_response_B.all()):
        raise ValueError("a trajectory needs at least one prompt token and one response token")
    n_tokens_B = n_prompt_B + n_response_B
    longest, n_tokens = int(n_tokens_B.max()), int(n_tokens_B.sum())
    ends_B = n_tokens_B.cumsum()
    # If all have the same length, nothing is padded either way, and attention is fastest side by side.
    packed = batching == Batching.PACKED and longest > int(n_tokens_B.min())
    start_B = ends_B - n_tokens_B if packed else np.arange(len(prompts)) * longest
    position_of_token = _counted(n_tokens_B)
    place_of_token = np.repeat(start_B, n_tokens_B) + position_of_token
    n_places = n_tokens if packed else len(prompts) * longest
    token_ids, position_ids = np.zeros(n_places, np.int64), np.zeros(n_places, np.int64)
    token_ids[place_of_token] = np.concatenate([ids for pair in zip(prompts, responses, strict=True) for ids in pair])
    position_ids[place_of_token] = position_of_token
    place_N = np.repeat(start_B + n_prompt_B - 1, n_response_B) + _counted(n_response_B)
    shape = (1, n_places) if packed else (len(prompts), longest)
    return Batch(
        torch.from_numpy(token_ids).view(shape),
        torch.from_numpy(position_ids).view(shape),
        torch.from_numpy(place_N),
        torch.from_numpy(token_ids[place_N + 1]),
        torch.from_numpy(np.repeat(np.arange(len(prompts)), n_response_B)),
        torch.from_numpy(n_response_B.cumsum() - n_response_B),
        packed,
        n_tokens_B.tolist(),
    )


def _counted(n_B: np.ndarray) -> np.ndarray:
    """The numbers 0 … n-1 for each n, all in one array."""
    counted: np.ndarray = np.arange(n_B.sum()) - np.repeat(n_B.cumsum() - n_B, n_B)
    return counted


def micro_batches(n_tokens: Sequence[int], budget: int, batching: str = Batching.PACKED) -> list[list[int]]:
    """Splits rows 0..len-1 into groups of at most `budget` tokens, padding included: longest rows first, groups of about
    the same size.

    A row longer than the budget is a group of its own. The groups do not depend on which process works on them.
    """
    order = sorted(range(len(n_tokens)), key=lambda row: (-n_tokens[row], row))
    n_groups = -(-sum(n_tokens) // budget) or 1
    fair = sum(n_tokens) / n_groups
    groups: list[list[int]] = []
    held = 0  # tokens of the last group, without padding
    for row in order:
        after = held + n_tokens[row]
        if batching == Batching.PACKED:
            fits = after <= budget and held < fair
        else:
            places = (len(groups[-1]) + 1) * n_tokens[groups[-1][0]] if groups else 0
            fits = places <= budget and places - after < MOST_PADDING * places
        if groups and fits:
            groups[-1].append(row)
            held = after
        else:
            groups.append([row])
            held = n_tokens[row]
    return groups


def share_out(groups: Sequence[Sequence[int]], n_tokens: Sequence[int], n_processes: int) -> list[list[int]]:
    """Which groups each process works on, by number: the largest first, each to the process with the least so far."""
    size = [sum(n_tokens[row] for row in group) for group in groups]
    shares: list[list[int]] = [[] for _ in range(n_processes)]
    loads = [0] * n_processes
    for number in sorted(range(len(groups)), key=lambda number: (-size[number], number)):
        least = loads.index(min(loads))
        shares[least].append(number)
        loads[least] += size[number]
    return shares
