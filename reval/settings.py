"""The settings of the trainer. Each is declared here and nowhere else, with its type, limits, default and meaning.

A recipe's sections `train` and `runtime` inherit from `Algorithm` and `Execution` (pipeline/recipes/config.py) and add
settings that the trainer does not need. `Settings` is what a pass's pass.json holds: the train stage takes every field of
both classes from the recipe. So a new setting is one line here, and the code of the trainer that reads it. Limits and
choices are checked where a recipe is loaded. In a pass.json that was written by hand they are not checked.

Imports the standard library only: no torch, no pydantic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Limits:
    """The range of a number: greater than `gt`, at least `ge`, less than `lt`; None is no limit."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """pydantic calls this method when a section of the recipe is made, and adds the limits to its own check."""
        return handler(source) | {name: limit for name, limit in vars(self).items() if limit is not None}


@dataclass(frozen=True)
class Algorithm:
    """The loss and the optimizer: what decides the weights that come out."""

    objective: Literal["reval", "tbrm", "grpo", "reinforce", "tba"] = "reval"
    """The loss; docs/training.md explains each."""
    beta: Annotated[float, Limits(gt=0)] = 1.0
    """Weight of the KL divergence from the reference policy. A reward of 1 is worth 1/beta nats."""
    learning_rate: float = 3e-4
    """Learning rate of AdamW."""
    clip_low: Annotated[float, Limits(gt=0, lt=1)] = 0.2
    """`grpo` only: ratios below 1 − clip_low are clipped."""
    clip_high: Annotated[float, Limits(gt=0)] = 0.2
    """`grpo` only: ratios above 1 + clip_high are clipped."""
    adam_beta1: Annotated[float, Limits(ge=0, lt=1)] = 0.9
    """AdamW's decay of the mean of gradients."""
    adam_beta2: Annotated[float, Limits(ge=0, lt=1)] = 0.999
    """AdamW's decay of the mean of squared gradients."""
    weight_decay: Annotated[float, Limits(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Limits(gt=0)] = 1.0
    """A gradient whose norm is larger than this is scaled down to it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of matrix products. Weights, their sums and the optimizer's state are float32 either way."""
    lora_rank: Annotated[int, Limits(ge=0)] = 0
    """0: all weights are trained. Larger: low-rank adapters of this rank on every linear layer (peft); the reference must
    then stay the same (reset_every_iterations = 0, reference = reset)."""
    lora_alpha: Annotated[int, Limits(ge=1)] = 16
    """The adapters' output is scaled by lora_alpha / lora_rank."""


@dataclass(frozen=True)
class Execution:
    """Where and how fast the trainer runs. None of this changes the weights that come out, except for rounding."""

    micro_batch_tokens: Annotated[int, Limits(ge=1)] = 16384
    """Tokens in one forward pass of the trainer, padding included. A longer trajectory has a forward pass of its own."""
    batching: Literal["packed", "padded"] = "packed"
    """How trajectories share a forward pass. packed: end to end, without padding. padded: side by side with others of
    about the same length. A model whose attention cannot be told where a trajectory ends is always padded."""
    sharding: Literal["none", "full", "offloaded"] = "none"
    """none: each process holds all weights, gradients and optimizer state. full: each holds a part of them (FSDP).
    offloaded: that part is in the CPU's memory."""
    checkpointing: Literal["none", "layers"] = "none"
    """none: the activations of the forward pass are kept. layers: the backward pass computes them again, layer by layer;
    this saves memory and costs time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto: on the GPU if there is one."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers that get the figures of each optimizer step; they are in the archive anyway."""


@dataclass(frozen=True)
class Places:
    """Where a pass's weights are: paths, absolute or relative to the pass's folder."""

    policy: str
    """The policy it begins with, which may also be a hub name. With adapters: the policy under them; the adapters
    themselves are in the optimizer's state."""
    optimizer: str | None
    """The optimizer's state it begins with; None: zero moments."""
    policy_out: str
    optimizer_out: str


# The order of the bases matters. A dataclass has the fields of its last base first, and an unfinished pass continues only
# if its pass.json has the same bytes.
@dataclass(frozen=True)
class Settings(Execution, Algorithm, Places):
    """The contents of a pass's pass.json."""

    tracked: tuple[str, str] = ("", "")
    """For trackers: their folder and the name of the run."""
    first_step: int = 0
    """For trackers: how many steps the run made before this pass."""
