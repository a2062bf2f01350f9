"""The processes that train together, and how a policy is spread over them.

They are started by `accelerate launch`, or by any program that sets the same variables (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE). A single process is a world of one. Trajectories are never split: each process has whole ones.

Sharded (FSDP2), a process holds a part of every weight, gradient and moment, and gathers a layer when it needs it. So all
processes must make every forward pass together. Not sharded, each holds everything, and they exchange gradients once per
update.
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

# Peak floating-point operations per second of a GPU on dense bfloat16 matrices, by a word in its name.
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
        """Waits until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def peak_memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def peak_flops(self, precision: str) -> float | None:
        """Peak floating-point operations per second of all processes' devices together; None: not known."""
        if self.device.type != "cuda" or precision != "bfloat16":
            return None
        name = torch.cuda.get_device_name()
        return next((peak * self.size for word, peak in PEAK_FLOPS.items() if word in name), None)


def _rendezvous() -> dict[str, Any]:
    """How the processes find each other: by the file in REVAL_RENDEZVOUS, if that is set, so no network port is open."""
    path = os.environ.get("REVAL_RENDEZVOUS")
    if path is None:
        return {}
    place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    return {"init_method": f"file://{path}", "timeout": timedelta(days=1), **place}


def leave() -> None:
    """Ends the group, if there is one. A process that exits without this can make the others fail."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def shard(policy: Any, world: World, *, offload: bool) -> None:
    """Spreads a policy's weights over the processes, layer by layer. Uses torch's FSDP: accelerate's has no CPU support.

    Gradients are summed over the processes, not averaged, because the parts of a loss are summed too.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    how = CPUOffloadPolicy(pin_memory=world.device.type == "cuda") if offload else OffloadPolicy()
    for layer in policy.layers:
        fully_shard(layer, mesh=mesh, offload_policy=how)
    fully_shard(policy, mesh=mesh, offload_policy=how)
    for module in policy.modules():
        if isinstance(module, FSDPModule):  # these calls do not apply to the modules inside
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def gathered(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one; any other tensor as it is. All processes must call this."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on the CPU, in the first process. The others write nothing and get an empty tensor."""
    there = gathered(tensor)
    return there.cpu() if PartialState().process_index == 0 else there.new_empty(0, device="cpu")


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A full tensor on the device of `like`, sharded as it is: if `like` is sharded, this process's part."""
    if isinstance(like, DTensor):
        there = tensor.to(like.device_mesh.device_type, like.dtype)
        return distribute_tensor(there, like.device_mesh, like.placements).to(like.device)
    return tensor.to(like.device)
