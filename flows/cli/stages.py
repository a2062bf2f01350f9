"""Runs one stage by itself, in the present iteration of a run. `iterate` can go on from any point."""

from pipeline.recipes.config import Config
from pipeline.runs.loop import end
from pipeline.runs.request import check
from pipeline.runs.run import Run, open_run
from pipeline.stages.order import STAGES
from schemas import UserError

# `train` evaluates too, and ends the iteration.
*COMMANDS, EVALUATE = STAGES


def run_one(name: str, config: Config, archive: str, run: str | None, *, verbose: bool) -> tuple[str, int]:
    """Runs a stage of a run's present iteration; `train` ends the iteration.

    Returns:
        the run's name and the iteration.

    Raises:
        UserError: the stage before it has not been run.
    """
    request = check("iterate", config, archive, name=run)
    with open_run(request, begin=name == COMMANDS[0], verbose=verbose) as this:
        iteration = ready(this, name)
        STAGES[name](this, iteration)
        if name == COMMANDS[-1]:
            STAGES[EVALUATE](this, iteration)
            end(this, iteration)
        return this.run_id, iteration


def ready(run: Run, name: str) -> int:
    """The present iteration of a run, if this stage can be run in it.

    Raises:
        UserError: the stage before it has not been run.
    """
    iteration, place = run.next_iteration(), COMMANDS.index(name)
    before = COMMANDS[place - 1] if place else None
    if before and not run.has_ended(iteration, before):
        raise UserError(f"run {run.run_id}, iteration {iteration}: {before} comes first; run `reval {before}`")
    return iteration
