"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: the policy is a fixed base plus small trained matrices.

A trained policy is saved as an ordinary folder, with the adapters merged into the weights. The adapters themselves are
kept in the optimizer's state.
"""

from typing import Any

import torch
from torch import Tensor

from reval.model import Policy
from reval.parallel import whole
from schemas import UserError

SEED = 0


def adapt(policy: Policy, rank: int, alpha: int) -> None:
    """Adds adapters to every linear layer except the output layer. Only they are trained; at first they change nothing.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("train.lora_rank wants peft, which is not installed: pip install peft") from None
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), policy.model)


def merged(policy: Policy) -> dict[str, Tensor]:
    """All weights, whole, with the adapters added, by their names without adapters. The policy does not change."""
    found: dict[str, Tensor] = {}
    added: dict[str, Any] = {
        name: module for name, module in policy.model.named_modules() if hasattr(module, "get_delta_weight")
    }
    shared = dict(policy.model.named_parameters(remove_duplicate=False)).keys() - dict(policy.model.named_parameters())
    for name, weight in policy.model.state_dict().items():
        if ".lora_" in name or name in shared:
            continue
        owner = name.removesuffix(".base_layer.weight")
        if owner in added:
            with torch.no_grad():
                delta = added[owner].get_delta_weight("default")
            found[f"{owner}.weight"] = whole(weight) + whole(delta)
        else:
            found[name.replace(".base_layer.", ".")] = whole(weight)
    return found
