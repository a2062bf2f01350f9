"""Retraining: which rollouts it may draw, and from where; through the real stages or the real command."""

import json
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.children.worker import Worker
from pipeline.query import db
from pipeline.recipes.config import RULES
from pipeline.replay import draws
from pipeline.replay.schedule import n_fresh
from pipeline.runs.loop import end
from pipeline.stages import draw as replay
from pipeline.upkeep import compaction
from pipeline.upkeep.repeat import repeat
from schemas import UserError
from tests.helpers.archives import SUMS, run_iteration, run_pass
from tests.helpers.command import invoke, refused
from tests.helpers.runs import open_run

# Rules with settings for a small archive; the custom one uses every kind of column.
RULE_SETTINGS: dict[str, dict[str, Any]] = {
    "recency": {"replay.recency.gamma": 0.5},
    "balanced": {"replay.balanced.sigma": 0.3},
    "custom": {"replay.custom.weight": "1 + n_response_tokens + n_uses + abs(coalesce(residual, target))"},
}


def settings_of(trained: SimpleNamespace, rule: str = "fifo", **more: Any) -> dict[str, Any]:
    return {**trained.settings, "replay.rule": rule, **RULE_SETTINGS.get(rule, {}), **more}


def retrain(trained: SimpleNamespace, archive: Any, passes: int = 1, **how: Any) -> Any:
    """A retraining's run; settings by dotted name as `overrides`."""
    settings = settings_of(trained, **how.pop("overrides", {}))
    found = recipes.load("arithmetic", settings, iterations=passes, defaults=recipes.RETRAIN)
    return open_run("retrain", found, archive, **how)


def run_passes(run: Any, passes: int = 1) -> None:
    for i in range(1, passes + 1):
        run_pass(run, i)
        end(run, i)


def drawn(archive: Any, pass_id: str) -> list[dict[str, Any]]:
    query = (
        "SELECT d.update, d.slot, d.trajectory_id, d.age_iterations, d.rule, d.weight, d.source, "
        "t.run_id, t.policy_id, t.iteration, r.problem, r.reward "
        "FROM draws d JOIN trajectories t USING (trajectory_id) JOIN rollouts r USING (trajectory_id) WHERE pass_id = $1 "
        "ORDER BY d.update, d.slot"
    )
    found: list[dict[str, Any]] = db.connect(Store(archive)).sql(query, params=[pass_id]).to_arrow_table().to_pylist()
    return found


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("rule", RULES)
class TestEveryRule:
    def test_draws_the_same_rows_after_compaction_and_for_any_thread_count(
        self, trained, archive, rule, monkeypatch
    ) -> None:
        """From the archive itself: files merged and put in another order change nothing, nor does how deep one looks."""

        def rows(store: Store, name: str) -> list[dict]:
            config = recipes.load("arithmetic", settings_of(trained, rule), defaults=recipes.RETRAIN)
            scope = draws.scope(config, "retrain", name, 1, store.versions(), base, "arithmetic-0002")
            return draws.rows(store, scope, config.replay, f"{name}-0001", 1).to_pylist()

        base = db.connect(Store(archive)).execute("SELECT base_policy_id FROM runs LIMIT 1").fetchone()[0]
        before = rows(Store(archive), "x")
        assert len(before) == 3 * 40
        list(compaction.compact(Store(archive)))
        real = db.database
        for threads in (1, 3):

            def database(*args, threads=threads) -> Any:
                connection = real(*args)
                connection.execute(f"SET threads = {threads}")
                return connection

            monkeypatch.setattr("pipeline.query.db.database", database)
            assert rows(Store(archive), "x") == before

    def test_an_iteration_draws_the_same_however_far_back_it_looks_first(self, trained, archive, rule) -> None:
        """The window is found step by step; reading everything at once finds the same rows."""
        config = recipes.load("arithmetic", settings_of(trained, rule, **{"replay.window_trajectories": 64}))
        store = Store(archive)
        base = db.connect(store).execute("SELECT base_policy_id FROM runs LIMIT 1").fetchone()[0]
        scope = draws.scope(config, "iterate", "arithmetic", 2, store.versions(), base, "arithmetic-0001")
        assert scope.per_iteration == n_fresh(config) == 48
        found = []
        for per_iteration in (48, 1, 10**6):
            changed = draws.Scope(**{**vars(scope), "per_iteration": per_iteration})
            found.append(draws.rows(store, changed, config.replay, "arithmetic-0002", 2).to_pylist())
        assert found[0] == found[1] == found[2]
        assert {row["age_iterations"] for row in found[0]} == {0, 1}


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("rule", ["fresh_priority", "custom"])
def test_passes_repeat_bit_for_bit(trained, archive, rule) -> None:
    """Two passes, the second one uses the history of the first; then each is repeated from its record."""
    with retrain(trained, archive, 2, name="once", overrides={"rule": rule}) as run:
        run_passes(run, 2)
    for pass_id in ("once-0001", "once-0002"):
        found = repeat(Store(archive), pass_id)
        assert found.equal
        assert found.max_residual_gap == 0


@pytest.mark.usefixtures("warm")
def test_fresh_priority_goes_by_the_last_residual_of_the_passes_that_led_here(trained, archive) -> None:
    """The residual of the run's own first pass if that used the row, else of the passes that led to its first policy."""
    store = Store(archive)
    connection = db.connect(store)

    def last(*passes: str) -> dict[str, float]:
        listed = ", ".join(f"('{name}', {number})" for number, name in enumerate(passes))
        query = (
            f"SELECT trajectory_id, arg_max(residual, number * 1000 + update) FROM draws JOIN updates USING (pass_id, update, slot) "
            f"JOIN (VALUES {listed}) v(pass_id, number) USING (pass_id) GROUP BY 1"
        )
        return dict(db.connect(store).execute(query).fetchall())

    config = recipes.load("arithmetic", settings_of(trained, "fresh_priority"), defaults=recipes.RETRAIN)
    base = connection.execute("SELECT base_policy_id FROM runs LIMIT 1").fetchone()[0]
    for parent, passes in (
        (base, ()),
        ("arithmetic-0001", ("arithmetic-0001",)),
        ("arithmetic-0002", ("arithmetic-0001", "arithmetic-0002")),
    ):
        scope = draws.scope(config, "retrain", "x", 1, store.versions(), base, parent)
        seen = (
            draws.opened(store, scope, config.replay).execute("SELECT trajectory_id, residual FROM candidates").fetchall()
        )
        assert {name: value for name, value in seen if value is not None} == (last(*passes) if passes else {})


@pytest.mark.usefixtures("warm")
def test_a_retraining_goes_on_from_the_policy_it_began_with_when_only_its_name_is_given(trained, archive) -> None:
    for policy_id in ("arithmetic-0001", None):
        with retrain(trained, archive, name="mine", policy_id=policy_id) as run:
            assert run.base_policy_id == "arithmetic-0001"


@pytest.mark.usefixtures("warm")
def test_only_what_was_asked_for_is_drawn(trained, archive) -> None:
    """By run, by policy, by condition, by age; rows that are left out still count in the group's mean."""
    base = db.connect(Store(archive)).execute("SELECT base_policy_id FROM runs LIMIT 1").fetchone()[0]
    common = {"replay.batch_trajectories": 20}
    with retrain(trained, archive, name="a", overrides={"retrain.policies": [base], **common}) as run:
        replay.draw(run, 1)
    assert {row["policy_id"] for row in drawn(archive, "a-0001")} == {base}
    where = "problem LIKE '1+%' OR reward = 1"
    with retrain(
        trained, archive, name="b", overrides={"retrain.where": where, **common, "replay.if_short": "smaller"}
    ) as run:
        replay.draw(run, 1)
    rows = drawn(archive, "b-0001")
    assert rows
    assert all(row["problem"].startswith("1+") or row["reward"] == 1 for row in rows)
    with retrain(
        trained, archive, name="c", overrides={"retrain.runs": ["arithmetic"], "replay.max_age_iterations": 0, **common}
    ) as run:
        replay.draw(run, 1)
    rows = drawn(archive, "c-0001")
    assert {(row["run_id"], row["iteration"], row["age_iterations"]) for row in rows} == {("arithmetic", 2, 0)}


@pytest.mark.usefixtures("warm")
def test_a_condition_is_asked_of_the_pinned_state(trained, archive) -> None:
    """It may ask the whole archive: here, for rollouts no update has used, as it was after the first iteration."""
    where = "trajectory_id NOT IN (SELECT trajectory_id FROM draws)"
    how = {"retrain.where": where, "replay.if_short": "smaller"}
    used = {row["trajectory_id"] for row in drawn(archive, "arithmetic-0001")}
    everything = {
        name
        for (name,) in db.connect(Store(archive))
        .execute("SELECT trajectory_id FROM trajectories WHERE iteration = 1")
        .fetchall()
    }
    if everything == used:  # appendix A uses all of a fresh batch
        with (
            pytest.raises(UserError, match="is true of none of 48 rollouts"),
            retrain(trained, archive, at=trained.first, overrides=how),
        ):
            pass
        where = "trajectory_id IN (SELECT trajectory_id FROM draws GROUP BY 1 HAVING count(*) > 1)"
        counts = Counter(row["trajectory_id"] for row in drawn(archive, "arithmetic-0001"))
        expected = {name for name, n in counts.items() if n > 1}
        with retrain(trained, archive, name="d", at=trained.first, overrides={**how, "retrain.where": where}) as run:
            replay.draw(run, 1)
        assert {row["trajectory_id"] for row in drawn(archive, "d-0001")} == expected


@pytest.mark.usefixtures("warm")
def test_a_reference_is_computed_once_whoever_asks(trained, archive, children, monkeypatch) -> None:
    """Two retrainings from the base policy with one reference: the second makes no forward pass; rows name their pass.

    In another precision the sums are different numbers: they are computed again and kept beside the first.
    """
    calls: list[int] = []
    real: Callable[..., Any] = Worker.call

    def call(self: Worker, method: str, table: Any = None, **how: Any) -> Any:
        if method == "forward":
            calls.append(len(table))
        return real(self, method, table, **how)

    monkeypatch.setattr(Worker, "call", call)
    # Every rollout in every update, and no reset: what the first asks for, the second asks for again.
    how = {
        "train.reset_every_iterations": 0,
        "replay.window_trajectories": "all",
        "replay.batch_trajectories": 96,
        "replay.updates_per_iteration": 1,
    }
    before = db.connect(Store(archive)).execute('SELECT count(*) FROM "references"').fetchone()[0]
    with retrain(trained, archive, 2, name="one", overrides=how) as run:
        base = run.base_policy_id
        run_passes(run, 2)
    had = db.connect(Store(archive)).execute('SELECT count(*) FROM "references"').fetchone()[0]
    n_first = len(calls)
    assert sum(calls) == had - before
    with retrain(trained, archive, 2, name="two", overrides={**how, "train.beta": 0.5, "replay.rule": "recency"}) as run:
        run_passes(run, 2)
    assert len(calls) == n_first
    found = db.connect(Store(archive)).execute(
        'SELECT pass_id, count(*) FROM "references" WHERE reference_id = $1 GROUP BY 1', [base]
    )
    by_pass = dict(found.fetchall())
    assert by_pass.get("one-0001", 0) == sum(calls)
    assert not {"one-0002", "two-0001", "two-0002"} & set(by_pass)
    # A reset makes the run's own policy the reference, and asks the trainer alone for its sums; no engine is there to ask.
    with retrain(trained, archive, 2, name="three", overrides={**how, "train.reset_every_iterations": 1}) as run:
        run_passes(run, 2)
        assert run.reference_id(2) == "three-0001"
    assert calls[n_first:] == [96]
    with retrain(trained, archive, 1, name="four", overrides={**how, "train.precision": "bfloat16"}) as run:
        run_passes(run)
    assert calls[n_first:] == [96, 96]
    by_precision = 'SELECT precision, count(*), count(DISTINCT trajectory_id) FROM "references" WHERE reference_id = $1 GROUP BY 1 ORDER BY 1'
    found = db.connect(Store(archive)).execute(by_precision, [base]).fetchall()
    assert found == [("bfloat16", 96, 96), ("float32", 96, 96)]


@pytest.mark.usefixtures("warm")
def test_waiting_leaves_an_iteration_without_updates(trained, archive) -> None:
    """At first there are too few rollouts: the policy stays unchanged, and its record says so; later, draws begin."""
    from pipeline.stages import evaluate

    how = {**trained.settings, "replay.schedule": "paper_algorithm_1", "replay.if_short": "wait"}
    how |= {"replay.batch_trajectories": 72, "seed": 5}
    with open_run("iterate", recipes.load("arithmetic", how, iterations=2), archive, name="waits") as run:
        for i in (1, 2):
            run_iteration(run, i)
            evaluate.evaluate(run, i)
            end(run, i)
    query = (
        "SELECT p.n_updates, p.n_draws, p.loss, p.grad_norm, a.weights_digest = b.weights_digest "
        "FROM passes p JOIN policies a ON a.policy_id = p.policy_id JOIN policies b ON b.policy_id = p.parent_id "
        "WHERE p.run_id = 'waits' ORDER BY p.iteration"
    )
    first, second = db.connect(Store(archive)).execute(query).fetchall()
    assert first == (0, 0, None, None, True)
    again = repeat(Store(archive), "waits-0001")
    assert again.equal
    assert (again.n_draws, again.max_residual_gap) == (0, 0.0)
    assert second[:2] == (3, 3 * 72)
    assert second[4] is False


BIG = {"replay.batch_trajectories": 1000, "replay.window_trajectories": "all"}
MISTAKES = {
    "more rows than there are": (
        BIG,
        "asks for 1,000 rows of fifo and 96 can be drawn",
    ),
    "a window smaller than an update": ({"replay.window_trajectories": 20}, "smaller than an update"),
    "shares that do not sum": (
        {"replay.schedule": "shares", "replay.shares": [{"fifo": 0.5, "recency": 0.4}]},
        "sum to 0.9",
    ),
    "a null weight": (
        {"replay.rule": "custom", "replay.custom.weight": "nullif(sample_index, 1)"},
        "it is null for trajectory",
    ),
    "a negative weight": ({"replay.rule": "custom", "replay.custom.weight": "reward - 2"}, "it is -2 for trajectory"),
    "a weight that is no number": (
        {"replay.rule": "custom", "replay.custom.weight": "verdict"},
        "is varchar, not a number",
    ),
    "weights of nothing": (
        {"replay.rule": "custom", "replay.custom.weight": "0"},
        "asks for 40 rows of custom and 0 can be drawn",
    ),
    "an empty condition": ({"retrain.where": "reward = 7"}, "is true of none of 96 rollouts"),
    "a condition that is none": ({"retrain.where": "rewrad = 1"}, "rewrad"),
    "a condition by chance": ({"retrain.where": "random() < 0.5"}, "random() gives another answer every time"),
    "an unknown run": ({"retrain.runs": ["arithmetik"]}, "did you mean arithmetic?"),
    "an unknown policy": ({"retrain.policies": ["nobody"]}, "'nobody'"),
    "waiting for nothing": ({"replay.if_short": "wait"}, "no rollouts that it could wait for"),
    "an unknown rule": ({"replay.rule": "fifa"}, "replay.rule = 'fifa'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(trained, mistake) -> None:
    changes, message = MISTAKES[mistake]
    before = Store(trained.archive).versions()
    lines = [f"{key}={json.dumps(value)}" for key, value in {**trained.settings, **changes}.items()]
    words = [word for line in lines for word in ("--set", line.replace('": ', '" = '))]
    assert message in refused("retrain", "--archive", str(trained.archive), "--run", "wrong", *words)
    assert Store(trained.archive).versions() == before


def test_an_unknown_snapshot_is_one_line(trained) -> None:
    where = ("--archive", str(trained.archive))
    assert "snapshot 'nope'" in refused("retrain", *where, "--at", "nope")
    assert "before others came in" in refused("retrain", *where, "--archive", "other", "--at", trained.first)


def test_iterate_does_not_take_what_only_retraining_does(trained, tmp_path) -> None:
    words = ["--set", "retrain.where=reward = 1"]
    assert "leave them out" in refused("iterate", "--archive", str(tmp_path / "none"), *words)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["replay.schedule=shares", "replay.shares=[{fresh = 1.0}]", "replay.batch_trajectories=500"], "500 fresh rows"),
        (["replay.max_age_iterations=0", "replay.batch_trajectories=400"], "400 rows of fifo"),
        (["replay.window_trajectories=100", "replay.batch_trajectories=200"], "smaller than an update"),
    ],
)
def test_iterate_refuses_what_no_wait_could_mend(tmp_path, changes, message) -> None:
    words = [word for line in changes for word in ("--set", line)]
    assert message in refused("iterate", "--archive", str(tmp_path / "none"), *words)
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("warm")
def test_a_policy_is_evaluated_as_its_run_evaluates(trained, archive, monkeypatch) -> None:
    """Without giving settings again: the same questions and limits, so the same benchmark, already fully answered."""
    monkeypatch.setattr("pipeline.inputs.arithmetic.problems", lambda seed: SUMS)
    benchmarks = "SELECT DISTINCT benchmark FROM runs"
    (own,) = db.connect(Store(archive)).execute(benchmarks).fetchall()
    runtime = ("--set", "runtime.engine=transformers", "--set", "runtime.device=cpu")
    n_answers = "SELECT count(*), count(DISTINCT benchmark) FROM evaluations WHERE policy_id = 'arithmetic-0002'"
    before = db.connect(Store(archive)).execute(n_answers).fetchone()
    invoke("evaluate", "arithmetic-0002", "-a", str(archive), *runtime)
    assert db.connect(Store(archive)).execute(n_answers).fetchone() == before
    invoke("evaluate", "again-0001", "-a", str(archive), *runtime)
    found = db.connect(Store(archive)).execute(
        "SELECT DISTINCT benchmark FROM evaluations WHERE policy_id = 'again-0001'"
    )
    assert found.fetchall() == [own]
    invoke("evaluate", "again-0001", "-a", str(archive), *runtime, "--set", "score.verifier=exact")
    found = db.connect(Store(archive)).execute(
        "SELECT benchmark = $1, verifier_id FROM evaluations WHERE policy_id = 'again-0001' GROUP BY ALL ORDER BY 1", own
    )
    assert [row[0] for row in found.fetchall()] == [False, True]
