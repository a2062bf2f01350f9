"""verl's rollout dump: `trainer.rollout_data_dir` (or `validation_data_dir`) holds {step}.jsonl.

Defined by `RayPPOTrainer._dump_generations` in verl/trainer/ppo/ray_trainer.py as of v0.7: input (the prompt as the
policy saw it, template included), output, gts (the gold answer; older versions wrote none), score, step, and all that the
reward function returned. The unchanged prompt becomes the problem.

The file does not name a policy. The policy is that of the run (the folder) at that step, RUN-step-STEP, unless --policy
names one.
"""

from collections.abc import Iterator

from pipeline.exchange.formats.rows import ALIASES, Rollout, read
from pipeline.exchange.formats.values import Columns, Values

NAMES = {"problem": "input", "response": "output", "gold_answer": "gts", "reward": "score", "step": "step"}


def matches(row: Values, file: str) -> bool:
    return {"input", "output", "score"} <= set(row)


def rollouts(row: Values, columns: Columns, file: str) -> Iterator[Rollout]:
    """The one response of a row.

    Raises:
        BadRow: the row cannot be read.
    """
    yield from read({name: columns.find(row, name, (NAMES.get(name, ""),)) for name in ALIASES})
