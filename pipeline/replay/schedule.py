"""The parts of each update of an iteration, by the recipe's schedule. Reads no rollouts and no archive."""

from dataclasses import dataclass

from pipeline.recipes.config import FRESH, Config, Replay
from pipeline.recipes.schedules import rows
from schemas import UserError
from schemas.enums import Source

EVERYTHING = 1 << 62


@dataclass(frozen=True)
class Part:
    """Rows of an update that one rule draws. `youngest` is an age in iterations: 1 leaves the newest batch out."""

    update: int
    rule: str
    n_draws: int
    youngest: int = 0
    alone: bool = True  # the paper's schedules: no other rule draws for this update

    @property
    def source(self) -> Source:
        return Source.FRESH if self.rule == FRESH else Source.REPLAY


def parts(settings: Replay, iteration: int, *, fresh: bool) -> list[Part]:
    """The parts of an iteration's updates, in the order they are drawn.

    Args:
        fresh: whether the iteration has generated rollouts. In a retraining it has not: there the rule also draws the
            update that the paper's schedule makes of fresh rollouts.
    """
    numbers = range(settings.updates_per_iteration)
    if not settings.shares:
        first = fresh and settings.schedule == "paper_appendix_a"
        return [
            Part(n, FRESH, EVERYTHING) if first and n == 0 else Part(n, settings.rule, settings.batch_trajectories)
            for n in numbers
        ]
    found = []
    for n in numbers:
        shares = settings.shares[min(n, len(settings.shares) - 1)]
        youngest = int(FRESH in shares)
        for rule, n_draws in rows(shares, iteration, settings.batch_trajectories).items():
            if n_draws:
                found.append(Part(n, rule, n_draws, 0 if rule == FRESH else youngest, alone=False))
    return sorted(found, key=lambda part: (part.update, part.rule != FRESH))


def n_fresh(config: Config) -> int:
    """Rollouts that an iteration generates."""
    return config.generate.prompts_per_iteration * config.generate.samples_per_prompt


def check(config: Config) -> None:
    """Finds updates that could never have enough rows, however many iterations the run has.

    Raises:
        UserError: an update needs more fresh rows than an iteration makes, or more older rows than the bounds allow.
    """
    settings, fresh = config.replay, n_fresh(config)
    window = EVERYTHING if settings.window_trajectories == "all" else settings.window_trajectories
    if settings.max_age_iterations is not None:
        window = min(window, fresh * (settings.max_age_iterations + 1))
    for iteration in range(1, config.iterations + 1):
        for part in parts(settings, iteration, fresh=True):
            if part.n_draws == EVERYTHING:
                continue
            there = fresh if part.rule == FRESH else window - fresh * part.youngest
            if part.n_draws > there:
                what = "fresh rows" if part.rule == FRESH else f"rows of {part.rule}"
                raise UserError(
                    f"replay, iteration {iteration}, update {part.update + 1}: it asks for {part.n_draws:,} {what}, and "
                    f"there are never more than {max(there, 0):,} to draw from; make the batch or the share smaller, "
                    "or generate or keep more"
                )
