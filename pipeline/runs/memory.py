"""How much memory a trainer process takes, computed from the model's config and the recipe; loads nothing.

Weights, gradients and moments are counted. Activations are estimated for a layer of the usual kind (norms, attention with
rotary positions, gated MLP), from the tensors it keeps for the backward pass; tests compare this with what torch keeps.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from pipeline.inputs import arithmetic
from pipeline.inputs.arithmetic import EMBEDDED
from pipeline.recipes.config import Config
from pipeline.runs.processes import n_gpus
from reval.limits import CHUNK_LOGITS, FEWEST_ROWS, KEPT_LOGITS, worth_compiling

WEIGHTS, GRADIENT, MOMENTS = 4, 4, 8  # bytes a weight, float32
SUMS = 8  # of gradients, on a CPU in float64
# Memory of the trainer before it has a model: Python, torch, transformers.
PROCESS_BYTES = 600_000_000


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide how much memory it needs."""

    hidden: int
    layers: int
    queries: int  # heads · units of a head
    keys: int  # key-value heads · units of a head
    intermediate: int
    vocabulary: int


def shape(base: str) -> Shape | None:
    """The sizes of a base policy, from its config; None: it is not on this machine, or its config has other keys."""
    if base == EMBEDDED:
        width = arithmetic.HIDDEN
        return Shape(width, arithmetic.LAYERS, width, width, arithmetic.INTERMEDIATE, len(arithmetic.WORDS))
    path = Path(base).expanduser() / "config.json"
    if not path.is_file():
        cached = try_to_load_from_cache(base, "config.json") if base.count("/") <= 1 else None
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    said = json.loads(path.read_text())
    try:
        hidden, heads = said["hidden_size"], said["num_attention_heads"]
        head = said.get("head_dim") or hidden // heads
        keys = head * (said.get("num_key_value_heads") or heads)
        return Shape(hidden, said["num_hidden_layers"], head * heads, keys, said["intermediate_size"], said["vocab_size"])
    except KeyError:
        return None


def parts(config: Config, n_parameters: int, sizes: Shape | None, longest: int, n_processes: int) -> dict[str, float]:
    """Bytes of one process, by purpose; activations are left out if the model's sizes are not known.

    Args:
        longest: tokens of the longest trajectory; a micro-batch has this many if that is more than the budget.
    """
    runtime, train = config.runtime, config.train
    device = "cuda" if n_gpus(runtime) or runtime.device == "cuda" else "cpu"
    share = 1 if runtime.sharding == "none" else n_processes
    trained = n_parameters if not train.lora_rank else _adapters(train.lora_rank, sizes)
    exact = device == "cpu" and runtime.sharding == "none"
    found: dict[str, float] = {
        "weights": WEIGHTS * n_parameters / share,
        "gradients": (GRADIENT + (SUMS if exact else 0)) * trained / share,
        "moments": MOMENTS * trained / share,
    }
    if runtime.sharding == "offloaded":
        found = {}  # all of these lie in the CPU's memory
    if share > 1 and sizes is not None:
        found["gathered weights"] = WEIGHTS * (n_parameters / sizes.layers + sizes.vocabulary * sizes.hidden)
    if sizes is not None:
        compiled = worth_compiling(device, n_parameters)
        found |= _activations(config, sizes, max(longest, runtime.micro_batch_tokens), device, compiled)
    if device == "cpu":
        found["process"] = PROCESS_BYTES
    return found


def _activations(config: Config, sizes: Shape, n_tokens: int, device: str, compiled: bool) -> dict[str, float]:
    """Bytes of a micro-batch that are kept for the backward pass, or that the pass itself uses.

    In a compiled layer, the backward pass computes results of elementwise operations again from the products, if it can.
    """
    size = 2 if config.train.precision == "bfloat16" else 4
    hidden, q, kv, mlp = sizes.hidden, sizes.queries, sizes.keys, sizes.intermediate
    stream = 4 * hidden  # between layers it is float32
    if compiled:
        layer = n_tokens * (stream + size * (3 * hidden + 2 * q + 2 * kv + 3 * mlp))
        layer += size * hidden * (2 * q + 2 * kv + 3 * mlp) if size == 2 else 0  # its weights in the type of the products
    else:
        norms = 2 * 2 * stream  # a norm's input, and its input divided by its size
        layer = n_tokens * (norms + size * (4 * hidden + 6 * q + 5 * kv + 4 * mlp))
    again = config.runtime.checkpointing == "layers"
    layers = sizes.layers * n_tokens * stream + layer if again else sizes.layers * layer
    casts = size * sizes.vocabulary * hidden if size == 2 else 0
    every = n_tokens * sizes.vocabulary
    chunk = min(every, max(FEWEST_ROWS * sizes.vocabulary, CHUNK_LOGITS[device]))
    held = min(every, KEPT_LOGITS[device])
    return {
        "activations": layers + 3 * size * n_tokens * hidden,
        "logits": 4.0 * (2 * chunk + held + sizes.vocabulary * hidden) + casts,
    }


def _adapters(rank: int, sizes: Shape | None) -> int:
    """Trained weights of adapters on every linear layer but the output layer."""
    if sizes is None:
        return 0
    hidden, q, kv, mlp = sizes.hidden, sizes.queries, sizes.keys, sizes.intermediate
    pairs = ((hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, mlp), (hidden, mlp), (mlp, hidden))
    return sizes.layers * rank * sum(a + b for a, b in pairs)
