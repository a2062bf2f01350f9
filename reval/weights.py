"""Facts from the files of a model folder: digests and the number of weights. Loads no torch and no tensor."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open


def weights_digest(folder: Path) -> str:
    """SHA-256 over a folder's safetensors files, names included, in the order of their names."""
    return _digest(folder.glob("*.safetensors"))


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 over the files that decide the token ids of a text."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
    found = [folder / name for name in names if (folder / name).is_file()]
    return _digest(found[:1] if found[:1] == [folder / names[0]] else found)


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def n_weights(folder: Path) -> int:
    """Number of weights in a folder's safetensors files, from their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
