"""Repairs an archive: completes shards, moves damaged files to quarantine, computes lost verdicts and references again.

No committed row is deleted: a damaged file is moved to `quarantine/` under its own path, and earlier snapshots still
name it.
"""

from collections.abc import Iterator
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive import torn
from pipeline.archive import weights as weights_
from pipeline.archive.files import put_aside
from pipeline.archive.layout import shard_file
from pipeline.archive.materialise import commit
from pipeline.archive.store import Store
from pipeline.inputs.policies import policy_location
from pipeline.query import db
from pipeline.recipes.config import Config, recorded
from pipeline.runs.processes import Processes
from pipeline.stages.reference import sums
from pipeline.stages.score import shards
from pipeline.upkeep import check
from pipeline.verifiers import verifier
from schemas import TABLES, UserError, digest


def repair(store: Store) -> Iterator[str]:
    """Repairs the archive as far as possible; yields a line for each repair.

    Raises:
        UserError: a run is going on.
    """
    with store.alone("check --repair"):
        for name in TABLES:
            for path in torn.put_aside(store.files, name):
                yield f"{path}: torn, put aside"
        yield from _finish(store)
        state = store.versions()
        for finding in check.files(store, state):
            if finding.kind is check.Kind.ORPHAN:
                put_aside(store.files, finding.where)
                yield f"{finding.where}: belonged to nothing, put aside"
            elif finding.kind is check.Kind.DAMAGED:
                name = finding.where.split("/")[0]
                store.replace(name, [finding.where], [])
                if finding.what != "missing":
                    put_aside(store.files, finding.where)
                yield f"{finding.where}: {finding.what}; taken out of the table" + _remedy(name)
        for address in weights_.cut_short(store):
            store.files.clear(address)
            yield f"{address}: pruned, and what was left of it is deleted"
        yield from _again(store)


def _finish(store: Store) -> Iterator[str]:
    """Commits the rest of shards that are committed in one table: before that commit all their files were written."""
    names = {name: store.transactions(name) for name in TABLES}
    shards = set().union(*names.values())
    for name in TABLES:
        waiting = set(store.files.listing(name)) - store.ever_logged(name)
        for shard in sorted(shards - names[name]):
            if (path := shard_file(shard, name)) in waiting:
                store.append(name, {path: None}, [shard])
                yield f"{path}: the rest of a shard half committed, committed"


def _remedy(name: str) -> str:
    if name in ("verdicts", "references"):
        return ""
    return f"; its rows of {name} are lost unless a copy is put back: only verdicts and references are made again"


def _again(store: Store) -> Iterator[str]:
    """Judges rollouts with lost verdicts again, and computes the lost references of finished passes again."""
    for run in db.query(store, "runs_recorded").to_pylist():
        config = recorded(run["recipe"], run["config"])
        work = db.query(store, "lost_verdicts", run_id=run["run_id"], verifier=config.score.verifier)
        if run["flow"] == "iterate" and len(work):
            try:
                judge = verifier(config.score.verifier)
            except UserError as error:  # for example a user's function is gone: go on with the other repairs
                yield f"{len(work):,} verdicts of run {run['run_id']} are lost: {error}"
                continue
            with closing(Processes(config, store)) as processes:
                commit(store, _name(store, "verdicts"), shards(store, processes, judge, work, "judge again"))
            yield f"{len(work):,} verdicts of run {run['run_id']} by {judge.verifier_id}: judged again"
    work, config = db.query(store, "lost_references"), Config(recipe="repair")
    kinds = {(row["reference_id"], row["precision"]) for row in work.select(["reference_id", "precision"]).to_pylist()}
    for reference_id, precision in sorted(kinds):
        part = work.filter((pc.field("reference_id") == reference_id) & (pc.field("precision") == precision))
        try:
            policy_location(store, reference_id)
        except UserError as error:  # for example it was pruned: go on with the others
            yield f"{len(part):,} rows of reference {reference_id} are lost: {error}"
            continue
        with closing(Processes(config, store)) as processes:
            rows = sums(processes.trainer(), store, reference_id, part, precision, config.runtime, "refer again")
        rows = rows.append_column("pass_id", pa.nulls(len(rows), pa.string()))
        of_rows = digest(reference_id, precision, *part["trajectory_id"].to_pylist())
        store.write(f"{_name(store, 'references')}/{of_rows}", {"references": rows})
        yield f"{len(rows):,} rows of reference {reference_id}: computed again"
    store.snapshot_now("repair")


def _name(store: Store, table: str) -> str:
    """The shard name for rows made again. It is new each time: else rows lost twice would count as committed."""
    return f"repair/{store.versions()[table]}"
