"""Laws of every draw rule: picked up by glob, so a new rule is held to them the day it is written."""

import math
import random

import duckdb
import pyarrow as pa
import pytest

from pipeline import db
from pipeline.replay import EVERYTHING, schedule
from reval.config import Replay

RULES = sorted(path.stem for path in db.SQL.glob("draw_*.sql"))
N, FRESH, WINDOW, DRAWS = 200, 40, 120, 50


def candidates(order: list[int]) -> pa.Table:
    return pa.table(
        {
            "trajectory_id": [f"t{i}" for i in order],
            "age_iterations": [i // FRESH for i in order],
            "newest": [i + 1 for i in order],
            "reward": [float(i % 3 == 0) for i in order],
            "baseline": [0.25 for _ in order],
        }
    )


def draw(rule: str, *, order: list[int] | None = None, threads: int = 2, pass_id: str = "p", **changes) -> list[dict]:
    connection = duckdb.connect(config={"threads": threads})
    connection.register("candidates", candidates(order or list(range(N))))
    inputs = {"first_update": 1, "end_update": 5, "n_draws": DRAWS, "window_trajectories": WINDOW, **changes}
    wanted = {key: value for key, value in inputs.items() if f"${key}" in db.sql(rule)}
    return db.rows(connection, rule, pass_id=pass_id, **wanted).to_pylist()


@pytest.mark.parametrize("rule", RULES)
class TestEveryRule:
    def test_same_rows_for_any_order_and_thread_count(self, rule) -> None:
        shuffled = random.Random(0).sample(range(N), N)
        assert draw(rule) == draw(rule, order=shuffled, threads=1) == draw(rule, threads=4)

    def test_another_pass_draws_otherwise(self, rule) -> None:
        assert [r["trajectory_id"] for r in draw(rule)] != [r["trajectory_id"] for r in draw(rule, pass_id="q")]

    def test_slots_count_from_zero_without_repeats(self, rule) -> None:
        rows = draw(rule)
        for update in {row["update"] for row in rows}:
            mine = [row for row in rows if row["update"] == update]
            assert [row["slot"] for row in mine] == list(range(len(mine)))
            assert len({row["trajectory_id"] for row in mine}) == len(mine)

    def test_rows_carry_what_the_candidate_says(self, rule) -> None:
        known = {row["trajectory_id"]: row for row in candidates(list(range(N))).to_pylist()}
        for row in draw(rule):
            for name in ("age_iterations", "reward", "baseline"):
                assert row[name] == known[row["trajectory_id"]][name]


def test_fresh_is_the_whole_of_the_newest_iteration() -> None:
    rows = draw("draw_fresh")
    assert {row["trajectory_id"] for row in rows} == {f"t{i}" for i in range(FRESH)}
    assert {(row["source"], row["update"]) for row in rows} == {("fresh", 0)}


def test_fifo_is_uniform_over_the_window_and_never_outside() -> None:
    rows = draw("draw_fifo", end_update=401)
    uses = {f"t{i}": 0 for i in range(WINDOW)}
    for row in rows:
        uses[row["trajectory_id"]] += 1  # a KeyError is a row from outside the window
    # 400 updates take 50 of 120 each: every row 400 * 50/120 = 166.7 times, binomial deviation 9.9.
    # Over 120 rows the sum of squared deviations is chi-square with 119 degrees of freedom: 119 +- 15.4.
    expected, variance = 400 * DRAWS / WINDOW, 400 * (DRAWS / WINDOW) * (1 - DRAWS / WINDOW)
    statistic = sum((n - expected) ** 2 / variance for n in uses.values())
    assert abs(statistic - (WINDOW - 1)) < 5 * math.sqrt(2 * (WINDOW - 1))


def test_a_window_smaller_than_the_draw_is_taken_whole() -> None:
    rows = draw("draw_fifo", window_trajectories=7)
    assert len(rows) == 4 * 7
    assert len(draw("draw_fifo", window_trajectories=EVERYTHING, n_draws=10**6)) == 4 * N


@pytest.mark.parametrize(
    ("settings", "fresh", "updates"),
    [
        ({"updates_per_iteration": 3}, True, {"draw_fresh": None, "draw_fifo": (1, 3)}),
        ({"updates_per_iteration": 1}, True, {"draw_fresh": None}),
        ({"updates_per_iteration": 3, "schedule": "paper_algorithm_1"}, True, {"draw_fifo": (0, 3)}),
        ({"updates_per_iteration": 3}, False, {"draw_fifo": (0, 3)}),
    ],
)
def test_both_readings_of_the_paper(settings, fresh, updates) -> None:
    """Appendix A: one update on the fresh batch, the rest from the window. Algorithm 1: all from the window."""
    found = {
        rule: (how["first_update"], how["end_update"]) if how else None
        for rule, how in schedule(Replay(**settings), fresh=fresh)
    }
    assert found == updates


def test_expected_uses() -> None:
    """Eq. 3 with B = 20, M = 100, K = 2: a trajectory is used floor(M/B) * (B/M) * K = 2 times in its life.

    Appendix A's reading: once when fresh, and while it is among the newest M, drawn with chance B/M in one update.
    """
    b, m, total = 20, 100, 0
    lives = [f"life{i}" for i in range(30)]
    for life in lives:
        for age in range(m // b):
            rows = draw("draw_fifo", pass_id=f"{life}-{age}", end_update=2, n_draws=b, window_trajectories=m)
            total += sum(row["trajectory_id"] == f"t{age * b}" for row in rows) + (age == 0)
    # Mean 1 fresh + 5 * 0.2 = 2; over 30 lives the deviation of the mean is sqrt(5 * 0.2 * 0.8 / 30) = 0.16.
    assert abs(total / len(lives) - 2) < 0.6
