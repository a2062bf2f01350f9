"""Decides whether torch.compile is used: on a GPU, with Triton, and for a model large enough to be worth the wait.

TORCH_COMPILE_DISABLE=1, a variable of torch itself, turns it off.
"""

import os
import shutil
from importlib.util import find_spec

import torch

from reval.limits import worth_compiling


def pays(device: torch.device, n_parameters: int) -> bool:
    """Whether to compile a model with this number of weights on this device."""
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    return (
        worth_compiling(device.type, n_parameters)
        and find_spec("triton") is not None
        and any(shutil.which(name) for name in compilers if name)
    )
