"""One stage by itself, on the iteration the run has come to. `iterate` can take over at any point."""

from pipeline.recipes.config import Config
from pipeline.runs.report import end
from pipeline.runs.run import Run, open_run
from pipeline.stages.draw import draw
from pipeline.stages.evaluate import evaluate
from pipeline.stages.generate import generate
from pipeline.stages.reference import reference
from pipeline.stages.score import score
from pipeline.stages.train import train
from schemas import UserError

STAGES = {"generate": generate, "score": score, "draw": draw, "reference": reference, "train": train}


def run_one(name: str, config: Config, archive: str, run: str | None, *, verbose: bool) -> tuple[str, int]:
    """Runs a stage of a run's present iteration; `train` ends the iteration.

    Returns:
        the run's name and the iteration.

    Raises:
        UserError: the stage before it has not been run.
    """
    first, *_, last = STAGES
    with open_run("iterate", config, archive, name=run, begin=name == first, verbose=verbose) as this:
        iteration = ready(this, name)
        STAGES[name](this, iteration)
        if name == last:
            evaluate(this, iteration)
            end(this, iteration)
        return this.run_id, iteration


def ready(run: Run, name: str) -> int:
    """The iteration a run has come to, if it has come to this stage of it.

    Raises:
        UserError: the stage before it has not been run.
    """
    order, iteration = list(STAGES), run.next_iteration()
    before = order[order.index(name) - 1] if name != order[0] else None
    if before and not run.has_ended(iteration, before):
        raise UserError(f"run {run.run_id}, iteration {iteration}: {before} comes first; run `reval {before}`")
    return iteration
