"""score: trajectories without a verdict to verdicts. Which they are, with their gold answers, is one query."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.fetch import fetch
from pipeline.materialise import Shard, materialise
from pipeline.progress import bar
from pipeline.run import Run
from pipeline.store import Store
from pipeline.verifiers import REWARDS, verifier_id
from pipeline.workers import Pool
from schemas import digest
from schemas.enums import Verdict


def score(run: Run, iteration: int) -> None:
    """Judges all of the run's rollouts that its verifier has not judged."""

    def plan() -> Iterator[Shard]:
        judge = verifier_id(run.config.score.verifier)
        work = run.query("unscored", run_id=run.run_id, verifier_id=judge)
        if len(work):
            yield Shard(digest(judge, *work["trajectory_id"].to_pylist()), ("verdicts",), lambda: compute(work, judge))

    def compute(work: pa.Table, judge: str) -> Mapping[str, pa.Table]:
        title = f"score, iteration {iteration}"
        return {"verdicts": judged(run.processes.verifiers, run.store, run.config.score.verifier, judge, work, title)}

    materialise(run.store, run.run_id, iteration, "score", plan)


def judged(pool: Pool, store: Store, verifier: str, judge: str, work: pa.Table, title: str) -> pa.Table:
    """Rows of verdicts for rows of trajectory_id, iteration and gold_answer; `judge` is the verifier's id."""
    texts = fetch(store, work["trajectory_id"].to_pylist(), ["response_text"])
    work = work.append_column("response_text", texts["response_text"])
    found = verdicts(pool, verifier, work, title)
    columns = {name: work[name] for name in ("trajectory_id", "iteration")}
    columns["verifier_id"] = pa.array([judge] * len(work))
    return pa.table({**columns, **{name: found[name] for name in found.column_names}})


def verdicts(pool: Pool, verifier: str, work: pa.Table, title: str) -> pa.Table:
    """Judges rows of gold_answer and response_text.

    Returns:
        verdict, reward (null: no judgement), extracted_answer (null: none was read) and seconds, in the rows' order.
    """
    items: list[Mapping[str, Any]] = [
        {"verifier": verifier, **item} for item in work.select(["gold_answer", "response_text"]).to_pylist()
    ]
    found: dict[int, dict[str, Any]] = {}
    with bar(title) as progress:
        for item, outcome in pool.map("judge", items):
            values = outcome.values or {"verdict": outcome.failure, "extracted_answer": None}
            found[item] = {**values, "reward": REWARDS[Verdict(values["verdict"])], "seconds": outcome.seconds}
            progress(len(found), len(items))
    schema = pa.schema(
        [("verdict", pa.string()), ("reward", pa.float64()), ("extracted_answer", pa.string()), ("seconds", pa.float64())]
    )
    return pa.Table.from_pylist([found[i] for i in range(len(items))], schema)
