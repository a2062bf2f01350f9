"""iterate: generate, score, draw, reference, train, evaluate, and again. The whole program is on this page."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.cli.errors import errors_on_one_line
from flows.requests import iterating
from flows.tasks import draw, evaluate, generate, reference, score, train
from pipeline.recipes import Overrides
from pipeline.runs.loop import iterations as each_iteration
from pipeline.runs.run import open_run
from schemas.ids import NAME_PATTERN

errors_on_one_line()


@flow(name="reval", flow_run_name="iterate-{recipe}", persist_result=False)
def iterate(
    recipe: str = "arithmetic",
    iterations: Annotated[int, Field(ge=1)] | None = None,
    run: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None,
    overrides: Overrides = {},  # noqa: B006  Prefect shows the default in its form; nothing changes it
    archive: str | None = None,
    verbose: bool = False,
) -> str:
    """Trains a policy: each iteration generates new rollouts, archives them, and trains on them and on past ones.

    Args:
        recipe: a recipe's name, or the path of a TOML file.
        iterations: how many in all. Default: the recipe's.
        run: the run's name. Default: the unfinished run of these settings, or else a new one.
        overrides: settings on top of the recipe, by dotted name: {"train.beta": 0.5}.
        archive: the archive's folder. Default: REVAL_ARCHIVE, or `archive` where the flow runs.
        verbose: show the output of the engine and the trainer.
    """
    with open_run(iterating(recipe, iterations, run, overrides, archive), verbose=verbose) as this:
        evaluate(this, 0)
        for i in each_iteration(this):
            generate(this, i)
            score(this, i)
            draw(this, i)
            reference(this, i)
            train(this, i)
            evaluate(this, i)
        return this.run_id
