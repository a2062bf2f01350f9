"""score: judges the trajectories that have no verdict yet. One query finds them with their gold answers.

A verdict depends only on the gold answer and the answer read from the response; each such pair is judged once per shard.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.locks import Held, words
from pipeline.archive.materialise import Shard, commit, materialise
from pipeline.archive.store import Store, Versions
from pipeline.children.pool import Pool
from pipeline.progress import bar, log
from pipeline.query import db
from pipeline.query.fetch import fetch
from pipeline.runs.processes import Processes
from pipeline.runs.run import Run
from pipeline.verifiers import REWARDS, Judgement, Verifier, verifier
from schemas import digest
from schemas.enums import Verdict

# Rollouts judged between two commits; a crash can lose so many.
SHARD_ROLLOUTS = 4096
VERDICTS = pa.schema(
    [("verdict", pa.string()), ("reward", pa.float64()), ("extracted_answer", pa.string()), ("seconds", pa.float64())]
)


def score(run: Run, iteration: int) -> None:
    """Judges all of the run's rollouts that the current version of its verifier has not judged."""
    judge = verifier(run.config.score.verifier)

    def plan() -> Iterator[Shard]:
        work = run.query("unscored", run_id=run.run_id, verifier_id=judge.verifier_id)
        yield from shards(run.store, run.processes, judge, work, f"score, iteration {iteration}")

    with alone(run.store, judge):
        materialise(run.store, run.run_id, iteration, "score", plan)


def rescore(
    store: Store, processes: Processes, judge: Verifier, versions: Versions, wanted: pa.Table
) -> tuple[int, float]:
    """Judges the wanted rollouts, of any run or import, at the state `versions`, that this verifier has not judged.

    Args:
        wanted: rows of trajectory_id.

    Returns:
        how many were judged, and how many seconds it took.
    """
    began = time.perf_counter()
    with alone(store, judge):
        judged = {**versions, "verdicts": store.versions()["verdicts"]}
        connection = db.connect(store, judged, only=db.sql("unscored"))
        work = db.rows(connection, "unscored", run_id=None, verifier_id=judge.verifier_id)
        work = work.filter(pc.is_in(work["trajectory_id"], wanted["trajectory_id"].combine_chunks()))
        commit(store, "rescore", shards(store, processes, judge, work, f"rescore by {judge.verifier_id}"))
        seconds = time.perf_counter() - began
        if len(work):
            store.snapshot_now("rescore", seconds=seconds)
    return len(work), seconds


@contextmanager
def alone(store: Store, judge: Verifier) -> Iterator[None]:
    """A lock: two processes must not judge the same rollouts by the same verifier, or there would be duplicate rows."""
    name = f"verdicts-{digest(judge.verifier_id)[:12]}"
    with ExitStack() as stack:
        try:
            stack.enter_context(store.lock(name, wait=False))
        except Held as error:
            log.info("waiting for %s, which judges by %s too", words(error.holder), judge.verifier_id)
            stack.enter_context(store.lock(name))
        yield


def shards(store: Store, processes: Processes, judge: Verifier, work: pa.Table, title: str) -> Iterator[Shard]:
    """The verdicts of rows of trajectory_id, iteration and gold_answer, in parts that are committed one by one."""
    with bar(title) as progress:
        for start in range(0, len(work), SHARD_ROLLOUTS):
            part = work.slice(start, SHARD_ROLLOUTS)
            name = digest(judge.verifier_id, *part["trajectory_id"].to_pylist())
            yield Shard(
                name,
                ("verdicts",),
                partial(_judged, store, processes, judge, part, partial(_further, progress, start, len(work)), title),
            )


def _further(progress: Callable[[int, int], None], start: int, total: int, done: int, _: int) -> None:
    progress(start + done, total)


def _judged(
    store: Store,
    processes: Processes,
    judge: Verifier,
    work: pa.Table,
    progress: Callable[[int, int], None],
    title: str,
) -> Mapping[str, pa.Table]:
    texts = fetch(store, work["trajectory_id"].to_pylist(), ["response_text"])
    pool = processes.verifiers(judge.name)
    found = verdicts(pool, judge, work["gold_answer"].to_pylist(), texts["response_text"].to_pylist(), progress)
    failed = Counter(found.filter(pc.is_null(found["reward"]))["verdict"].to_pylist())
    if failed:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(failed.items()))
        log.info("%s: no judgement of %d of %d: %s", title, failed.total(), len(found), counts)
    names = {name: work[name] for name in ("trajectory_id", "iteration")}
    names["verifier_id"] = pa.array([judge.verifier_id] * len(work))
    return {"verdicts": pa.table({**names, **{name: found[name] for name in found.column_names}})}


def verdicts(
    pool: Pool,
    judge: Verifier,
    gold_answers: list[str],
    responses: list[str],
    progress: Callable[[int, int], None],
) -> pa.Table:
    """Judges responses, one to each gold answer.

    Returns:
        verdict, reward (null: no judgement), extracted_answer (null: none was read) and seconds (0: the same answer was
        already judged in this call), in the same order.
    """
    places: dict[tuple[str, str | None], list[int]] = {}
    for place, (gold_answer, response) in enumerate(zip(gold_answers, responses, strict=True)):
        places.setdefault((gold_answer, judge.read(response)), []).append(place)
    items = sorted(places, key=lambda item: (item[0], item[1] or ""))  # a gold answer is parsed once by each worker
    found: list[dict[str, Any]] = [{}] * len(responses)
    n_done = 0
    for number, result in pool.map(items):
        said = Judgement(Verdict(result.failure), None) if result.failure else Judgement(**result.values)
        reward = REWARDS[said.verdict] if said.worth is None else said.worth
        row = {"verdict": said.verdict, "reward": reward, "extracted_answer": said.extracted_answer}
        first, *others = places[items[number]]
        found[first] = {**row, "seconds": result.seconds}
        for place in others:
            found[place] = {**row, "seconds": 0.0}
        n_done += 1 + len(others)
        progress(n_done, len(responses))
    return pa.Table.from_pylist(found, VERDICTS)
