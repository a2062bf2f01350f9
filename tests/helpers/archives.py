"""Archives for tests: rows planted in one, changed behind its back, or made by the stages; and models that know nothing."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.layout import shard_file
from pipeline.archive.parquet import write_parquet
from pipeline.archive.store import Store
from schemas import TABLES
from schemas.enums import Split
from schemas.tables import COUNTS

# A value for a column that may not be null and that a test does not care about.
ANY = {
    pa.string(): "x",
    pa.int64(): 0,
    pa.float64(): 0.0,
    pa.timestamp("us", tz="UTC"): datetime(2026, 1, 1, tzinfo=UTC),
    COUNTS: [],
}
# Questions whose answers are one digit.
SUMS = [(f"{a}+{b}=", "67"[a % 2], Split.HELDOUT if b < 20 else Split.TRAIN) for a in range(9) for b in range(50)]


def random_model(folder: Path, seed: int, **changes: object) -> Path:
    import torch

    from pipeline.inputs import arithmetic

    tokenizer = arithmetic.make_tokenizer()
    model = arithmetic.make_model(tokenizer, seed, **changes)
    with torch.no_grad():  # at initialisation all tokens are about as likely; nothing could tell two models apart
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_pass(run: Any, iteration: int) -> None:
    """The stages of a training pass."""
    from pipeline.stages import draw as replay
    from pipeline.stages import reference, train

    replay.draw(run, iteration)
    reference.reference(run, iteration)
    train.train(run, iteration)


def run_iteration(run: Any, iteration: int) -> None:
    """The stages of an iteration, without evaluation and end."""
    from pipeline.stages import generate, score

    generate.generate(run, iteration)
    score.score(run, iteration)
    run_pass(run, iteration)


def edit(store: Store, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes rows of a table behind the pipeline's back: in the files of its newest version, one by one."""
    for path in store.shards(name):
        rows = pq.read_table(store.layout.local / path)
        new = shard_file(f"edited/{path}", name)
        store.files.make(new, partial(write_parquet, change(rows), name))
        assert store.replace(name, [path], [new])


def plant(store: Store, name: str, *rows: dict[str, Any]) -> None:
    """Adds rows to a table; columns they leave out are null, or any value where null is not allowed."""
    made = [{**made_up(name), **row} for row in rows]
    store.write(f"planted/{name}", {name: pa.Table.from_pylist(made, TABLES[name].schema)})


def made_up(name: str) -> dict[str, Any]:
    """A row of a table: null where that is allowed, else any value."""
    columns = TABLES[name].columns
    return {c.name: None if c.null else next(iter(c.enum)) if c.enum else ANY[c.type] for c in columns}


def draws(pass_id: str, update: int, *rows: tuple) -> Iterator[dict[str, Any]]:
    """Rows of draws: trajectory, source, age in iterations, weight, reward."""
    names = ("trajectory_id", "source", "age_iterations", "weight", "reward")
    for slot, row in enumerate(rows):
        yield {"pass_id": pass_id, "update": update, "slot": slot, "rule": "fifo", **dict(zip(names, row, strict=True))}


def references(*names: str) -> pa.Table:
    return pa.table(
        {
            "trajectory_id": list(names),
            "reference_id": ["r"] * len(names),
            "ref_logprob_sum": [-1.0] * len(names),
            "ref_value": [1.0] * len(names),
            "pass_id": [None] * len(names),
            "precision": ["float32"] * len(names),
        }
    )


def verdicts(*names: str) -> pa.Table:
    return pa.table(
        {
            "trajectory_id": list(names),
            "verifier_id": ["v"] * len(names),
            "verdict": ["wrong"] * len(names),
            "reward": [0.0] * len(names),
            "extracted_answer": pa.array([None] * len(names), pa.string()),
            "seconds": [0.0] * len(names),
            "iteration": [1] * len(names),
        }
    )
