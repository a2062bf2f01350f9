"""Commands for looking after the archive: its states, checks and repair, and disk space."""

import sys
from typing import Annotated

import typer

from flows.cli.app import DEFAULT_ARCHIVE, Archive, At, Verbose, command, print_table
from schemas import UserError


@command
def snapshots(
    n: Annotated[int | None, typer.Option("--last", "-n", min=1, help="Show only the last so many.")] = None,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """List the snapshots: when each was made, by which stage, the rows it added, and its labels."""
    from pipeline.archive.store import Store
    from pipeline.query import db

    print_table(db.query(Store(archive), "snapshots_listed", n=n))


@command
def tag(
    snapshot: Annotated[str, typer.Argument(help="A snapshot, a label, a time, or `now` for the newest snapshot.")],
    label: Annotated[str, typer.Argument(help="The name it gets. A label cannot be moved later.")],
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Give a snapshot a label. `--at` takes a label wherever it takes a snapshot."""
    from pipeline.archive.store import Store
    from pipeline.query import states as versions

    typer.echo(f"{label} is snapshot {versions.tag(Store(archive), snapshot, label)}")


@command
def diff(
    a: Annotated[
        str, typer.Argument(help="A snapshot, a label, a time or `now`. For another archive: ARCHIVE@SNAPSHOT.")
    ],
    b: Annotated[str, typer.Argument(help="The state to compare it with, written the same way.")] = "now",
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Show what changed between two states, table by table: rows only in A, only in B, and rows with other values.

    The exit code is 0 if they are equal and 1 if not. The tables snapshots and labels are not compared.
    """
    import pyarrow as pa

    from pipeline.archive.store import Store
    from pipeline.query import states as versions

    def state(text: str) -> tuple[Store, versions.State]:
        where, found, at = text.rpartition("@")
        store = Store(where if found else archive)
        return store, versions.resolve(store, at)

    found = list(versions.diff(*state(a), *state(b)))
    columns = ("table", "n_equal", "only_a", "only_b", "changed")
    print_table(pa.Table.from_pylist([{name: getattr(row, name) for name in columns} for row in found]))
    equal = all(row.equal for row in found)
    typer.echo("equal" if equal else "different")
    raise typer.Exit(0 if equal else 1)


@command
def check(
    repair: Annotated[bool, typer.Option("--repair", help="Repair the archive first, as far as possible.")] = False,
    at: At = None,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Check that the archive is whole: every file, row count and checksum, and every reference between tables.

    The exit code is 0 if it is and 1 if not. With --repair, files that are damaged or belong to nothing are moved to
    `quarantine/`, and verdicts and references that were lost with them are computed again. Nothing is deleted.
    """
    from pipeline.archive import weights as weights_
    from pipeline.archive.store import Store
    from pipeline.upkeep import check as checking
    from pipeline.upkeep import repair as repairing

    store = Store(archive)
    if repair:
        if at is not None:
            raise UserError("check: --repair mends the archive as it is now; leave --at out")
        for line in repairing.repair(store):
            typer.echo(line)
    n = 0
    for finding in checking.check(store, at):
        typer.echo(f"{finding.where}: {finding.what}")
        n += 1
    if pruned := weights_.pruned(store):
        typer.echo(f"{len(pruned):,} weights and optimizer states are not there because they were pruned")
    typer.echo(f"{store.layout.root}: " + (f"{n} findings; `reval check --repair` mends what can be" if n else "whole"))
    raise typer.Exit(1 if n else 0)


@command
def compact(archive: Archive = DEFAULT_ARCHIVE) -> None:
    """Merge small files of the tables into larger ones. No query and no snapshot changes; `vacuum` then frees space."""
    from pipeline.archive.store import Store
    from pipeline.upkeep import compaction

    done = None
    for done in compaction.compact(Store(archive)):
        typer.echo(done)
    if done is None:
        typer.echo("nothing to merge")


@command
def vacuum(
    keep_snapshots: Annotated[
        str,
        typer.Option(
            "--keep-snapshots",
            help="Which snapshots must stay readable: all, labelled, a number (the last so many), or a list a,b,c.",
        ),
    ] = "all",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Delete files that neither the archive as it is now nor a kept snapshot needs. Shows first what that would free."""
    from pipeline.archive.store import Store
    from pipeline.upkeep import compaction

    store = Store(archive)
    plan = compaction.plan_vacuum(store, keep_snapshots)
    for line in plan.lines():
        typer.echo(line)
    if plan.files and _agreed("vacuum", yes):
        typer.echo(f"freed {compaction.vacuum(store, plan) / 1e6:,.1f} MB")


@command
def prune(
    policies_every: Annotated[
        int | None,
        typer.Option(min=1, help="Keep the weights of every n-th iteration only. Default: 1, which keeps all."),
    ] = None,
    optimizer_states: Annotated[
        int | None, typer.Option(min=0, help="Keep so many of a run's newest optimizer states; 0 keeps all. Default: 2.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only weights of this run. Default: of every run.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Delete weights and optimizer states of past iterations, as the settings `keep` do while a run goes on.

    Shows first what would be deleted, and what stays because a run or a labelled snapshot needs it. No row is deleted.
    """
    from pipeline.archive.store import Store
    from pipeline.recipes.config import Keep
    from pipeline.runs import keep

    given = {"policies_every": policies_every, "optimizer_states": optimizer_states}
    store = Store(archive)
    found = keep.prunings(store, run, Keep(**{name: value for name, value in given.items() if value is not None}))
    for line in (line for pruning in found for line in pruning.lines()):
        typer.echo(line)
    n_bytes = sum(pruning.n_bytes for pruning in found)
    typer.echo(f"{n_bytes / 1e6:,.1f} MB to free")
    if n_bytes and _agreed("prune", yes):
        typer.echo(f"freed {keep.carry_out(store, found) / 1e6:,.1f} MB")


def _agreed(what: str, yes: bool) -> bool:
    """Whether the user agrees to the deletion.

    Raises:
        UserError: there is no terminal to ask on.
    """
    if not yes and not sys.stdin.isatty():
        raise UserError(f"{what}: nothing was deleted; run it again with --yes")
    return yes or typer.confirm("Delete them?")


@command
def repeat(
    pass_id: Annotated[
        str, typer.Argument(metavar="PASS", help="A training pass: reval sql 'SELECT pass_id FROM passes' lists them.")
    ],
    archive: Archive = DEFAULT_ARCHIVE,
    verbose: Verbose = False,
) -> None:
    """Draw and train a finished pass again from its snapshot, and compare. The archive is not changed.

    The exit code is 0 if draws and weights are the same and 1 if not.
    """
    from pipeline.archive.store import Store
    from pipeline.upkeep.repeat import repeat

    found = repeat(Store(archive), pass_id, verbose=verbose)
    typer.echo(
        f"{pass_id}: {found.n_draws_equal:,} of {found.n_draws:,} draws the same; weights "
        + ("the same, bit for bit" if found.weights_equal else "not the same")
        + f"; residuals at most {found.max_residual_gap:.2g} nats apart"
    )
    raise typer.Exit(0 if found.equal else 1)
