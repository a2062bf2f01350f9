"""The views: numbers computed by hand over planted rows, and sums over a trained archive."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.stages import draw as replay
from tests.helpers.archives import draws, plant
from tests.helpers.command import invoke
from tests.helpers.runs import open_run


def residuals(pass_id: str, update: int, *values: float) -> Iterator[dict[str, Any]]:
    for slot, value in enumerate(values):
        yield {"pass_id": pass_id, "update": update, "slot": slot, "residual": value}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Two passes of `demo`, the second not trained yet, and one of `again` over demo's rollouts and imported ones.

    `again` was trained after demo-0001, though its name comes before it.
    """
    made = Store.create(tmp_path_factory.mktemp("views") / "archive")
    questions = [
        {"prompt_id": f"p{n}", "split": "train", "problem": f"{n}+{n}", "gold_answer": str(2 * n)} for n in range(6)
    ]
    plant(made, "prompts", *questions, {"prompt_id": "held", "split": "heldout"})
    # By run, iteration and policy: trajectories and what they answer. t6 has no judgement, and h1's question is held out.
    rollouts = {
        ("demo", 1, "base"): {"t1": "p1", "t2": "p1", "t3": "p2"},
        ("demo", 2, "demo-0001"): {"t4": "p1", "t5": "p3", "t6": "p4"},
        ("file", 0, "theirs"): {"f1": "p5", "h1": "held"},
    }
    names = [
        {"run_id": run, "iteration": i, "policy_id": policy, "trajectory_id": name, "prompt_id": prompt}
        for (run, i, policy), answers in rollouts.items()
        for name, prompt in answers.items()
    ]
    plant(made, "trajectories", *({**row, "n_response_tokens": 7} for row in names))
    texts = ({"trajectory_id": row["trajectory_id"], "response_text": f"of {row['trajectory_id']}"} for row in names)
    plant(made, "responses", *texts)
    judged = ({"trajectory_id": row["trajectory_id"], "verdict": "wrong", "reward": 0.0} for row in names)
    lost = {"verdict": "timeout", "reward": None}
    plant(made, "verdicts", *({**row, **lost} if row["trajectory_id"] == "t6" else row for row in judged))
    plant(
        made,
        "draws",
        *draws("demo-0001", 0, ("t1", "fresh", 0, 1, 1), ("t2", "fresh", 0, 1, 0), ("t3", "fresh", 0, 1, 0.5)),
        *draws("demo-0001", 1, ("t3", "replay", 0, 3, 0.5), ("t1", "replay", 0, 1, 1)),
        *draws("demo-0002", 0, ("t4", "fresh", 0, 1, 1), ("t5", "fresh", 0, 1, 0)),
        *draws("demo-0002", 1, ("t1", "replay", 1, 1, 1), ("t4", "replay", 0, 1, 1)),
        *draws("again-0001", 0, ("t4", "replay", 0, 1, 1), ("t1", "replay", 1, 1, 1), ("f1", "replay", 2, 2, 0)),
    )
    plant(
        made,
        "updates",
        *residuals("demo-0001", 0, 0.5, -1.5, 1.0),
        *residuals("demo-0001", 1, -0.25, 0.75),
        *residuals("again-0001", 0, 2.0, -3.0, 4.0),
    )
    ends = [("demo-0001", "demo", 1), ("again-0001", "again", 1)]
    config = '{"train": {"max_grad_norm": 1.0}}'
    plant(made, "runs", *({"run_id": run, "config": config} for _, run, _ in ends))
    plant(made, "passes", *({"pass_id": name, "run_id": run, "iteration": i} for name, run, i in ends))
    figures = ("n_tokens", "n_padding_tokens", "grad_norm", "learning_rate", "entropy", "seconds", "peak_memory_bytes")
    steps = [(300, 100, 2.5, 1e-3, 0.5, 2.0, 7_000), (500, 0, 1.0, 1e-3, 0.3, 6.0, 9_000)]
    measured = [
        {"pass_id": "demo-0001", "update": update, "flop_utilisation": share, **dict(zip(figures, row, strict=True))}
        for update, (row, share) in enumerate(zip(steps, (0.5, 0.1), strict=True))
    ]
    plant(made, "steps", *measured)
    stages = enumerate((run, i, stage) for _, run, i in ends for stage in ("draw", "train"))
    plant(
        made,
        "snapshots",
        *(
            {
                "snapshot_id": f"s{n}",
                "created_at": datetime(2026, 1, 2, n, tzinfo=UTC),
                "run_id": run,
                "iteration": i,
                "stage": stage,
            }
            for n, (run, i, stage) in stages
        ),
    )
    line = ["base", "demo-0001", "again-0001"]
    plant(
        made,
        "policies",
        {"policy_id": "base"},
        *(
            {"policy_id": name, "parent_id": parent, "run_id": name[:-5], "iteration": 1, "pass_id": name}
            for name, parent in zip(line[1:], line, strict=False)
        ),
        {"policy_id": "egg", "parent_id": "hen"},
        {"policy_id": "hen", "parent_id": "egg"},
        {"policy_id": "orphan", "parent_id": "nobody"},
    )
    return made


def ask(store: Store, statement: str) -> list[tuple]:
    return [tuple(row.values()) for row in db.ask(store, statement).read_all().to_pylist()]


USES = {
    # uses, passes, fresh, replayed, ages, the last pass that trained on it and its residual there
    "t1": (4, 3, 1, 3, 0, 1, "again-0001", -3.0),
    "t2": (1, 1, 1, 0, 0, 0, "demo-0001", -1.5),
    "t3": (2, 1, 1, 1, 0, 0, "demo-0001", -0.25),  # of its two updates there, the second
    "t4": (3, 2, 1, 2, 0, 0, "again-0001", 2.0),
    "t5": (1, 1, 1, 0, 0, 0, None, None),  # drawn by a pass that is not trained yet
    "t6": (0, 0, 0, 0, None, None, None, None),
    "f1": (1, 1, 0, 1, 2, 2, "again-0001", 4.0),
    "h1": (0, 0, 0, 0, None, None, None, None),
}


def test_how_often_each_trajectory_was_used(store) -> None:
    found = ask(store, "SELECT * EXCLUDE (run_id, iteration, policy_id, prompt_id) FROM trajectory_uses")
    assert {name: tuple(rest) for name, *rest in found} == USES
    named = "SELECT run_id, iteration, policy_id, prompt_id FROM trajectory_uses WHERE trajectory_id = 't5'"
    assert ask(store, named) == [("demo", 2, "demo-0001", "p3")]


def test_ages_by_update(store) -> None:
    found = ask(store, "SELECT * FROM update_ages ORDER BY pass_id, update, age_iterations")
    third = pytest.approx(1 / 3)
    assert found == [
        *(("again-0001", "again", 1, 0, age, 1, third) for age in (0, 1, 2)),
        ("demo-0001", "demo", 1, 0, 0, 3, 1.0),
        ("demo-0001", "demo", 1, 1, 0, 2, 1.0),
        ("demo-0002", "demo", 2, 0, 0, 2, 1.0),
        ("demo-0002", "demo", 2, 1, 0, 1, 0.5),
        ("demo-0002", "demo", 2, 1, 1, 1, 0.5),
    ]


MIX = {
    # draws, fresh, replayed, mean and max age; prompts, of how many, coverage; effective sample size; duplicates; reward; |residual|
    # t1, t2 and t3 answer p1, p1 and p2, which are all prompts; |.5|, |-1.5| and |1| are 1 on average.
    ("demo-0001", 0): (3, 3, 0, 0, 0, 2, 2, 1.0, 3.0, 0.0, 0.5, 1.0),
    # Weights 3 and 1: (3 + 1)^2 / (9 + 1).
    ("demo-0001", 1): (2, 0, 2, 0, 0, 2, 2, 1.0, 1.6, 1.0, 0.75, 0.5),
    # By iteration 2, p1, p2 and p3 have judged answers; p4's has none.
    ("demo-0002", 0): (2, 2, 0, 0, 0, 2, 3, 2 / 3, 2.0, 0.0, 0.5, None),
    # t4 was in update 0 too, t1 was in none of this pass.
    ("demo-0002", 1): (2, 0, 2, 0.5, 1, 1, 3, 1 / 3, 2.0, 0.5, 1.0, None),
    # Of both runs: p5 too, but not the held-out question. Weights 1, 1 and 2: 16 / 6.
    ("again-0001", 0): (3, 0, 3, 1.0, 2, 2, 4, 0.5, 16 / 6, 0.0, 2 / 3, 3.0),
}


def test_what_an_update_is_made_of(store) -> None:
    found = ask(store, "SELECT pass_id, update, * EXCLUDE (pass_id, run_id, iteration, update) FROM update_mix")
    assert {(name, update): tuple(rest) for name, update, *rest in found} == {
        key: pytest.approx(values) for key, values in MIX.items()
    }
    named = "SELECT DISTINCT pass_id, run_id, iteration FROM update_mix ORDER BY 1"
    assert ask(store, named) == [("again-0001", "again", 1), ("demo-0001", "demo", 1), ("demo-0002", "demo", 2)]


def test_what_a_given_update_saw(store) -> None:
    names = "run_id, iteration, slot, source, rule, age_iterations, weight, reward, residual, policy_id, problem, gold_answer, response_text, n_response_tokens"
    saw = f"SELECT {names} FROM update_rows WHERE pass_id = '%s' AND update = 1 ORDER BY slot"
    assert ask(store, saw % "demo-0001") == [
        ("demo", 1, 0, "replay", "fifo", 0, 3.0, 0.5, -0.25, "base", "2+2", "4", "of t3", 7),
        ("demo", 1, 1, "replay", "fifo", 0, 1.0, 1.0, 0.75, "base", "1+1", "2", "of t1", 7),
    ]
    assert [row[-6:-4] for row in ask(store, saw % "demo-0002")] == [(None, "base"), (None, "demo-0001")]
    untrained = "SELECT DISTINCT pass_id, target, residual, value_gap, log_ratio FROM update_rows WHERE residual IS NULL"
    assert ask(store, untrained) == [("demo-0002", None, None, None, None)]


def test_what_the_steps_of_a_pass_were_like(store) -> None:
    """One of demo's two steps was clipped, because 2.5 is above 1; 800 tokens in 8 seconds, and 100 of padding; device
    utilisation is (.5 * 2 + .1 * 6) / 8. The squares of its residuals .5, -1.5, 1, -.25 and .75 sum to 4.125, those of
    again's 2, -3 and 4 to 29. `again` has no steps, so figures of steps are null."""
    found = {row[0]: row[1:] for row in ask(store, "SELECT pass_id, * EXCLUDE (pass_id) FROM training")}
    rms = pytest.approx(math.sqrt(4.125 / 5))
    share = pytest.approx(100 / 900)
    # value_gap, log_ratio and target, which were not planted; kl: no parent made what its pass drew first.
    parts = (0.0, 0.0, 0.0, None)
    assert found["demo-0001"] == (
        *("demo", 1, 1e-3, 0.4, 0.5, None, rms),
        *parts,
        *(100.0, share, 9_000, pytest.approx(0.2)),
    )
    rms = pytest.approx(math.sqrt(29 / 3))
    assert found["again-0001"] == ("again", 1, None, None, None, None, rms, *parts, None, None, None, None)


def test_every_ancestor_of_every_policy(store) -> None:
    found = ask(
        store, "SELECT depth, ancestor_id, parent_id, pass_id FROM lineage WHERE policy_id = 'again-0001' ORDER BY 1"
    )
    assert found == [
        (0, "again-0001", "demo-0001", "again-0001"),
        (1, "demo-0001", "base", "demo-0001"),
        (2, "base", None, None),
    ]
    depths = dict(ask(store, "SELECT policy_id, max(depth) FROM lineage GROUP BY 1"))
    # Following parents in a circle ends after six policies.
    assert depths == {"base": 0, "demo-0001": 1, "again-0001": 2, "orphan": 0, "egg": 6, "hen": 6}


def test_a_view_brings_the_tables_it_stands_on(store) -> None:
    for view in db.VIEWS:
        statement = f"SELECT count(*) FROM {view}"
        assert db.connect(store, only=statement).execute(statement).fetchone() == ask(store, statement)[0], view


# Over the trained archive: figures that must be equal in different views.
SAME = {
    "uses are draws": (
        "SELECT sum(n_uses)::INT, sum(n_fresh)::INT, sum(n_replayed)::INT, max(max_age_iterations) FROM trajectory_uses",
        "SELECT count(*)::INT, count(*) FILTER (source = 'fresh')::INT, count(*) FILTER (source = 'replay')::INT, max(age_iterations) FROM draws",
    ),
    "a row per trajectory": ("SELECT count(*) FROM trajectory_uses", "SELECT count(*) FROM trajectories"),
    "uses by pass": (
        "SELECT sum(n_passes)::INT FROM trajectory_uses",
        "SELECT count(*)::INT FROM (SELECT DISTINCT pass_id, trajectory_id FROM draws)",
    ),
    "fresh and replayed": ("SELECT DISTINCT n_draws - n_fresh - n_replayed FROM update_mix", "SELECT 0::BIGINT"),
    "shares of ages": (
        "SELECT DISTINCT round(sum(share), 9) FROM update_ages GROUP BY pass_id, update",
        "SELECT 1.0::DOUBLE",
    ),
    "ages are draws": (
        "SELECT pass_id, update, sum(n_draws)::INT, max(age_iterations), round(sum(age_iterations * share), 9) FROM update_ages GROUP BY ALL ORDER BY ALL",
        "SELECT pass_id, update, n_draws::INT, max_age_iterations, round(mean_age_iterations, 9) FROM update_mix ORDER BY ALL",
    ),
    "updates are of their pass": (
        "SELECT pass_id, run_id, iteration, count(*)::INT, sum(n_draws)::INT FROM update_mix GROUP BY ALL ORDER BY ALL",
        "SELECT pass_id, run_id, iteration, n_updates::INT, n_draws::INT FROM passes ORDER BY ALL",
    ),
    "progress": (
        "SELECT run_id, iteration, sum(n_fresh)::INT, sum(n_replayed)::INT FROM update_mix GROUP BY ALL ORDER BY ALL",
        "SELECT run_id, iteration, n_fresh::INT, n_replayed::INT FROM progress WHERE iteration > 0 ORDER BY ALL",
    ),
    "rows are draws": (
        "SELECT count(*), sum(weight), sum(reward) FROM update_rows",
        "SELECT count(*), sum(weight), sum(reward) FROM draws",
    ),
    "rows have diagnostics": (
        "SELECT round(sum(residual), 9), round(sum(target), 9), count(response_text) FROM update_rows",
        "SELECT round(sum(residual), 9), round(sum(target), 9), count(*) FROM updates",
    ),
    "Eq. 2": (
        "SELECT count(*) FROM update_rows WHERE abs(value_gap + log_ratio - target - residual) > 1e-5",
        "SELECT 0::BIGINT",
    ),
    "training is the passes": (
        "SELECT run_id, iteration, pass_id FROM training ORDER BY ALL",
        "SELECT run_id, iteration, pass_id FROM passes ORDER BY ALL",
    ),
    "training is the steps": (
        "SELECT pass_id, round(entropy, 9), peak_memory_bytes > 0 FROM training ORDER BY 1",
        "SELECT pass_id, round(avg(entropy), 9), max(peak_memory_bytes) > 0 FROM steps GROUP BY 1 ORDER BY 1",
    ),
    "lineage is the passes": (
        "SELECT pass_id, parent_id, reference_id, n_draws FROM lineage WHERE depth = 0 AND pass_id IS NOT NULL ORDER BY 1",
        "SELECT pass_id, parent_id, reference_id, n_draws FROM passes ORDER BY 1",
    ),
}


def test_views_agree_with_the_tables_and_one_another(trained) -> None:
    store = Store(trained.archive)
    for law, statements in SAME.items():
        one, other = (ask(store, statement) for statement in statements)
        assert one == other, law
        assert one, law


def test_bounds(trained) -> None:
    store = Store(trained.archive)
    outside = (
        "SELECT pass_id FROM update_mix WHERE NOT (prompt_coverage > 0 AND prompt_coverage <= 1 AND duplicate_share BETWEEN 0 AND 1 "
        "AND effective_sample_size > 0 AND effective_sample_size <= n_draws + 1e-9 AND n_prompts <= n_draws)"
    )
    assert ask(store, outside) == []
    assert ask(store, "SELECT DISTINCT n_prompts_answered FROM update_mix WHERE pass_id = 'arithmetic-0001'") == [(12,)]
    first = "SELECT DISTINCT duplicate_share FROM update_mix WHERE update = 0"
    assert ask(store, first) == [(0.0,)]


def test_what_was_drawn_is_seen_before_it_is_trained(trained, archive) -> None:
    """A second pass of the retraining, which is only drawn."""
    settings = recipes.load("arithmetic", trained.settings, iterations=2, defaults=recipes.RETRAIN)
    with open_run("retrain", settings, archive, name="again") as run:
        replay.draw(run, 2)
    store = Store(archive)
    mix = "SELECT run_id, iteration, count(*), count(mean_abs_residual), bool_and(n_draws > 0) FROM update_mix WHERE pass_id = 'again-0002' GROUP BY ALL"
    assert ask(store, mix) == [("again", 2, 3, 0, True)]
    assert ask(store, mix.replace("again-0002", "again-0001").replace("'again', 2", "")) == [("again", 1, 3, 3, True)]
    rows = "SELECT count(*) > 0, count(residual), count(response_text) = count(*) FROM update_rows WHERE run_id = 'again' AND iteration = 2"
    assert ask(store, rows) == [(True, 0, True)]


def test_the_question_is_one_select(trained) -> None:
    statement = "SELECT problem, response_text, age_iterations, residual FROM update_rows WHERE pass_id = 'arithmetic-0002' AND update = 2"
    out = invoke("sql", "--format", "csv", statement, "-a", str(trained.archive)).stdout.splitlines()
    assert out[0] == "problem,response_text,age_iterations,residual"
    assert len(out) > 40


@pytest.mark.usefixtures("warm")
def test_a_retrained_policy_is_compared_with_its_base(trained, archive: Path) -> None:
    """Once it is evaluated, with the settings of its run; so is the base, which another run evaluated."""
    where = ("--archive", str(archive))
    statement = "SELECT policy_id, heldout_accuracy FROM progress WHERE run_id = 'again' ORDER BY iteration"
    base, before = ask(Store(archive), statement)
    assert base[1] is not None
    assert before == ("again-0001", None)
    words = [word for key, value in trained.settings.items() for word in ("--set", f"{key}={value}")]
    invoke("evaluate", "again-0001", *words, *where)
    again, after = ask(Store(archive), statement)
    assert again == base
    greedy = "SELECT avg((verdict = 'correct')::INT) FROM evaluations WHERE policy_id = 'again-0001' AND temperature = 0"
    assert after == ("again-0001", ask(Store(archive), greedy)[0][0])
