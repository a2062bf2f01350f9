"""`reval rescore`, `reval verifiers`, and the report of `reval score`."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import DEFAULT_ARCHIVE, Archive, At, Recipe, Set, Where, command, print_table

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.archive.store import Store
    from pipeline.recipes.config import Config


REPORT = {
    "judged_counts": "",
    "judged_slowest": "\nThe slowest:",
    "judged_bad_gold": "\nGold answers that it cannot read, so that no answer to them is judged:",
    "judged_otherwise": "\nWhere another verifier says otherwise; the view `disagreements` has them all:",
}


@command
def rescore(
    verifier: Annotated[
        str, typer.Option(help="NAME or NAME:ARGUMENT, with or without @VERSION. `reval verifiers` lists them.")
    ],
    at: At = None,
    where: Where = "",
    recipe: Recipe = "arithmetic",
    archive: Archive = DEFAULT_ARCHIVE,
    set_: Set = None,
) -> None:
    """Judge archived rollouts with another verifier, of all runs and imports or those you choose. Old verdicts stay.

    Rollouts that this verifier has already judged are left out. `--set score.max_seconds=2` sets the time limit of a
    check, `--set runtime.verifier_workers=8` the number of processes.
    """
    from pipeline import verifiers as known
    from pipeline.archive.store import Store
    from pipeline.query import states as versions
    from pipeline.query.db import connect
    from pipeline.recipes import load
    from pipeline.replay import expressions
    from pipeline.runs.processes import Processes
    from pipeline.stages import score

    judge = known.verifier(verifier)
    config = load(recipe, [*(set_ or []), f"score.verifier={verifier}"])
    store = Store(archive, config.runtime.storage)
    state = versions.resolve(store, at).versions
    if where.strip():
        wanted = expressions.wanted(store, state, where, "--where")
    else:
        everything = "SELECT trajectory_id FROM trajectories"
        wanted = connect(store, state, only=everything).sql(everything).to_arrow_table()
    with closing(Processes(config, store)) as processes:
        n_judged, seconds = score.rescore(store, processes, judge, state, wanted)
    _report(store, judge.verifier_id, wanted, n_judged, seconds)


@command
def verifiers() -> None:
    """List the verifiers, each with a gold answer and a response that it judges correct.

    A recipe names one: `--set score.verifier=NAME`. The reward of each verdict is set in the recipe's section `reward`.
    """
    import pyarrow as pa

    from pipeline.verifiers import IMPORTED, NAMES, python, verifier

    found = [verifier(name) for name in NAMES if name != "python"]
    rows = [(one.verifier_id, one.summary, *one.example) for one in found]
    rows += [
        ("python:MODULE:FUNCTION", python.SUMMARY, None, None),
        (IMPORTED, "nothing: it stands for labels that came with a file", None, None),
    ]
    names = ("verifier", "judges", "gold_answer", "right_response")
    print_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]))


def report_stage(archive: str, config: "Config", run_id: str, iteration: int) -> None:
    """Prints the report of an iteration's score stage."""
    from pipeline.archive.store import Store
    from pipeline.query import db
    from pipeline.verifiers import verifier_id

    store = Store(archive, config.runtime.storage)
    wanted = db.query(store, "judged_in", run_id=run_id, iteration=iteration)
    _report(store, verifier_id(config.score.verifier), wanted, None, wanted["seconds"][0].as_py())


def _report(store: "Store", verifier_id: str, wanted: "pa.Table", n_judged: int | None, seconds: float | None) -> None:
    """Prints counts, slowest rollouts, unreadable gold answers, other verdicts; `n_judged` None: all of `wanted`."""
    import pyarrow.compute as pc

    from pipeline.query import db

    connection = db.connect(store)
    connection.register("wanted", wanted)
    found = {name: db.rows(connection, name, verifier_id=verifier_id) for name in REPORT}
    n_known = pc.sum(found["judged_counts"]["n_rollouts"]).as_py() or 0
    n_now = n_known if n_judged is None else n_judged
    rate = f" in {seconds:.1f} s, {n_now / seconds:,.0f} a second" if seconds and n_now else ""
    before = f"; {n_known - n_now:,} it had judged before" if n_known > n_now else ""
    typer.echo(f"{verifier_id} judged {n_now:,} rollouts{rate}{before}")
    for name, title in REPORT.items():
        if len(found[name]):
            typer.echo(title, nl=bool(title))
            print_table(found[name])
