"""Writes what a pass leaves on disk: the policy, the optimizer's state, and checkpoints of both between two updates.

Each file appears whole or not at all; nothing is pickled.

If several processes train together, all of them call these functions, and the first one writes.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reval.model import Policy
from reval.parallel import World, spread_like, whole

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# A pass may spend one part in 20 of its time on saving checkpoints.
SAVING_SHARE = 20


def trained(policy: Policy) -> dict[str, Tensor]:
    """The weights that are trained, as `weight.NAME`, whole."""
    return {f"weight.{name}": whole(weight) for name, weight in policy.model.named_parameters() if weight.requires_grad}


def moments(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state as `state.parameter`, whole; empty before its first step."""
    return {
        f"{key}.{name}": whole(value).contiguous()
        for name, weight in policy.model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def restore(policy: Policy, optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Puts back the tensors of `moments`, and those of `trained`, if they are there."""
    fused = optimizer.defaults.get("fused")
    for name, weight in policy.model.named_parameters():
        if (saved := stored.get(f"weight.{name}")) is not None:
            with torch.no_grad():
                weight.copy_(spread_like(saved, weight))
        for key in MOMENTS:
            if (value := stored.get(f"{key}.{name}")) is None:
                break  # it has had no gradient yet
            # The count of steps is on the weight's device if the optimizer is fused, and on the CPU otherwise.
            optimizer.state[weight][key] = spread_like(value, weight) if value.dim() or fused else value


def save_policy(world: World, policy: Policy, weights: dict[str, Tensor], parent: str, folder: Path) -> None:
    """Writes a Hugging Face folder: the weights as safetensors, and everything else as in the parent's folder."""
    if world.rank:
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    policy.model.save_pretrained(temporary, state_dict=weights)
    for path in Path(parent).iterdir():
        if path.is_file() and path.name != "config.json" and not is_weights(path.name):
            shutil.copy2(path, temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".pt", ".pth", ".index.json"))


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """One safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.rename(path)


class Checkpoint:
    """The progress of a pass, in its folder: after the last finished update, its weights, moments and results so far.

    Each checkpoint replaces the one before. A new one is saved only after enough work since the last one. A crash loses
    that work; it is done again with the same result.
    """

    def __init__(self, folder: Path, inputs: str) -> None:
        self._folder, self._inputs = folder, inputs
        self._saved_at, self._cost = time.perf_counter(), 0.0

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The results and the tensors that were saved last for these inputs; None: nothing was saved."""
        for path in self._saved():
            said = json.loads((path / "progress.json").read_text())
            if said.pop("inputs") == self._inputs:
                return said, load_file(path / "state.safetensors")
        return None

    def is_due(self, world: World) -> bool:
        """Whether to save now. The first process decides for all."""
        wanted = torch.tensor(float(time.perf_counter() - self._saved_at >= SAVING_SHARE * self._cost))
        if world.rank:
            wanted.zero_()
        world.add_up([wanted])
        return bool(wanted)

    def save(self, world: World, said: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Saves `said` and tensors in place of the checkpoint before."""
        began = time.perf_counter()
        if not world.rank:
            old = self._saved()
            number = 1 + (_number(old[0]) if old else 0)
            temporary = self._folder / "saving"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            save_file(tensors, temporary / "state.safetensors")
            (temporary / "progress.json").write_text(json.dumps({**said, "inputs": self._inputs}))
            for path in temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            temporary.rename(self._folder / f"state-{number}")
            for path in old:
                shutil.rmtree(path)
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - began

    def _saved(self) -> list[Path]:
        """The folders of saved checkpoints, newest first."""
        return sorted(self._folder.glob("state-*"), key=_number, reverse=True)

    def clear(self) -> None:
        for path in self._saved():
            shutil.rmtree(path)


def _number(path: Path) -> int:
    """The number of a pass's checkpoint, from 1."""
    return int(path.name.rpartition("-")[2])
