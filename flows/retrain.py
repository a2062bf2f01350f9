"""retrain: draws and trains over rollouts that are already in the archive. No engine, no new tokens."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.cli.errors import errors_on_one_line
from flows.requests import retraining
from flows.tasks import draw, reference, train
from pipeline.recipes import Overrides
from pipeline.runs.loop import iterations as each_pass
from pipeline.runs.run import open_run
from schemas.ids import NAME_PATTERN

errors_on_one_line()


@flow(name="reval", flow_run_name="retrain-{recipe}", persist_result=False)
def retrain(
    recipe: str = "arithmetic",
    passes: Annotated[int, Field(ge=1)] = 5,
    run: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None,
    policy: str | None = None,
    at: str | None = None,
    more_archives: list[str] = [],  # noqa: B006  like overrides
    overrides: Overrides = {},  # noqa: B006  Prefect shows the default in its form; nothing changes it
    archive: str | None = None,
    verbose: bool = False,
) -> str:
    """Trains a new policy only from archived rollouts, of every run, as the archive was when this run began.

    Args:
        recipe: a recipe's name, or the path of a TOML file.
        passes: how many passes in all; each draws its updates from the whole archive, or from the window you override.
        run: the new run's name. Default: the unfinished run of these settings, or else a new one.
        policy: the policy to start from. Default: the recipe's base policy.
        at: the state of the archive to draw from: a snapshot, a label, or a time. Default: the state when the run begins.
        more_archives: others whose rollouts are first brought into the archive: ARCHIVE as it is now, or ARCHIVE@LABEL.
        overrides: settings on top of the recipe, by dotted name: {"replay.window_trajectories": 5120}.
        archive: the archive's folder. Default: REVAL_ARCHIVE, or `archive` where the flow runs.
        verbose: show the output of the trainer.
    """
    request = retraining(recipe, passes, run, policy, at, more_archives, overrides, archive)
    with open_run(request, verbose=verbose) as this:
        for i in each_pass(this):
            draw(this, i)
            reference(this, i)
            train(this, i)
        return this.run_id
