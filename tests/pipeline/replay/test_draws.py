"""Properties of every draw rule. Rules are found by glob, so a new one is tested as soon as its file exists."""

import math
import random
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from statistics import stdev

import duckdb
import pyarrow as pa
import pytest

from pipeline.query import db
from pipeline.recipes.config import RULES, Replay
from pipeline.replay import draws
from pipeline.replay.schedule import EVERYTHING, parts
from schemas import UserError

FILES = sorted(path.stem.removeprefix("draw_") for path in db.PIPELINE.glob("replay/sql/draw_*.sql"))
# 240 rollouts of 6 iterations: 10 prompts an iteration, a group of 4 of each, the same prompts every second time.
N, FRESH, GROUP, WINDOW, BATCH = 240, 40, 4, 120, 24
OFTEN = 300
CUSTOM = {"weight": "1 + (verdict = 'correct')::INT * 2 + n_response_tokens / 10"}


def rollout(i: int) -> dict:
    """The i-th newest rollout. Prompts 0, 4 and 8 are never solved, 9 is always, and the others now and then."""
    age, prompt = i // FRESH, i % FRESH // GROUP
    right = prompt == 9 or (prompt % 4 != 0 and (i * 7919 // 13) % 5 < prompt % 4 + 1)
    return {
        "trajectory_id": f"t{i:04}",
        "group_id": f"g{i // GROUP:03}",
        "prompt_id": f"p{prompt + 10 * (age % 2)}",
        "policy_id": f"arithmetic-{5 - age:04}",
        "run_id": "arithmetic",
        "source": "arithmetic",
        "iteration": 6 - age,
        "sample_index": i % GROUP,
        "age_iterations": age,
        "verdict": "correct" if right else "wrong",
        "reward": float(right),
        "temperature": 1.0,
        "finish_reason": "stop",
        "n_prompt_tokens": 5,
        "n_response_tokens": 3 + i % 7,
        "behaviour_logprob_sum": -1.0,
    }


ROLLOUTS = {row["trajectory_id"]: row for row in map(rollout, range(N))}
# The history of every third rollout in earlier passes.
HISTORY = {name: (1 + i % 3, (i % 11 - 5) / 4) for i, name in enumerate(ROLLOUTS) if i % 3 == 0}


def connection(order=None, *, threads: int = 2, left_out=(), history=HISTORY) -> duckdb.DuckDBPyConnection:
    found = duckdb.connect(config={"threads": threads})
    found.register("eligible", pa.Table.from_pylist([rollout(i) for i in order or range(N)]))
    found.register("left_out", pa.table({"trajectory_id": pa.array(left_out, pa.string())}))
    used = [(name, *values) for name, values in history.items()]
    columns = zip(*used, strict=True) if used else ((), (), ())
    found.register("history", pa.table([pa.array(c) for c in columns], draws.NO_HISTORY.schema))
    draws.view(found, "group_mean", 0.5)
    return found


def settings(**changes) -> Replay:
    how = {"window_trajectories": WINDOW, "batch_trajectories": BATCH, "updates_per_iteration": 4, "custom": CUSTOM}
    return Replay(**{**how, **changes})


def of_rule(rule: str, **changes) -> Replay:
    """Settings with which one rule draws every update; `fresh` can be the rule too."""
    return settings(schedule="shares", shares=[{rule: 1.0}], **changes)


def draw(replay: Replay, *, pass_id: str = "p", iteration: int = 6, fresh: bool = True, **how) -> list[dict]:
    return draws.draw(connection(**how), replay, pass_id, iteration, fresh=fresh).to_pylist()


@cache
def drawn(rule: str) -> tuple[dict, ...]:
    """The draws of a rule for four updates; tests only read them."""
    return tuple(draw(of_rule(rule)))


@cache
def often(rule: str) -> tuple[dict, ...]:
    """300 updates of a rule with exponent 1, for comparing frequencies and importance weights."""
    return tuple(draw(of_rule(rule, updates_per_iteration=OFTEN, importance=1.0, batch_trajectories=2 * GROUP)))


def by_update(rows: Iterable[dict]) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for row in rows:
        found.setdefault(row["update"], []).append(row)
    return dict(sorted(found.items()))


def chances(rule: str, **changes) -> dict[str, float]:
    """The weight of each unit of a rule."""
    there = connection()
    draws.draw(there, of_rule(rule, updates_per_iteration=1, **changes), "p", 6, fresh=True)
    return dict(
        there.execute(
            f"SELECT DISTINCT coalesce(unit, trajectory_id), chance FROM chances_{rule} WHERE chance > 0"
        ).fetchall()
    )


def test_every_rule_has_its_file_and_every_file_its_rule() -> None:
    assert {*FILES} == {*RULES, "fresh"}


@pytest.mark.parametrize("rule", FILES)
class TestEveryRule:
    def test_same_rows_for_any_order_and_thread_count(self, rule) -> None:
        shuffled = random.Random(0).sample(range(N), N)
        rows = [*drawn(rule)]
        assert rows == draw(of_rule(rule), order=shuffled, threads=1) == draw(of_rule(rule), threads=4)

    def test_another_pass_and_another_update_draw_otherwise(self, rule) -> None:
        first, second, *_ = by_update(drawn(rule)).values()
        assert [r["trajectory_id"] for r in first] != [r["trajectory_id"] for r in second]
        other = draw(of_rule(rule), pass_id="q")
        assert [r["trajectory_id"] for r in first] != [r["trajectory_id"] for r in other[: len(first)]]

    def test_an_update_has_what_was_asked_for_in_slots_from_zero_without_repeats(self, rule) -> None:
        for rows in by_update(drawn(rule)).values():
            assert len(rows) == BATCH
            assert [row["slot"] for row in rows] == list(range(BATCH))
            assert len({row["trajectory_id"] for row in rows}) == BATCH

    def test_rows_carry_what_the_rollout_says(self, rule) -> None:
        means = Counter[str]()
        for row in ROLLOUTS.values():
            means[row["group_id"]] += row["reward"] / GROUP
        groups = {name: [row["reward"] for row in ROLLOUTS.values() if row["group_id"] == name] for name in means}
        deviations = {name: stdev(rewards) for name, rewards in groups.items()}
        for row in drawn(rule):
            known = ROLLOUTS[row["trajectory_id"]]  # a KeyError means that the row is not a known rollout
            assert row["age_iterations"] == known["age_iterations"]
            assert row["reward"] == known["reward"]
            assert row["baseline"] == means[known["group_id"]]
            assert row["deviation"] == pytest.approx(deviations[known["group_id"]])
            assert row["rule"] == rule
            assert row["source"] == ("fresh" if rule == "fresh" else "replay")
            assert math.isfinite(row["weight"])
            assert row["weight"] > 0

    @pytest.mark.parametrize("bound", [0, 1, 2])
    def test_the_age_bound_holds_where_candidates_keep_it(self, rule, bound) -> None:
        """The bound is one on candidates (`eligible`): a rule sees nothing older, and takes what there is."""
        young = [i for i in range(N) if ROLLOUTS[f"t{i:04}"]["age_iterations"] <= bound]
        rows = draw(of_rule(rule), order=young)
        assert max(row["age_iterations"] for row in rows) <= bound
        assert {len(update) for update in by_update(rows).values()} == {BATCH}

    @pytest.mark.slow
    def test_frequencies_match_the_weights(self, rule) -> None:
        """The first unit of an update is each with its share of the weight; the second too, given the first:
        w_i / W * w_j / (W - w_i), summed over i. Chi-square, over 300 updates."""
        weights, n, rows = chances(rule), OFTEN, often(rule)
        total = math.fsum(weights.values())
        second_slot, unit = (GROUP, "group_id") if rule == "groups" else (1, "trajectory_id")
        first = {u: w / total for u, w in weights.items()}
        second = {
            u: math.fsum(x / total * w / (total - x) for v, x in weights.items() if v != u) for u, w in weights.items()
        }
        for slot, expected in ((0, first), (second_slot, second)):
            found = Counter(ROLLOUTS[row["trajectory_id"]][unit] for row in rows if row["slot"] == slot)
            assert set(found) <= set(weights)
            statistic = sum((found[u] - n * p) ** 2 / (n * p) for u, p in expected.items())
            k = len(expected)
            # Pearson's statistic has mean k - 1, and with few expected in a cell a larger variance than chi-square's.
            variance = 2 * (k - 1) + (sum(1 / p for p in expected.values()) - k * k - 2 * k + 2) / n
            assert abs(statistic - (k - 1)) < 5 * math.sqrt(variance)

    def test_importance_weights_take_the_bias_out(self, rule) -> None:
        """With exponent 1 the weighted mean of a quantity over draws is near its plain mean over what may be drawn."""
        weights = chances(rule)
        quantity = {name: float(i % 10) for i, name in enumerate(ROLLOUTS)}
        if rule == "groups":
            members = [name for name, row in ROLLOUTS.items() if row["group_id"] in weights]
        else:
            members = list(weights)
        plain = sum(quantity[name] for name in members) / len(members)
        updates = by_update(often(rule)).values()
        means = [sum(r["weight"] * quantity[r["trajectory_id"]] for r in update) / len(update) for update in updates]
        # 2,400 draws of a quantity of deviation 2.9, weights of about 1: the mean of means is good to 0.1.
        assert abs(sum(means) / len(means) - plain) < 0.35
        for update in updates:
            assert math.isclose(sum(row["weight"] for row in update), len(update))


@pytest.mark.parametrize("rule", ["fifo", "keep_correct", "groups", "fresh"])
def test_rules_that_favour_nothing_have_weights_of_one(rule) -> None:
    assert {row["weight"] for row in draw(of_rule(rule, importance=1.0))} == {1.0}


def test_no_importance_weights_with_exponent_zero() -> None:
    assert {row["weight"] for row in draw(of_rule("recency", importance=0.0))} == {1.0}


def test_importance_of_the_smallest_chances_is_finite() -> None:
    weights = draws.importance([1.0, 1e-300, 5e-324, 1e300], 1.0)
    assert all(map(math.isfinite, weights))
    assert math.isclose(sum(weights), 4)
    assert weights[2] == max(weights)
    assert draws.importance([], 1.0) == []


def test_importance_is_annealed() -> None:
    """gamma 1/2 and exponent e: two rows one iteration apart have weights whose ratio is 2^e, and e goes from 0 to 1."""
    replay = of_rule(
        "recency", importance={"kind": "linear", "start": 0.0, "end": 1.0, "iterations": 5}, recency={"gamma": 0.5}
    )
    for iteration, exponent in ((1, 0.0), (3, 0.5), (5, 1.0), (9, 1.0)):
        for rows in by_update(draw(replay, iteration=iteration)).values():
            weight = {row["age_iterations"]: row["weight"] for row in rows}
            ages = sorted(weight)
            assert len(ages) > 1
            for a, b in pairwise(ages):
                assert math.isclose(weight[b] / weight[a], 2 ** (exponent * (b - a)))


class TestWhatARuleWeighs:
    def window(self) -> dict[str, dict]:
        return dict(list(ROLLOUTS.items())[:WINDOW])

    def test_fifo(self) -> None:
        assert chances("fifo") == dict.fromkeys(self.window(), 1.0)

    def test_fresh(self) -> None:
        assert chances("fresh") == dict.fromkeys(list(ROLLOUTS)[:FRESH], 1.0)

    def test_recency(self) -> None:
        found = chances("recency", recency={"gamma": 0.7})
        assert found == pytest.approx({name: 0.7 ** row["age_iterations"] for name, row in self.window().items()})

    def test_fresh_priority(self) -> None:
        """The window spans 3 iterations, so tau is 0.5 * 3 = 1.5. A row that was never used is weighed by its target."""
        groups = Counter[str]()
        for row in ROLLOUTS.values():
            groups[row["group_id"]] += row["reward"] / GROUP
        expected = {}
        for name, row in self.window().items():
            x = HISTORY[name][1] if name in HISTORY else (row["reward"] - groups[row["group_id"]]) / 0.5
            expected[name] = (abs(x) + 0.01) ** 0.6 * math.exp(-row["age_iterations"] / 1.5)
        assert chances("fresh_priority") == pytest.approx(expected)

    def test_fresh_priority_takes_tau_as_a_share_of_the_window(self) -> None:
        """A window twice as large spans twice the iterations, so the age term of the oldest row stays about the same."""
        for window, span in ((WINDOW, 3), (2 * WINDOW, 6)):
            found = chances("fresh_priority", fresh_priority={"alpha": 0.0}, window_trajectories=window)
            oldest = f"t{window - 1:04}"
            assert math.isclose(found[oldest], math.exp(-(span - 1) / (0.5 * span)))

    def test_keep_correct(self) -> None:
        """Of 120 rows exactly 84 are the newest, and exactly 36 are the newest correct ones among the others."""
        found = chances("keep_correct", keep_correct={"share": 0.3})
        newest = list(ROLLOUTS)[:84]
        correct = [name for name in list(ROLLOUTS)[84:] if ROLLOUTS[name]["reward"] == 1]
        assert len(correct) > 36
        assert found == dict.fromkeys([*newest, *correct[:36]], 1.0)

    def test_balanced(self) -> None:
        by_prompt: dict[str, list[str]] = {}
        for name, row in self.window().items():
            by_prompt.setdefault(row["prompt_id"], []).append(name)
        rates = {p: sum(ROLLOUTS[n]["reward"] for n in names) / len(names) for p, names in by_prompt.items()}
        assert {0.0, 1.0} <= set(rates.values())
        assert len(set(rates.values())) > 3
        for rest, out in (("nothing", set()), ("solved", {1.0}), ("unsolved", {0.0}), ("both", {0.0, 1.0})):
            expected = {
                name: math.exp(-((rates[p] - 0.5) ** 2) / (2 * 0.2**2)) / len(names)
                for p, names in by_prompt.items()
                for name in names
                if rates[p] not in out
            }
            assert chances("balanced", balanced={"sigma": 0.2, "rest": rest}) == pytest.approx(expected)

    def test_groups_are_whole_or_not_there(self) -> None:
        """A window of 118 has 29 whole groups and half of one, which is left out; 27 rows hold 6 groups and no part of one."""
        assert chances("groups", window_trajectories=118) == {f"g{i:03}": 1.0 for i in range(29)}
        for rows in by_update(draw(of_rule("groups", batch_trajectories=27))).values():
            assert set(Counter(ROLLOUTS[row["trajectory_id"]]["group_id"] for row in rows).values()) == {GROUP}
            assert len(rows) == 24

    def test_custom(self) -> None:
        found = chances("custom")
        assert found == pytest.approx(
            {n: 1 + 2 * r["reward"] + r["n_response_tokens"] / 10 for n, r in self.window().items()}
        )

    def test_custom_sees_the_past(self) -> None:
        """A custom weight can use the history: here only rows that were used twice are drawn."""
        found = chances("custom", custom={"weight": "n_uses = 2 AND residual IS NOT NULL"}, batch_trajectories=1)
        assert set(found) == {name for name in self.window() if HISTORY.get(name, (0,))[0] == 2}


BAD_WEIGHTS = {
    "nullif(sample_index, 2)": "it is null for trajectory t0002; a weight is a number from 0 up",
    "reward - 0.5": "it is -0.5 for trajectory t00",
    "1 / sample_index": "it is inf for trajectory t0000",
    "'nan'::DOUBLE": "it is nan for trajectory t0000",
    "problem": "Candidate bindings",  # an unknown column: DuckDB names the known ones
    "verdict": "is varchar, not a number",
    "random()": "random() gives another answer every time",
    "epoch(now())": "now() gives another answer every time",
    "(SELECT 1)": "no query",
    "(SELECT count(*) FROM read_text('/etc/passwd'))": "no query",
    "1) FROM candidates; COPY (SELECT 1) TO '/tmp/x' --": "replay.custom.weight",
    "1, 2": "replay.custom.weight",
    "sum(reward)": "replay.custom.weight",
    "1 +": "syntax",
}


@pytest.mark.parametrize("weight", BAD_WEIGHTS)
def test_a_weight_that_is_none_is_refused_in_one_line(weight) -> None:
    with pytest.raises(UserError) as error:
        draw(of_rule("custom", custom={"weight": weight}))
    said = str(error.value)
    assert said.startswith("replay.custom.weight")
    assert BAD_WEIGHTS[weight] in said
    assert "\n" not in said


def test_weights_of_zero_leave_nothing() -> None:
    assert draw(of_rule("custom", custom={"weight": "0"})) == []


@pytest.mark.parametrize(("baseline", "share"), [("group_mean", 1.0), ("half_mean", 0.5), ("raw", 0.0)])
def test_the_deviation_of_a_group(baseline, share) -> None:
    """Rewards 1, 0, 0 and .5 have a mean of 3/8 and squares of 25 + 9 + 9 + 1 64ths around it, over 3. The deviation of
    equal rewards is 0, and so is that of a single one. A row that a condition leaves out still counts."""
    rewards = {
        "t0000": 1.0,
        "t0001": 0.0,
        "t0002": 0.0,
        "t0003": 0.5,
        **dict.fromkeys(("t0004", "t0005"), 0.3),
        "t0008": 1.0,
    }
    there = duckdb.connect()
    there.register("eligible", pa.Table.from_pylist([{**ROLLOUTS[n], "reward": r} for n, r in rewards.items()]))
    there.register("left_out", pa.table({"trajectory_id": ["t0003"]}))
    there.register("history", draws.NO_HISTORY)
    draws.view(there, baseline, 0.5)
    rows = draws.draw(there, of_rule("fifo", updates_per_iteration=1), "p", 6, fresh=True).to_pylist()
    of_first = pytest.approx(math.sqrt(44 / 64 / 3))
    expected = {"t0000": of_first, "t0001": of_first, "t0002": of_first, "t0004": 0.0, "t0005": 0.0, "t0008": 0.0}
    assert {row["trajectory_id"]: row["deviation"] for row in rows} == expected
    assert {row["baseline"] for row in rows} == {share * mean for mean in (0.375, 0.3, 1.0)}


def test_means_and_deviations_are_the_same_bits_for_any_order() -> None:
    """Rewards with a length penalty have no exact float value, so their sums depend on the order."""
    found = []
    for seed, threads in ((0, 1), (1, 2), (2, 4), (3, 1)):
        rows = [rollout(i) | {"group_id": "g", "reward": (i % 7) / 10} for i in range(N)]
        random.Random(seed).shuffle(rows)
        there = duckdb.connect(config={"threads": threads})
        there.register("eligible", pa.Table.from_pylist(rows))
        there.register("left_out", pa.table({"trajectory_id": pa.array([], pa.string())}))
        there.register("history", draws.NO_HISTORY)
        draws.view(there, "group_mean", 0.5)
        found += there.execute("SELECT DISTINCT baseline, deviation FROM candidates").fetchall()
    assert len(found) == 4
    assert len({*found}) == 1


def test_left_out_rows_keep_their_say_in_the_group_mean() -> None:
    """A condition chooses rows after targets are computed: the mean is over the whole group, not only the chosen rows."""
    wrong = [name for name, row in ROLLOUTS.items() if row["reward"] == 0]
    rows = draw(of_rule("fifo"), left_out=wrong)
    assert {row["reward"] for row in rows} == {1.0}
    assert any(row["baseline"] < 1 for row in rows)
    groups = Counter(row["group_id"] for row in ROLLOUTS.values() if row["reward"])
    assert all(row["baseline"] == groups[ROLLOUTS[row["trajectory_id"]]["group_id"]] / GROUP for row in rows)


def test_the_window_is_of_what_a_condition_leaves() -> None:
    odd = list(ROLLOUTS)[1::2]
    seen = {row["trajectory_id"] for row in draw(of_rule("fifo", updates_per_iteration=60), left_out=odd)}
    assert seen == set(list(ROLLOUTS)[0 : 2 * WINDOW : 2])


class TestShares:
    @pytest.mark.parametrize("fresh", [0.0, 0.1, 1 / 3, 0.5, 0.77, 1.0])
    @pytest.mark.parametrize("batch", [1, 7, 24, 37])
    def test_are_exact_to_one_row(self, fresh, batch) -> None:
        shares = [{"fresh": fresh, "recency": (1 - fresh) / 2, "keep_correct": "rest"}]
        rows = draw(settings(schedule="shares", shares=shares, batch_trajectories=batch))
        for update in by_update(rows).values():
            assert len(update) == batch == len({row["trajectory_id"] for row in update})
            counts = Counter(row["rule"] for row in update)
            for rule, share in (("fresh", fresh), ("recency", (1 - fresh) / 2), ("keep_correct", (1 - fresh) / 2)):
                assert abs(counts[rule] - share * batch) < 1

    def test_fresh_rows_are_the_newest_and_the_rest_is_past(self) -> None:
        rows = draw(settings(schedule="shares", shares=[{"fresh": 0.5, "fifo": 0.5}]))
        assert {(row["source"], row["age_iterations"] == 0) for row in rows} == {("fresh", True), ("replay", False)}

    def test_the_last_entry_counts_for_the_updates_after_it(self) -> None:
        shares = [{"fresh": 1.0}, {"fresh": 0.25, "groups": "rest"}]
        rows = by_update(draw(settings(schedule="shares", shares=shares)))
        assert [Counter(r["rule"] for r in update) for update in rows.values()] == [
            {"fresh": 24},
            *[{"fresh": 6, "groups": 16}] * 3,  # 18 rows hold four groups
        ]

    def test_follow_the_iteration(self) -> None:
        share = {"kind": "steps", "values": [1.0, 0.5, 0.25], "at": [3, 5]}
        replay = settings(schedule="shares", shares=[{"fresh": share, "fifo": "rest"}])
        for iteration, n in ((1, 24), (2, 24), (3, 12), (4, 12), (5, 6), (50, 6)):
            for rows in by_update(draw(replay, iteration=iteration)).values():
                assert Counter(row["source"] for row in rows)["fresh"] == n

    @pytest.mark.slow
    def test_two_rules_of_one_update_do_not_share_their_chance(self) -> None:
        """The rows that the first rule left are no fair sample; the second's first choice still matches its weights."""
        shares, n = [{"fifo": 0.5, "recency": 0.5}], 300
        rows = draw(
            settings(
                schedule="shares", shares=shares, updates_per_iteration=n, batch_trajectories=60, recency={"gamma": 0.5}
            )
        )
        ages = Counter(row["age_iterations"] for row in rows if row["slot"] == 30)
        # 30 of 120 rows are taken before, 10 of each of the three ages: shares of age go on as 1 : 1/2 : 1/4.
        for age, share in enumerate((4 / 7, 2 / 7, 1 / 7)):
            assert abs(ages[age] / n - share) < 5 * math.sqrt(share * (1 - share) / n) + 0.005


class TestTooFewRows:
    few = range(10)

    def test_a_smaller_update(self) -> None:
        rows = draw(of_rule("fifo", if_short="smaller"), order=self.few)
        assert [len(update) for update in by_update(rows).values()] == [10] * 4

    def test_waiting(self) -> None:
        assert draw(of_rule("fifo", if_short="wait"), order=self.few) == []
        both = settings(if_short="wait", updates_per_iteration=3)  # the fresh update of appendix A takes what there is
        assert {row["update"] for row in draw(both, order=self.few)} == {0}

    def test_stopping(self) -> None:
        with pytest.raises(UserError, match="pass p: update 1 asks for 24 rows of fifo and 10 can be drawn"):
            draw(of_rule("fifo", if_short="refuse"), order=self.few)

    def test_a_group_that_does_not_fit_is_no_shortage(self) -> None:
        rows = draw(of_rule("groups", if_short="refuse", batch_trajectories=27))
        assert {len(update) for update in by_update(rows).values()} == {24}


@pytest.mark.parametrize(
    ("changes", "fresh", "expected"),
    [
        ({}, True, [("fresh", EVERYTHING), ("fifo", BATCH), ("fifo", BATCH)]),
        ({"updates_per_iteration": 1}, True, [("fresh", EVERYTHING)]),
        ({"schedule": "paper_algorithm_1"}, True, [("fifo", BATCH)] * 3),
        ({"rule": "recency"}, False, [("recency", BATCH)] * 3),
    ],
)
def test_both_readings_of_the_paper(changes, fresh, expected) -> None:
    """Appendix A: one update on the fresh batch, the rest from the window. Algorithm 1: all from the window."""
    found = parts(settings(**{"updates_per_iteration": 3, **changes}), 1, fresh=fresh)
    assert [(part.rule, part.n_draws) for part in found] == expected
    assert [part.update for part in found] == list(range(len(expected)))


def test_the_fresh_update_takes_every_new_row_once() -> None:
    rows = by_update(draw(settings()))[0]
    assert {row["trajectory_id"] for row in rows} == set(list(ROLLOUTS)[:FRESH])
    assert {row["source"] for row in rows} == {"fresh"}


def test_replayed_updates_of_the_paper_see_the_fresh_batch_too() -> None:
    rows = draw(settings(updates_per_iteration=60))
    assert {row["trajectory_id"] for row in rows if row["update"]} == set(list(ROLLOUTS)[:WINDOW])


def test_a_window_of_everything() -> None:
    rows = draw(of_rule("fifo", window_trajectories="all", batch_trajectories=N))
    assert [len(update) for update in by_update(rows).values()] == [N] * 4


def test_expected_uses() -> None:
    """Eq. 3 with B = 40, M = 200, K = 2: a trajectory is used floor(M/B) * (B/M) * K = 2 times in its life.

    Appendix A's reading: once when fresh, and while it is among the newest M, drawn with chance B/M in one update.
    """
    replay = settings(updates_per_iteration=2, window_trajectories=200, batch_trajectories=40)
    total, lives = 0, 4
    there = connection()
    for life in range(lives):
        for age in range(5):  # a pass of its own each: the iteration's rollouts as they grow older
            rows = draws.draw(there, replay, f"life{life}-{age}", 6, fresh=True).to_pylist()
            total += sum(row["age_iterations"] == age and (row["update"] == 1 or age == 0) for row in rows)
    # Of 40 rows, 1 use each when fresh and 5 * 0.2 later. The deviation of an age's 8 draws of 40 out of 200 is 2.3, of the
    # mean over 40 rows and 4 lives sqrt(5 / 4) * 2.3 / 40 = 0.06.
    assert abs(total / (lives * 40) - 2) < 0.25
