"""Adds up the gradient of an update from the gradients of its parts."""

from typing import Any

import torch
from torch import Tensor, nn

from reval.parallel import World, gathered


class Gradients:
    """Adds up gradients over micro-batches and processes.

    On CPUs the sums are float64. The order of addition then changes only digits that are lost when the sum is rounded to
    float32. So a pass makes the same weights, bit for bit, whichever process works on which micro-batch. The number of
    threads must be the same, because it can change the order of sums inside matrix products. On a GPU the sums are
    float32. FSDP itself adds up the gradients of sharded weights.
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
        """Puts the update's gradient into every weight."""
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
        """Clips the gradient to a norm, and returns its norm before clipping."""
        norm: Any = torch.nn.utils.clip_grad_norm_(self._weights, max_norm)
        return float(gathered(norm))
