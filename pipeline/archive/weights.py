"""Which weights and optimizer states the archive has, and which were pruned."""

from collections import Counter

from pipeline.archive import layout
from pipeline.archive.store import Store

# The lock for pruning. Whoever starts to need weights that could be pruned takes it too.
PRUNING = "pruning"


def pruned(store: Store) -> set[str]:
    """The addresses of all weights and optimizer states that were pruned."""
    return {path.removeprefix(f"{layout.PRUNED}/") for path in store.files.listing(layout.PRUNED)}


def cut_short(store: Store) -> dict[str, int]:
    """Bytes left by a pruning that was killed, by address."""
    noted = pruned(store)
    return {address: n for address, n in sizes(store).items() if address in noted}


def sizes(store: Store) -> Counter[str]:
    """Bytes of all weights and optimizer states in the archive, by address."""
    found = Counter[str]()
    for folder in (layout.WEIGHTS, layout.OPTIMIZER):
        for path, n_bytes in store.files.listing(folder).items():
            found["/".join(path.split("/")[:2])] += n_bytes
    return found
