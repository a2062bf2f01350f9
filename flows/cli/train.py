"""`reval train`: trains an iteration's pass, or only prepares it and shows how much memory it needs."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import DEFAULT_ARCHIVE, Archive, Recipe, RunName, Set, Verbose, command

if TYPE_CHECKING:
    from pipeline.runs.run import Run


@command
def train(
    recipe: Recipe = "arithmetic",
    run: RunName = None,
    archive: Archive = DEFAULT_ARCHIVE,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only write the folder of the pass and say how much memory it takes; nothing is loaded or trained.",
        ),
    ] = False,
    set_: Set = None,
    verbose: Verbose = False,
) -> None:
    """Stage 5: train on the draws and evaluate, which ends the iteration.

    The folder that --dry-run writes is all that `accelerate launch -m reval.trainer FOLDER` needs, on a machine with
    torch, transformers, accelerate and pyarrow. When the pass was trained there, `reval train` takes over its result.
    """
    from flows.cli.stages import run_one
    from pipeline.recipes import load
    from pipeline.runs.request import check
    from pipeline.runs.run import open_run

    config = load(recipe, set_ or [])
    if not dry_run:
        run_id, iteration = run_one("train", config, archive, run, verbose=verbose)
        typer.echo(f"run {run_id}, iteration {iteration}: train is done")
        return
    with open_run(check("iterate", config, archive, name=run), begin=False, verbose=verbose) as this:
        _dry(this)


def _dry(run: "Run") -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from flows.cli.plan import memory
    from flows.cli.stages import ready
    from pipeline.runs.costs import Measured, parameters
    from pipeline.stages.train import prepare

    iteration = ready(run, "train")
    pass_id, layout = run.policy_id(iteration), run.store.layout
    folder = layout.scratch(pass_id)
    prepare(run, iteration, folder, layout.weights(pass_id), layout.optimizer(pass_id))
    rows = pq.read_table(folder / "rollouts.parquet", columns=["prompt_token_ids", "response_token_ids"])
    n_tokens = pc.add(*(pc.list_value_length(column) for column in rows.columns))
    longest, total = pc.max(n_tokens).as_py() or 0, pc.sum(n_tokens).as_py() or 0
    typer.echo(f"{pass_id}: {len(rows):,} rollouts of {total:,} tokens, the longest of {longest:,}")
    location = run.location(run.policy_id(iteration - 1))
    typer.echo(memory(run.config, location, *parameters(location, Measured()), longest))
    typer.echo(
        f"accelerate launch -m reval.trainer {folder}\n"
        "trains it where this is; then `reval train` takes over what was made. Without that, `reval train` does all."
    )
