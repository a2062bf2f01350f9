"""Where things lie inside an archive. No other module knows a directory's name."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from schemas import ARCHIVE_FORMAT, TABLES, UserError

# The archive when none is named: in the folder the command runs in.
ARCHIVE = os.environ.get("REVAL_ARCHIVE", "archive")


@dataclass(frozen=True)
class Layout:
    """Addresses under one archive directory. Builds paths; creates and opens nothing but the marker."""

    root: Path

    @property
    def marker(self) -> Path:
        """The file that makes a directory an archive; written last when one is created."""
        return self.root / "reval.json"

    def table(self, name: str) -> Path:
        return self.root / TABLES[name].name

    def weights(self, policy_id: str) -> Path:
        """A policy's Hugging Face folder."""
        return self.root / "weights" / policy_id

    def optimizer(self, policy_id: str) -> Path:
        """The optimizer state that goes with a policy's weights."""
        return self.root / "optimizer" / f"{policy_id}.safetensors"

    def scratch(self, name: str) -> Path:
        """Work in progress: nothing in it is part of the archive."""
        return self.root / "scratch" / name

    def log(self, name: str) -> Path:
        """What a child process printed."""
        return self.root / "logs" / f"{name}.log"

    def resolve(self, location: str) -> str:
        """A `policies.location` as a path: relative ones are inside the archive."""
        return str(self.root / location)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def check(self) -> None:
        """Refuses a directory that is not an archive this version can read.

        Raises:
            UserError: it is missing, holds no marker, or was written by a newer format.
        """
        if not self.marker.exists():
            what = "is not an archive (no reval.json in it)" if self.root.exists() else "does not exist"
            raise UserError(f"archive {self.root} {what}; make one with `reval init --archive {self.root}`")
        try:
            found = int(json.loads(self.marker.read_text())["format"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"archive {self.root}: reval.json is damaged; it should read {self._mark()!r}") from None
        if found > ARCHIVE_FORMAT:
            raise UserError(
                f"archive {self.root} has format {found} and this reval reads up to {ARCHIVE_FORMAT}: "
                "it was written by a newer reval; upgrade this one"
            )

    def claim(self) -> None:
        """Marks the directory as an archive, once everything else in it is in place."""
        temporary = self.marker.with_suffix(".tmp")
        temporary.write_text(self._mark())
        os.replace(temporary, self.marker)

    @staticmethod
    def _mark() -> str:
        return json.dumps({"format": ARCHIVE_FORMAT})
