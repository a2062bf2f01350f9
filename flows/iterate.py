"""iterate: generate, score, draw, reference, train, evaluate, and again. The whole program is this page."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.tasks import draw, evaluate, generate, reference, report, score, summary, train
from pipeline.layout import ARCHIVE
from pipeline.recipes import recipe as load_recipe
from pipeline.run import open_run
from schemas.ids import NAME_PATTERN

RunName = Annotated[str, Field(pattern=NAME_PATTERN)]


@flow(name="reval", flow_run_name="iterate-{recipe}")
def iterate(
    recipe: str = "arithmetic",
    iterations: Annotated[int, Field(ge=1)] | None = None,
    run: RunName | None = None,
    overrides: list[str] = [],  # noqa: B006  Prefect shows the default in its form; nothing changes it
    archive: str = ARCHIVE,
) -> str:
    """Trains a policy: each iteration generates new rollouts, archives them, and trains on them and on past ones.

    Args:
        recipe: a recipe's name, or the path of a TOML file.
        iterations: how many in all; default: the recipe's.
        run: the run's name. Default: the unfinished run of these settings, or else a new one.
        overrides: settings on top of the recipe, each `section.key=value`.
        archive: the archive's folder.
    """
    settings = load_recipe(recipe, [*overrides, *([f"iterations={iterations}"] if iterations else [])])
    with open_run("iterate", settings, archive, name=run) as this:
        evaluate(this, 0)
        for i in range(this.next_iteration(), settings.iterations + 1):
            generate(this, i)
            score(this, i)
            draw(this, i, run_id=this.run_id)
            reference(this, i)
            train(this, i)
            evaluate(this, i)
            report(this, i)
        return summary(this)
