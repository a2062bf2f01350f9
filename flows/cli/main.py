"""The `reval` command: training, asking the archive, serving. Imports wait until a command needs them."""

import json
import os
import sys
from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer

import flows.cli.archive
import flows.cli.evaluate
import flows.cli.exchange
import flows.cli.judge
import flows.cli.lineage
import flows.cli.plan
import flows.cli.train
from flows.cli.app import (
    DEFAULT_ARCHIVE,
    Archive,
    At,
    Recipe,
    RunName,
    Set,
    Verbose,
    Where,
    app,
    command,
    myself,
    print_table,
)


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@command
def init(recipe: Recipe = "arithmetic", archive: Archive = DEFAULT_ARCHIVE, set_: Set = None) -> None:
    """Make an archive with a recipe's questions and base policy. `iterate` does this too if there is none yet."""
    from pipeline.archive.store import Store
    from pipeline.inputs import policies, prompts
    from pipeline.recipes import load
    from pipeline.runs.processes import Processes
    from pipeline.runs.request import check

    config = load(recipe, set_ or [])
    request = check("init", config, archive)
    store = Store.create(archive, config.runtime.storage)
    with closing(Processes(config, store)) as processes, store.lock("base"):
        prompts.ensure(store, config)
        policy_id = policies.base_policy(store, config, request.base, processes.trainer)
        typer.echo(f"{store.layout.root}: base policy {policy_id}")


@command
def up(
    port: Annotated[int, typer.Option(help="The port to listen on, on this machine only.", min=1, max=65535)] = 4200,
) -> None:
    """Start a local Prefect server that serves the deployments reval/iterate and reval/retrain, until Ctrl-C."""
    from flows import server

    def ready(address: str) -> None:
        typer.echo(f"{address} serves reval/iterate and reval/retrain; in another terminal, from this folder:")
        if port != server.PORT:
            typer.echo(f"  export PREFECT_API_URL={address}/api")
        typer.echo("  prefect deployment run reval/iterate --watch\nCtrl-C stops it.")

    server.up(port, ready)


@command
def iterate(
    recipe: Recipe = "arithmetic",
    iterations: Annotated[
        int | None, typer.Option("--iterations", "-n", min=1, help="How many in all. Default: the recipe's.")
    ] = None,
    run: RunName = None,
    archive: Archive = DEFAULT_ARCHIVE,
    set_: Set = None,
    verbose: Verbose = False,
) -> None:
    """Train: generate, score, draw, reference, train, evaluate, and again. It goes on where it stopped before."""
    from flows.requests import handed, iterating
    from flows.server import reporting
    from pipeline.archive.store import Store
    from pipeline.runs.report import curve

    request = iterating(recipe, iterations, run, set_ or [], archive)  # before anything starts
    with reporting(), handed(request):
        from flows.iterate import iterate as flow

        run_id = flow(recipe, iterations, run, set_ or [], archive, verbose)
    statement, found = curve(Store(archive, request.config.runtime.storage), run_id)
    print_table(found)
    me, where = myself(), "" if archive == DEFAULT_ARCHIVE else f" --archive {archive}"
    typer.echo(
        f'\nThat was: {me} sql{where} "{statement}"\n\nTry next:\n'
        f'  {me} sql{where} "SELECT iteration, problem, response_text, verdict FROM rollouts USING SAMPLE 9"\n'
        f'  {me} sql{where} "SELECT source, count(*), avg(age_iterations) FROM draws GROUP BY 1"\n'
        f"  {me} retrain{where}     a new policy from the archived rollouts, without one new token\n"
        f"  {me} status{where}      what the archive holds"
    )


@command
def retrain(
    recipe: Recipe = "arithmetic",
    passes: Annotated[int, typer.Option("--passes", "-n", min=1, help="How many passes in all.")] = 5,
    run: RunName = None,
    policy: Annotated[
        str | None, typer.Option(help="The policy to start from. Default: the recipe's base policy.")
    ] = None,
    at: At = None,
    from_run: Annotated[list[str] | None, typer.Option(help="Only rollouts of this run. Can be given again.")] = None,
    from_policy: Annotated[
        list[str] | None, typer.Option(help="Only rollouts of this policy. Can be given again.")
    ] = None,
    where: Where = "",
    archives: Annotated[
        list[str] | None,
        typer.Option(
            "--archive",
            "-a",
            help="The archive. If given again, rollouts of those others (or ARCHIVE@LABEL) are brought into the first.",
        ),
    ] = None,
    set_: Set = None,
    verbose: Verbose = False,
) -> None:
    """Train a new policy from archived rollouts, of all runs or those you choose. Nothing new is generated.

    `--set replay.rule=keep_correct` chooses how they are drawn; docs/replay.md explains the rules.
    """
    from flows.requests import handed, retraining
    from flows.server import reporting
    from pipeline.archive.store import Store
    from pipeline.query import db

    archive, *others = archives or [DEFAULT_ARCHIVE]
    chosen = {"runs": from_run, "policies": from_policy, "where": where}
    lines = [f"retrain.{name}={json.dumps(value, ensure_ascii=False)}" for name, value in chosen.items() if value]
    lines = [*(set_ or []), *lines]
    request = retraining(recipe, passes, run, policy, at, others, lines, archive)
    with reporting(), handed(request):
        from flows.retrain import retrain as flow

        run_id = flow(recipe, passes, run, policy, at, others, lines, archive, verbose)
    newest = f"SELECT policy_id FROM progress WHERE run_id = '{run_id}' ORDER BY iteration DESC LIMIT 1"
    policy_id = db.ask(Store(archive, request.config.runtime.storage), newest).read_all()["policy_id"][0]
    typer.echo(f"run {run_id} made {policy_id}; {myself()} evaluate {policy_id} says how good it is")


@command
def sql(
    statement: Annotated[
        str,
        typer.Argument(help="One SELECT over the tables and views; docs/tables.md has their columns."),
    ],
    format_: Annotated[Format, typer.Option("--format", "-f", help="How the answer is printed.")] = Format.TABLE,
    at: At = None,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Ask the archive in SQL. A statement can only read, and only this archive.

    Views beside the tables: `rollouts`, `progress`, `training`, `lineage`, `scores`; of verdicts `judges`,
    `disagreements`; of draws `trajectory_uses`, `update_mix`, `update_ages`, `update_rows`.

    `DESCRIBE rollouts` lists columns; `SELECT table_name, column_name, comment FROM duckdb_columns()` explains those of
    tables. The name of the table `references` must be written in double quotes.
    """
    from flows.cli.formats import write
    from pipeline.archive.store import Store
    from pipeline.query import db
    from pipeline.query import states as versions

    store = Store(archive)
    reader = db.ask(store, statement, versions.resolve(store, at).versions)
    if format_ is Format.TABLE:
        print_table(reader.read_all())
    else:
        try:
            write(reader, format_.value, sys.stdout.buffer)
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@command
def status(at: At = None, archive: Archive = DEFAULT_ARCHIVE) -> None:
    """Show what the archive holds: its runs, how far each has come, and its tables."""
    from pipeline.archive.store import Store
    from pipeline.query import db
    from pipeline.query import states as versions

    store = Store(archive)
    connection = db.connect(store, versions.resolve(store, at).versions)
    typer.echo(f"{store.layout.root}")
    for name in ("runs_status", "tables_status"):
        print_table(db.rows(connection, name))


def _stage(name: str, summary: str) -> None:
    """Adds the command of a stage, which runs it in the present iteration of a run."""

    def run_stage(
        recipe: Recipe = "arithmetic",
        run: RunName = None,
        archive: Archive = DEFAULT_ARCHIVE,
        set_: Set = None,
        verbose: Verbose = False,
    ) -> None:
        from flows.cli.stages import run_one
        from pipeline.recipes import load

        config = load(recipe, set_ or [])
        run_id, iteration = run_one(name, config, archive, run, verbose=verbose)
        typer.echo(f"run {run_id}, iteration {iteration}: {name} is done")
        if name == "score":
            flows.cli.judge.report_stage(archive, config, run_id, iteration)

    run_stage.__doc__ = summary
    run_stage.__name__ = name
    command(run_stage)


_stage("generate", "Stage 1: generate the rollouts of an iteration.")
_stage("score", "Stage 2: judge the rollouts that have no verdict yet.")
_stage("draw", "Stage 3: draw the rollouts that each update trains on.")
_stage("reference", "Stage 4: compute the reference policy's log-probability and value of each drawn rollout.")


def main() -> None:
    """Runs the command. The other modules add their commands when they are imported."""
    app()


if __name__ == "__main__":
    main()
