"""GSM8K's example_model_solutions.jsonl: a question, its ground truth, and one struct for each policy.

Defined by the file itself, github.com/openai/grade-school-math at 3101c7d, grade_school_math/data: each line is
{"question", "ground_truth", POLICY: {"solution", "is_correct"}, ...}. Every column that holds such a struct is a policy.
"""

from collections.abc import Iterator, Mapping

from pipeline.exchange.formats.rows import ALIASES, Rollout, read
from pipeline.exchange.formats.values import BadRow, Columns, Values


def _policies(row: Values) -> list[str]:
    return [
        name for name, value in row.items() if isinstance(value, Mapping) and {"solution", "is_correct"} <= set(value)
    ]


def matches(row: Values, file: str) -> bool:
    return bool(_policies(row))


def rollouts(row: Values, columns: Columns, file: str) -> Iterator[Rollout]:
    """One response for each policy's struct.

    Raises:
        BadRow: there is no such struct, or one of them cannot be read.
    """
    shared = {name: columns.find(row, name, ALIASES[name]) for name in ("problem", "gold_answer")}
    policies = _policies(row)
    if not policies:
        raise BadRow("no column holds a solution and is_correct")
    for name in policies:
        said = row[name]
        yield from read({**shared, "policy": name, "response": said["solution"], "correct": said["is_correct"]})
