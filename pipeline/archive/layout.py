"""Where things are inside an archive; no other module knows a folder's name. It builds paths and opens nothing.

Addresses are relative to the archive. Weights and other data that are written as ordinary files also have a path under
`local`: the archive itself if it is a folder, else this machine's cache of it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from schemas import TABLES, digest

# The archive if none is named: in the folder that the command runs in.
ARCHIVE = os.environ.get("REVAL_ARCHIVE", "archive")
# The file that makes a directory an archive; written last when one is created.
MARKER = "reval.json"
# For files that are damaged or belong to no table: moved here, not deleted.
QUARANTINE = "quarantine"
# Notes of imports of other archives that have not finished.
BEGUN = "begun"
# Policies, optimizer states, and notes of those that a keep rule deleted, under the same paths.
WEIGHTS, OPTIMIZER, PRUNED = "weights", "optimizer", "pruned"


def shard_file(shard: str, table: str) -> str:
    """A shard's file in a table. The file's name is a digest of the shard's name."""
    return f"{TABLES[table].name}/part-{digest(shard)}.parquet"


def delta_log(table: str) -> str:
    return f"{TABLES[table].name}/_delta_log"


def begun(archive: str) -> str:
    """The file that notes the id of an import of another archive while it runs."""
    return f"{BEGUN}/{digest(archive)}"


def tombstone(address: str) -> str:
    """The note that a policy's weights or optimizer state were pruned."""
    return f"{PRUNED}/{address}"


def is_shard(path: str) -> bool:
    """Whether a path in a table's folder is data and not its log."""
    return path.endswith(".parquet") and "/_delta_log/" not in path


@dataclass(frozen=True)
class Layout:
    """Paths of ordinary files that stages write, and of files that never leave this machine."""

    root: str
    local: Path

    def weights(self, policy_id: str) -> Path:
        """A policy's Hugging Face folder."""
        return self.local / WEIGHTS / policy_id

    def optimizer(self, policy_id: str) -> Path:
        """The optimizer state that goes with a policy's weights."""
        return self.local / OPTIMIZER / f"{policy_id}.safetensors"

    def scratch(self, name: str) -> Path:
        """Work in progress: nothing in it is part of the archive."""
        return self.local / "scratch" / name

    @property
    def tracking(self) -> Path:
        """The folder in which trackers keep their data, of all runs."""
        return self.local / "tracking"

    def log(self, who: str, name: str) -> Path:
        """The file with the output of a child process of a run or command."""
        return self.local / "logs" / who / f"{name}.log"

    def relative(self, path: Path) -> str:
        """A path under `local` as an address in the archive."""
        return path.relative_to(self.local).as_posix()
