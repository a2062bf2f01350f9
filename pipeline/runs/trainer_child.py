"""Runs the trainer in one process, or in several that train together. They stay alive for a whole run."""

import os
from pathlib import Path
from typing import Any

from pipeline.children.worker import Progress, serve


def main() -> None:
    from pipeline.inputs import arithmetic
    from reval.trainer import Trainer

    trainer = Trainer()

    def run_pass(folder: str, progress: Progress) -> dict[str, Any]:
        trainer.run_pass(Path(folder), progress)
        return {}

    def pretrain(folder: str, progress: Progress, **how: Any) -> dict[str, Any]:
        if os.environ.get("RANK", "0") != "0":
            return {}
        return arithmetic.pretrain(folder, progress=progress, **how)

    def forward(location: str, table: Any, progress: Progress, **how: Any) -> Any:
        return trainer.forward(location, table, progress=progress, **how)

    serve({"pretrain": pretrain, "forward": forward, "run_pass": run_pass})


if __name__ == "__main__":
    main()
