"""The processes that train together, and how a policy is spread over them.

`accelerate launch` starts them, or whoever sets what it sets (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); a process
by itself is a world of one. Trajectories are never split: each process has whole ones.

Sharded (FSDP2), a process holds a part of every weight, gradient and moment and gathers a layer when it needs it, so all
have to come along with every forward pass; otherwise each holds everything and they meet once an update.
"""

import os
import resource
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

# What a GPU can do, in floating-point operations a second on dense bfloat16 matrices, by a word of its name.
PEAK_FLOPS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


class World:
    """The processes of a training pass, which torch calls the world; this one is `rank` of `size`.

    `in_step`: all have to make the same number of forward passes.
    """

    def __init__(self, device: torch.device, in_step: bool = False) -> None:
        state = PartialState(cpu=device.type == "cpu", **_rendezvous())
        self.size, self.rank, self.device = state.num_processes, state.process_index, state.device
        self.in_step = in_step and self.size > 1

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes its sum over all processes."""
        for tensor in tensors if self.size > 1 else ():
            there = tensor.to(self.device)
            dist.all_reduce(there)
            if there is not tensor:
                tensor.copy_(there)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def peak_memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def peak_flops(self, precision: str) -> float | None:
        """What the devices of all processes can do in a second; None: nobody knows."""
        if self.device.type != "cuda" or precision != "bfloat16":
            return None
        name = torch.cuda.get_device_name()
        return next((peak * self.size for word, peak in PEAK_FLOPS.items() if word in name), None)


def _rendezvous() -> dict[str, Any]:
    """Where the processes meet: a file, if whoever started them named one, so that nothing listens to the network."""
    path = os.environ.get("REVAL_RENDEZVOUS")
    if path is None:
        return {}
    place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    return {"init_method": f"file://{path}", "timeout": timedelta(days=1), **place}


def leave() -> None:
    """Ends the group, if there is one: a process that just exits can take the others down with it."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def shard(policy: Any, world: World, *, offload: bool) -> None:
    """Spreads a policy's weights over the processes, a layer a unit, by torch's own FSDP: accelerate's leaves CPUs out.

    Gradients are summed over the processes, as the parts of a loss are, and not averaged.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    how = CPUOffloadPolicy(pin_memory=world.device.type == "cuda") if offload else OffloadPolicy()
    for layer in policy.layers:
        fully_shard(layer, mesh=mesh, offload_policy=how)
    fully_shard(policy, mesh=mesh, offload_policy=how)
    for module in policy.modules():
        if isinstance(module, FSDPModule):  # neither of these reaches the modules within
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def gathered(tensor: Tensor) -> Tensor:
    """A tensor as if it were not spread. All processes have to ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def whole(tensor: Tensor) -> Tensor:
    """The same on the CPU, in the first process; the others, which write nothing, get an empty one."""
    there = gathered(tensor)
    return there.cpu() if PartialState().process_index == 0 else there.new_empty(0, device="cpu")


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor where and as `like` is: this process's part of it, if that is spread."""
    if isinstance(like, DTensor):
        there = tensor.to(like.device_mesh.device_type, like.dtype)
        return distribute_tensor(there, like.device_mesh, like.placements).to(like.device)
    return tensor.to(like.device)
