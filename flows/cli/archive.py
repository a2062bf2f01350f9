"""Commands that look after the archive: its states, whether it is whole, and its disk space."""

import sys
from typing import Annotated

import typer

from flows.cli.app import DEFAULT_ARCHIVE, Archive, At, Verbose, command, print_table
from schemas import UserError


@command
def snapshots(
    n: Annotated[int | None, typer.Option("--last", "-n", min=1, help="Only the last so many.")] = None,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """The states of the archive that have a name: when, by which stage, what it added, and labels."""
    from pipeline.archive.store import Store
    from pipeline.query import db

    print_table(db.query(Store(archive), "snapshots_listed", n=n))


@command
def tag(
    snapshot: Annotated[str, typer.Argument(help="A snapshot, a label, a time, or `now`: the newest snapshot.")],
    label: Annotated[str, typer.Argument(help="The name it gets, for ever.")],
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Give a snapshot a label, which `--at` then takes wherever a snapshot can stand."""
    from pipeline.archive.store import Store
    from pipeline.query import states as versions

    typer.echo(f"{label} is snapshot {versions.tag(Store(archive), snapshot, label)}")


@command
def diff(
    a: Annotated[str, typer.Argument(help="A snapshot, label, time or `now`; of another archive, ARCHIVE@SNAPSHOT.")],
    b: Annotated[str, typer.Argument(help="Likewise.")] = "now",
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """What changed between two states, table by table: rows only in A, only in B, or with other values.

    Exit code 0 if they are equal, 1 if not. Snapshots and labels name states, and are not compared.
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
    repair: Annotated[
        bool, typer.Option("--repair", help="Put aside what is damaged, and make again what can be.")
    ] = False,
    at: At = None,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Whether the archive is whole: every file, count and checksum, and every reference between tables.

    Exit code 0 if it is, 1 if not. With --repair, what is damaged or belongs to nothing goes to `quarantine/`, and
    verdicts and references that were lost with it are computed again; nothing is deleted.
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
    """Merge small files of the tables into larger ones. No answer changes, and no snapshot; `vacuum` frees the space."""
    from pipeline.archive.store import Store
    from pipeline.upkeep import compaction

    done = None
    for done in compaction.compact(Store(archive)):
        typer.echo(done)
    if done is None:
        typer.echo("nothing to merge")


@command
def vacuum(
    keep: Annotated[
        str, typer.Option("--keep-snapshots", help="all, labelled, a number (the last so many), or a list: a,b,c.")
    ] = "all",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Delete files that neither the archive as it is now nor a kept snapshot needs. Says first what that would free."""
    from pipeline.archive.store import Store
    from pipeline.upkeep import compaction

    store = Store(archive)
    plan = compaction.plan_vacuum(store, keep)
    for line in plan.lines():
        typer.echo(line)
    if plan.files and _agreed("vacuum", yes):
        typer.echo(f"freed {compaction.vacuum(store, plan) / 1e6:,.1f} MB")


@command
def prune(
    policies_every: Annotated[
        int | None, typer.Option(min=1, help="Keep the weights of every so-many-th iteration. Default: 1, which is all.")
    ] = None,
    optimizer_states: Annotated[
        int | None, typer.Option(min=0, help="Keep a run's newest so many optimizer states; 0 is all. Default: 2.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only of this run. Default: of every run.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    archive: Archive = DEFAULT_ARCHIVE,
) -> None:
    """Delete weights and optimizer states of past iterations, as a recipe's section `keep` does while a run goes on.

    Says first what would go, and what stays because a run or a labelled snapshot needs it. No row is deleted.
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
    """Whether what was shown is to be deleted.

    Raises:
        UserError: nobody can be asked.
    """
    if not yes and not sys.stdin.isatty():
        raise UserError(f"{what}: nothing was deleted; run it again with --yes")
    return yes or typer.confirm("Delete them?")


@command
def repeat(
    pass_id: Annotated[str, typer.Argument(metavar="PASS", help="A pass: reval sql 'SELECT pass_id FROM passes'.")],
    archive: Archive = DEFAULT_ARCHIVE,
    verbose: Verbose = False,
) -> None:
    """Draw and train a finished pass again, from the snapshot it pinned, and compare. The archive stays as it is.

    Exit code 0 if draws and weights are the same, 1 if not.
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
