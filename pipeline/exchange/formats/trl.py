"""TRL's completions: `log_completions=True` writes OUTPUT_DIR/completions/completions_{step:05d}.parquet.

Defined by `GRPOTrainer.log` in trl/trainer/grpo_trainer.py, 1.9 to 1.13: step, prompt and completion
as text (the prompt as the policy saw it, template included), one column per reward function under that function's name,
all that was passed to `log_extra`, advantage. The total reward is not in the file: it is a weighted sum of the reward
columns, but the file has no weights, and rewards look like any extra number. So the reward is the only column of numbers,
or the one that `--map reward=COLUMN` names. NaN means that the reward function did not apply: there is no label.

The gold answer is a column only if it was passed to `log_extra`. The file does not name a policy. The policy is that of
the run (the folder) at that step, RUN-step-STEP, unless --policy names one.
"""

import math
from collections.abc import Iterator
from pathlib import PurePath

from pipeline.exchange.formats import names
from pipeline.exchange.formats.rows import ALIASES, Rollout, read
from pipeline.exchange.formats.values import Columns, Values, reach
from schemas import UserError

FIXED = {"mode", "step", "prompt", "completion", "advantage", "image", "images"}
GOLD = tuple(name for name in ALIASES["gold_answer"] if name != "gts")


def matches(row: Values, file: str) -> bool:
    named = names.stem(PurePath(file)).startswith("completions_")
    return {"prompt", "completion"} <= set(row) and ("advantage" in row or named)


def rollouts(row: Values, columns: Columns, file: str) -> Iterator[Rollout]:
    """The one response of a row.

    Raises:
        BadRow: the row cannot be read.
        UserError: several columns may be the reward.
    """
    found = {
        "problem": columns.find(row, "problem", ("prompt",)),
        "response": columns.find(row, "response", ("completion",)),
        "step": columns.find(row, "step", ("step",)),
        "gold_answer": columns.find(row, "gold_answer", GOLD),
        "policy": columns.find(row, "policy", ()),
        "correct": columns.find(row, "correct", ()),
    }
    mapped = columns.mapped.get("reward")
    reward = reach(row, mapped) if mapped else None if "correct" in columns.mapped else _only_number(row)
    yield from read({**found, "reward": None if isinstance(reward, float) and math.isnan(reward) else reward})


def _only_number(row: Values) -> float | None:
    numbers = {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in {*FIXED, *GOLD}
    }
    if len(numbers) > 1:
        listed = [name if name.isprintable() else repr(name) for name in numbers]
        raise UserError(
            f"several columns may be the reward ({', '.join(listed)}): name one with --map reward={listed[0]}"
        )
    return next(iter(numbers.values()), None)
