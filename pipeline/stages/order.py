"""The stages of an iteration, by name, in the order in which they run."""

from collections.abc import Callable

from pipeline.runs.run import Run
from pipeline.stages.draw import draw
from pipeline.stages.evaluate import evaluate
from pipeline.stages.generate import generate
from pipeline.stages.reference import reference
from pipeline.stages.score import score
from pipeline.stages.train import train

# Each takes a run and the number of its iteration. The names are those in `snapshots.stage` and in `progress`.
STAGES: dict[str, Callable[[Run, int], None]] = {
    stage.__name__: stage for stage in (generate, score, draw, reference, train, evaluate)
}
