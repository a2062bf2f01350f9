"""How many logits exist at a time on each device (2^20 float32 are 4 MiB), and which models are compiled.

Memory depends on these. Imports no torch, since `reval plan` needs them too.
"""

# In a chunk, and those whose probabilities are kept for backward.
CHUNK_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 28}
KEPT_LOGITS = {"cpu": 1 << 26, "cuda": 0}
# With fewer rows at a time the weight and its gradient are read more often than their product is worth.
FEWEST_ROWS = 128
# Compiling takes half a minute at the first update; of a smaller model no pass makes up for that.
FEWEST_COMPILED = 100_000_000


def worth_compiling(device: str, n_parameters: int) -> bool:
    """Whether a model of so many weights is compiled on such a device, where there is what that needs."""
    return device == "cuda" and n_parameters >= FEWEST_COMPILED
