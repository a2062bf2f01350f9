"""How many logits exist at a time on each device (2^20 float32 are 4 MiB), and which models are compiled.

Memory depends on these. Imports no torch, since `reval plan` needs them too.
"""

# Logits in a chunk, and logits whose probabilities are kept for the backward pass.
CHUNK_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 28}
KEPT_LOGITS = {"cpu": 1 << 26, "cuda": 0}
# With fewer rows at a time, reading the weight and its gradient takes longer than the product itself.
FEWEST_ROWS = 128
# Compiling takes half a minute at the first update. With a smaller model no pass saves that much time.
FEWEST_COMPILED = 100_000_000


def worth_compiling(device: str, n_parameters: int) -> bool:
    """Whether a model with this number of weights is compiled on this kind of device, if a compiler is installed."""
    return device == "cuda" and n_parameters >= FEWEST_COMPILED
