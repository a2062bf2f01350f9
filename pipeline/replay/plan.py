"""Plans a run: draws from made-up rollouts, with the same code that draws in the run.

Every rule and schedule is planned as it will run. Only what is not known yet differs: rewards are made up, all responses
have the same length, and no rollout has a residual. Nothing is random, and no archive is needed.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import duckdb
import pyarrow as pa

from pipeline.progress import log
from pipeline.query import db
from pipeline.recipes.config import FRESH, Config
from pipeline.recipes.schedules import n_iterations
from pipeline.replay import draws
from pipeline.replay.schedule import check, n_fresh, parts
from schemas import pass_name

# The most rollouts that are made up at a time; an iteration then takes 0.2 s. Of a run that draws from more, only the
# first iterations are planned.
MOST_ROLLOUTS = 50_000
MOST_SHOWN = 12


@dataclass(frozen=True)
class Planned:
    """The rows an iteration's pass would train on. Ages are in iterations; None: nothing is drawn."""

    iteration: int
    n_generated: int
    n_may_be_drawn: int
    n_updates: int
    n_fresh: int
    n_replayed: int
    mean_age: float | None
    max_age: int | None
    n_draws_by_age: tuple[int, ...]  # from age 0
    oldest: int  # age of the oldest row that may be drawn
    window_is_full: bool
    short: str | None  # the run's message about updates with too few rows; None: there are none

    @property
    def uses(self) -> float:
        """Draws per generated rollout. All have the same length, so these are also trained tokens per generated token."""
        return (self.n_fresh + self.n_replayed) / self.n_generated


@dataclass(frozen=True)
class Plan:
    """Some iterations of a run.

    `last` is the last planned iteration. From `settled` on, every iteration trains on the same number of rows of the same
    ages; None: there is no such iteration. `short` has an entry for each group of consecutive iterations with too few
    rows for an update: the first, the last, and the message about the first.
    """

    shown: list[Planned]
    last: int
    settled: int | None
    short: list[tuple[int, int, str]]


def expected_uses(window: int, per_iteration: int, updates: int) -> float:
    """Eq. 3 of the paper: how often a rollout is trained on, floor(M/B) (B/M) K."""
    return window // per_iteration * (per_iteration / window) * updates


def plan(config: Config) -> Plan:
    """Plans a run of `reval iterate`.

    Raises:
        UserError: an update could never have enough rows; or an update has too few rows and the recipe says to stop then;
            or a user's weight is not valid.
    """
    check(config)
    connection = _database(config)
    last = _last(config)

    @cache
    def planned(iteration: int) -> Planned:
        _see(connection, config, iteration)
        return _planned(connection, config, iteration)

    filled, bound = planned(last).oldest + 1, config.replay.max_age_iterations
    is_full = planned(last).window_is_full or (bound is not None and filled > bound)
    constant = max(filled, _last_change(config))
    settled = constant if is_full and constant <= last == config.iterations else None
    shown = sorted({*_spread(min(constant, last)), last})

    def begins(before: int, after: int) -> int:
        """By bisection, the first iteration that is like `after` and not like `before`: with short updates or without."""
        while after - before > 1:
            middle = (before + after) // 2
            same = (planned(middle).short is None) == (planned(after).short is None)
            before, after = (before, middle) if same else (middle, after)
        return after

    changes = [(a, b) for a, b in pairwise(shown) if (planned(a).short is None) != (planned(b).short is None)]
    firsts = [1, *(begins(*change) for change in changes)]
    lasts = [*(first - 1 for first in firsts[1:]), last]
    short = [(a, b, said) for a, b in zip(firsts, lasts, strict=True) if (said := planned(a).short)]
    return Plan([planned(iteration) for iteration in shown], last, settled, short)


def _database(config: Config) -> duckdb.DuckDBPyConnection:
    """A database with the view `candidates`, without rollouts yet."""
    connection = db.database()
    _make_up(connection, config, 0, 1)
    connection.execute("CREATE TEMP TABLE left_out (trajectory_id VARCHAR)")
    connection.register("history", draws.NO_HISTORY)
    draws.view(connection, config.train.baseline, config.train.beta)
    return connection


def _make_up(connection: duckdb.DuckDBPyConnection, config: Config, now: int, since: int) -> None:
    """Makes up the rollouts of iterations `since` to `now`; the candidates are then these."""
    how = {
        "since": since,
        "now": now,
        "n_prompts": config.generate.prompts_per_iteration,
        "n_samples": config.generate.samples_per_prompt,
        "recipe": config.recipe,
        "source": config.prompts.source,
        "temperature": config.generate.temperature,
        "n_response_tokens": config.generate.max_response_tokens,
    }
    connection.execute(f"CREATE OR REPLACE TEMP TABLE eligible AS {db.sql('plan_eligible')}", how)


def _last(config: Config) -> int:
    """The last planned iteration: the last of the run, or the last with at most MOST_ROLLOUTS rollouts."""
    settings, most = config.replay, max(1, MOST_ROLLOUTS // n_fresh(config))
    span = config.iterations if settings.max_age_iterations is None else settings.max_age_iterations + 1
    if settings.window_trajectories != "all":
        span = min(span, settings.window_trajectories // n_fresh(config) + 1)
    return config.iterations if span <= most else min(config.iterations, most)


def _see(connection: duckdb.DuckDBPyConnection, config: Config, iteration: int) -> None:
    """Makes up the candidates of an iteration, as far back as `draws.opened` would look for them."""
    for since in draws.depths(config.replay, iteration, n_fresh(config), first=1):
        _make_up(connection, config, iteration, since)
        if draws.window_is_full(connection, config.replay):
            return


def _last_change(config: Config) -> int:
    """The iteration from which on no share changes."""
    entries = [share for shares in config.replay.shares for share in shares.values()]
    return max((n_iterations(share) for share in entries if not isinstance(share, str)), default=1)  # a string is "rest"


def _spread(n: int) -> list[int]:
    """Some of the first `n` iterations, always with the last one."""
    if n < MOST_SHOWN:
        return list(range(1, n + 1))
    steps = MOST_SHOWN - 4
    return [1, 2, 3, *(3 + (n - 3) * step // steps for step in range(1, steps + 1))]


def _planned(connection: duckdb.DuckDBPyConnection, config: Config, iteration: int) -> Planned:
    settings, pass_id = config.replay, pass_name(config.recipe, iteration)
    with _heard() as said:
        found = draws.draw(connection, settings, pass_id, iteration, fresh=True)
    ages: Counter[int] = Counter(found["age_iterations"].to_pylist())
    sources = Counter(found["source"].to_pylist())
    n, oldest = _reach(connection, config, iteration)
    return Planned(
        iteration=iteration,
        n_generated=n_fresh(config),
        n_may_be_drawn=n,
        n_updates=len(set(found["update"].to_pylist())),
        n_fresh=sources[FRESH],
        n_replayed=len(found) - sources[FRESH],
        mean_age=math.fsum(age * n for age, n in ages.items()) / len(found) if len(found) else None,
        max_age=max(ages, default=None),
        n_draws_by_age=tuple(ages[age] for age in range(max(ages, default=-1) + 1)),
        oldest=oldest,
        window_is_full=draws.window_is_full(connection, settings),
        short=said[0].removeprefix(f"pass {pass_id}: ") if said else None,
    )


def _reach(connection: duckdb.DuckDBPyConnection, config: Config, iteration: int) -> tuple[int, int]:
    """The number of rows that at least one part of an update may draw, and the age of the oldest."""
    reach = {(part.rule, part.youngest) for part in parts(config.replay, iteration, fresh=True)}
    each = (
        f"SELECT trajectory_id, age_iterations FROM chances_{rule} WHERE chance > 0 AND age_iterations >= {youngest}"
        for rule, youngest in sorted(reach)
    )
    counts = f"SELECT count(*), coalesce(max(age_iterations), 0) FROM ({' UNION '.join(each)})"
    ((n, oldest),) = connection.execute(counts).fetchall()
    return n, oldest


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collects the messages that are logged in this block, and does not show them."""
    said = list[str]()

    def note(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    log.addFilter(note)
    try:
        yield said
    finally:
        log.removeFilter(note)


def table(planned: list[Planned]) -> pa.Table:
    """A table for people to read, one row per iteration."""
    return pa.Table.from_pylist(
        [
            {
                "iteration": row.iteration,
                "generated": row.n_generated,
                "may_be_drawn": row.n_may_be_drawn,
                "updates": row.n_updates,
                "fresh": row.n_fresh,
                "replayed": row.n_replayed,
                "mean_age_iterations": row.mean_age,
                "max_age_iterations": row.max_age,
                "tokens_trained_per_generated": row.uses,
            }
            for row in planned
        ]
    )
