"""The cost of a planned run: disk, and how often to use its rollouts, estimated from measurements.

Loads no weights and asks no hub. Bytes are those of this archive's own layout (benchmarks/LOG.md).
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.archive.store import Store
from pipeline.inputs import arithmetic
from pipeline.inputs.arithmetic import EMBEDDED
from pipeline.query import db
from pipeline.recipes.config import Config, Keep
from pipeline.runs.keep import NEWEST
from reval.weights import n_weights

# Measured, on disk. TEXT_BYTES is for the text, prompt and id of a response, without its token ids and log-probs.
IDS_AND_LOGPROBS_BYTES, TEXT_BYTES = 4.8, 1.1  # a response token
ROLLOUT_BYTES = 67  # its rows of trajectories and verdicts
DRAW_BYTES = 95  # its rows of draws, updates and references
# float32. A policy is kept as weights, and its moments are kept separately.
WEIGHTS_BYTES, MOMENTS_BYTES = 4, 8
# How staleness adds to the gradient's variance, and how similar two uses of a rollout are: values of arXiv 2604.08706.
ALPHA, RHO = 0.25, 0.3


@dataclass(frozen=True)
class Measured:
    """Measurements from an archive's runs that are like the planned one. None: there is no such measurement."""

    n_responses: int = 0
    response_tokens: float | None = None  # mean
    n_parameters: int | None = None
    n_iterations: int = 0  # finished iterations; the seconds are measured on these
    generate_seconds: float | None = None  # per rollout
    train_seconds: float | None = None  # per draw


@dataclass(frozen=True)
class Costs:
    """Bytes at the end of the run. None: the number of parameters is not known."""

    archive: float
    weights: float | None
    moments: float | None


def measured(store: Store, config: Config, *, any_run: bool) -> Measured:
    """Measurements of runs of this recipe or this base policy; if there are none and `any_run` is true, of all runs."""
    found = db.query(store, "plan_measured", recipe=config.recipe, base=config.policy.base, any_run=any_run)
    return Measured(**found.to_pylist()[0])


def costs(
    n_rollouts: int, n_draws: int, response_tokens: float, iterations: int, n_parameters: int | None, keep: Keep
) -> Costs:
    """The bytes a run adds to an empty archive, without evaluations."""
    a_rollout = response_tokens * (IDS_AND_LOGPROBS_BYTES + TEXT_BYTES) + ROLLOUT_BYTES
    archive = n_rollouts * a_rollout + n_draws * DRAW_BYTES
    if n_parameters is None:
        return Costs(archive, None, None)
    n_policies = sum(i % keep.policies_every == 0 or i > iterations - NEWEST for i in range(1, iterations + 1))
    n_states = min(keep.optimizer_states or iterations, iterations)
    weights, moments = n_policies * n_parameters * WEIGHTS_BYTES, n_states * n_parameters * MOMENTS_BYTES
    return Costs(archive, weights, moments)


def parameters(base: str, found: Measured) -> tuple[int | None, str]:
    """The number of weights of a base policy, and how it is known; None: it is not known."""
    if base == EMBEDDED:
        return arithmetic.n_parameters(), "the embedded model's"
    if found.n_parameters is not None:
        return found.n_parameters, "from the archive"
    folder = Path(base).expanduser()
    if folder.is_dir() and (n := n_weights(folder)):
        return n, "from its weights' headers"
    if named := re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", folder.name.lower()):
        return round(float(named[1]) * {"b": 1e9, "m": 1e6}[named[2]]), f"from its name, {folder.name}"
    return None, f"not known: policy.base = {base!r} is no folder with weights, and its name does not say it"


def best_replay(mu: float, alpha: float = ALPHA, rho: float = RHO) -> tuple[float, float]:
    """Meta's optimum for uniform FIFO replay (arXiv 2604.08706): the replay ratio y* and the staleness horizon x*.

    Args:
        mu: the cost of generating a rollout, divided by the cost of one forward and backward pass on it.
    """
    y = (-alpha + math.sqrt(alpha**2 + mu * rho * (1 - 2 * alpha))) / rho
    return y, y**2 / (2 * alpha * (mu + y))
