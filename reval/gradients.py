"""Adds up the gradient of an update from the gradients of its parts."""

from typing import Any

import torch
from torch import Tensor, nn

from reval.parallel import World, gathered


class Gradients:
    """Adds up gradients over micro-batches and processes.

    On CPUs that is in float64, where the order in which float32 numbers are added shows only beyond the digits that
    rounding back leaves: so a pass makes the same weights, bit for bit, whoever works on which micro-batch (with as many
    threads: matrix products may add up otherwise with more). On a GPU it is in float32, and what is sharded FSDP adds
    up itself.
    """

    def __init__(self, world: World, module: nn.Module) -> None:
        self._world = world
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        self._sums: list[Tensor] | None = None
        if world.device.type == "cpu" and not world.in_step:
            self._sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in self._weights]

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        if self._sums is not None:
            for total, weight in zip(self._sums, self._weights, strict=True):
                if weight.grad is not None:
                    total += weight.grad
                    weight.grad = None

    def finish(self) -> None:
        """Leaves the update's gradient in every weight."""
        if self._sums is not None:
            self._world.add_up(self._sums)
            for total, weight in zip(self._sums, self._weights, strict=True):
                weight.grad = total.float()
        elif not self._world.in_step:
            for weight in self._weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            self._world.add_up([weight.grad for weight in self._weights if weight.grad is not None])

    def clip(self, max_norm: float) -> float:
        """Clips the gradient to a norm, and says what its norm was before."""
        norm: Any = torch.nn.utils.clip_grad_norm_(self._weights, max_norm)
        return float(gathered(norm))
