"""`reval plan` is compared with results by hand, with the paper's numbers, and with a real run."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.archive.store import Store
from pipeline.inputs import arithmetic
from pipeline.query import db
from pipeline.recipes import load
from pipeline.recipes.config import RULES, Keep
from pipeline.replay import plan
from pipeline.replay.schedule import n_fresh
from pipeline.runs import costs
from tests.helpers.archives import random_model
from tests.helpers.command import environment, invoke, refused

CUSTOM = {"replay.custom.weight": "1 + reward"}
# 16 rollouts an iteration, two updates of 16.
TINY = {
    "generate.prompts_per_iteration": 4,
    "generate.samples_per_prompt": 4,
    "replay.updates_per_iteration": 2,
    "replay.batch_trajectories": 16,
    "replay.window_trajectories": 80,
}


def planned(recipe: str = "arithmetic", iterations: int | None = None, **changes) -> plan.Plan:
    """A plan of a recipe; settings with their dots as double underscores."""
    settings = {name.replace("__", "."): value for name, value in changes.items()}
    return plan.plan(load(recipe, settings, iterations=iterations))


def tiny(iterations: int | None = None, **changes) -> plan.Plan:
    return planned(iterations=iterations, **{name.replace(".", "__"): value for name, value in TINY.items()} | changes)


def test_expected_uses_are_two_in_the_paper() -> None:
    assert plan.expected_uses(window=5120, per_iteration=1024, updates=2) == 2
    # A window that is no multiple of B: floor(2560 / 1024) (1024 / 2560) 2 = 1.6.
    assert math.isclose(plan.expected_uses(window=2560, per_iteration=1024, updates=2), 1.6)


@pytest.mark.parametrize("recipe", ["paper-1.5b", "paper-7b"])
def test_the_papers_recipes_have_its_numbers(recipe) -> None:
    config = load(recipe)
    settings = config.replay
    assert (n_fresh(config), settings.window_trajectories, settings.updates_per_iteration) == (1024, 5120, 2)
    assert (config.iterations, settings.batch_trajectories, config.train.learning_rate) == (650, 1024, 1e-6)
    assert (config.train.beta, config.train.reset_every_iterations) == ((0.002, 0), (0.02, 200))[recipe == "paper-7b"]
    assert config.prompts.template.replace("{problem}", "1+1?") == (
        "1+1? Let's think step by step and output the final answer within \\boxed{}."
    )
    made, trained, evaluated = config.generate, config.train, config.evaluate
    assert (made.prompts_per_iteration, made.samples_per_prompt, made.temperature) == (128, 8, 1.0)
    assert (made.max_response_tokens, trained.max_grad_norm, trained.objective) == (8192, 1.0, "reval")
    assert (settings.rule, settings.schedule, trained.baseline) == ("fifo", "paper_appendix_a", "group_mean")
    assert evaluated.benchmarks == ["aime24", "aime25", "amc", "math", "minerva", "olympiad", "gpqa"]
    assert (evaluated.samples_per_prompt, evaluated.sampled_every_iterations, evaluated.every_iterations) == (16, 10, 10)


@pytest.mark.parametrize("schedule", ["paper_algorithm_1", "paper_appendix_a"])
def test_in_the_steady_state_a_rollout_is_used_as_often_as_there_are_updates(schedule) -> None:
    """With batches of B, K updates draw K B rows an iteration, and every age has B rollouts to share them."""
    for updates in (1, 2, 5):
        found = tiny(replay__schedule=schedule, replay__updates_per_iteration=updates)
        last = found.shown[-1]
        assert last.uses == updates
        assert sum(last.n_draws_by_age) / last.n_generated == updates


def test_ages_of_algorithm_1_are_uniform_over_the_window() -> None:
    """M = 5 B: ages 0 to 4 alike, mean 2. Of 2,048 draws a fifth each: 410, deviation 16 at the most."""
    found = planned("paper-1.5b", replay__schedule="paper_algorithm_1")
    assert found.settled == 5
    assert [row.iteration for row in found.shown] == [1, 2, 3, 4, 5, 650]
    assert [row.n_may_be_drawn for row in found.shown] == [1024, 2048, 3072, 4096, 5120, 5120]
    for row in found.shown[4:]:
        assert abs(row.mean_age - 2) < 0.1
        assert row.max_age == 4
        assert all(abs(n - 2048 / 5) < 5 * 16 for n in row.n_draws_by_age)


def test_ages_of_appendix_a() -> None:
    """One update of age 0 and one of mean 2: mean 1."""
    last = planned("paper-1.5b").shown[-1]
    assert (last.n_updates, last.n_fresh, last.n_replayed, last.uses) == (2, 1024, 1024, 2)
    assert abs(last.mean_age - 1) < 0.1


def test_ages_of_shares_by_hand() -> None:
    """Half fresh, half past, and a window of two batches: the past is of age 1. From iteration 2 on the mean is 1/2."""
    found = tiny(replay__schedule="shares", replay__shares=[{"fresh": 0.5, "fifo": 0.5}], replay__window_trajectories=32)
    first, second, *_, last = found.shown
    assert (first.n_fresh, first.n_replayed, first.mean_age, first.n_may_be_drawn) == (16, 0, 0, 16)
    for row in (second, last):
        assert (row.n_fresh, row.n_replayed, row.mean_age, row.max_age) == (16, 16, 0.5, 1)
        assert row.n_draws_by_age == (16, 16)
        assert row.n_may_be_drawn == 32
    assert found.settled == 2
    assert [(a, b) for a, b, _ in found.short] == [(1, 1)]


def test_the_table_follows_a_share_that_changes() -> None:
    """From 1 to 1/4 over 16 iterations: 1/20 less in each, of two updates of 16 rows."""
    share = {"kind": "linear", "start": 1.0, "end": 0.25, "iterations": 16}
    found = tiny(iterations=40, replay__schedule="shares", replay__shares=[{"fresh": share, "fifo": "rest"}])
    assert found.settled == 16
    assert {1, 2, 3, 16, 40} <= {row.iteration for row in found.shown}
    for row in found.shown:
        exact = 16 * max(0.25, 1 - 0.05 * (row.iteration - 1))
        assert abs(row.n_fresh / 2 - exact) < 1
        assert row.n_fresh + row.n_replayed == 32
    assert len(found.shown) <= plan.MOST_SHOWN


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_planned_and_nothing_is_random(rule) -> None:
    config = load("arithmetic", {**TINY, **CUSTOM, "replay.rule": rule})
    found = plan.plan(config)
    assert found.shown[-1].n_replayed == 16
    assert found.settled
    assert plan.plan(config) == found


def test_an_age_bound_settles_before_the_window_is_full() -> None:
    found = tiny(replay__max_age_iterations=1)
    assert found.settled == 2
    assert {row.max_age for row in found.shown[1:]} == {1}


def test_kept_correct_rows_are_older_than_the_window() -> None:
    """Of 80 rows 40 are kept correct ones; half of all are, so they reach about as far again as the window."""
    found = tiny(iterations=40, replay__rule="keep_correct", replay__keep_correct__share=0.5)
    assert 6 <= found.settled <= 10
    assert found.shown[-1].n_may_be_drawn == 80


@pytest.mark.parametrize(
    ("if_short", "becomes", "updates"),
    [("smaller", "it is smaller", 2), ("wait", "it waits for more, and is left out", 0)],
)
def test_iterations_with_too_few_rows_are_announced(if_short, becomes, updates) -> None:
    """Updates of 64 rows, 16 new ones an iteration: three iterations are short."""
    how = {"replay__schedule": "paper_algorithm_1", "replay__batch_trajectories": 64, "replay__if_short": if_short}
    found = tiny(**how)
    ((first, last, said),) = found.short
    assert (first, last) == (1, 3)
    assert said.startswith("update 1 asks for 64 rows of fifo and 16 can be drawn (1 more are short too)")
    assert becomes in said
    assert [row.n_updates for row in found.shown[:4]] == [updates] * 3 + [2]


def test_where_short_iterations_end_is_found_between_those_shown() -> None:
    """200 rows are there from iteration 13 on: 12 times 16 are 192."""
    found = tiny(
        iterations=90,
        replay__schedule="paper_algorithm_1",
        replay__batch_trajectories=200,
        replay__window_trajectories=800,
    )
    assert [(first, last) for first, last, _ in found.short] == [(1, 12)]
    assert not {12, 13} <= {row.iteration for row in found.shown}


def test_a_window_of_everything_does_not_settle() -> None:
    found = tiny(iterations=30, replay__window_trajectories="all")
    assert found.settled is None
    assert (found.shown[-1].iteration, found.shown[-1].n_may_be_drawn) == (30, 480)


def test_what_would_take_long_is_planned_so_far_and_it_says_so(monkeypatch) -> None:
    monkeypatch.setattr(plan, "MOST_ROLLOUTS", 160)
    found = tiny(iterations=30, replay__window_trajectories="all")
    assert (found.last, found.shown[-1].iteration, found.settled) == (10, 10, None)
    said = invoke("plan", *words(TINY), "--set", "replay.window_trajectories=all", "-n", "30").stdout
    assert "Planned as far as iteration 10" in said
    assert "(B/M)·K: -; this schedule: 2" in said


def words(settings: dict) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def test_the_plan_is_what_a_run_then_does(trained) -> None:
    """Compares the plan's updates, fresh and replayed rows and ages with those of the run's own draws."""
    found = plan.plan(load("arithmetic", trained.settings, iterations=2))
    statement = (
        "SELECT count(DISTINCT update), count(*) FILTER (source = 'fresh'), count(*) FILTER (source = 'replay'), "
        "max(age_iterations) FROM draws WHERE pass_id LIKE 'arithmetic-%' GROUP BY pass_id ORDER BY pass_id"
    )
    did = db.connect(Store(trained.archive), only=statement).execute(statement).fetchall()
    assert [(row.n_updates, row.n_fresh, row.n_replayed, row.max_age) for row in found.shown] == did


def test_metas_optimum() -> None:
    """y = (-1/4 + sqrt(1/16 + 5 * 0.3 * 1/2)) / 0.3 = 2.17, x = y^2 / (1/2 (5 + y)) = 1.31."""
    y, x = costs.best_replay(mu=5)
    assert (round(y, 2), round(x, 2)) == (2.17, 1.31)


def test_costs_by_hand() -> None:
    """Ten iterations of 100 rollouts of 1,000 tokens: 5.9 MB and 67 B each; 2,000 draws of 95 B; 1 M parameters."""
    made = {"n_rollouts": 1000, "n_draws": 2000, "response_tokens": 1000, "iterations": 10}
    found = costs.costs(**made, n_parameters=10**6, keep=Keep(optimizer_states=0))
    assert math.isclose(found.archive, 5_900_000 + 67_000 + 190_000)
    assert (found.weights, found.moments) == (40e6, 80e6)
    assert costs.costs(**made, n_parameters=None, keep=Keep()).moments is None
    # Policies 3, 6 and 9, and 10; the newest two states.
    found = costs.costs(**made, n_parameters=10**6, keep=Keep(policies_every=3))
    assert (found.weights, found.moments) == (16e6, 16e6)


@pytest.mark.parametrize(
    ("base", "n"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_500_000_000),
        ("Qwen/Qwen2.5-Math-7B", 7_000_000_000),
        ("some/small-135M-instruct", 135_000_000),
        ("some/model", None),
        ("8bit/model-v2", None),
    ],
)
def test_parameters_by_name(base, n) -> None:
    found, how = costs.parameters(base, costs.Measured())
    assert found == n
    assert ("from its name" if n else "not known") in how


def test_parameters_of_weights_and_of_the_embedded_model(model_folder, tmp_path) -> None:
    embedded = arithmetic.make_model(arithmetic.make_tokenizer(), 0)
    n = sum(parameter.numel() for parameter in embedded.parameters())
    assert costs.parameters("arithmetic", costs.Measured())[0] == n == 433_792
    assert costs.parameters(str(random_model(tmp_path / "base-7b", 1)), costs.Measured())[0] == n
    tied = n - len(arithmetic.WORDS) * arithmetic.HIDDEN
    assert costs.parameters(str(model_folder), costs.Measured())[0] == tied


def test_what_is_printed_for_the_default(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = invoke("plan", "--recipe", "arithmetic").stdout.splitlines()
    rows = [line.split() for line in lines]
    assert rows[1][:6] == ["iteration", "generated", "may_be_drawn", "updates", "fresh", "replayed"]
    assert rows[2] == ["1", "256", "256", "8", "256", "1792", "0", "0", "8"]
    assert [row[0] for row in rows[2:8]] == ["1", "2", "3", "4", "5", "15"]
    said = "\n".join(lines)
    for part in (
        "From iteration 5 on",
        "⌊M/B⌋·(B/M)·K: 8; this schedule: 8, 2,048 draws for 256 rollouts",
        "3,840 rollouts of 20 response tokens (generate.max_response_tokens, so at most)",
        "433,792 parameters (the embedded model's)",
        "an archive with finished iterations (--archive) says",
    ):
        assert part in said
    assert not list(tmp_path.iterdir())


def test_what_is_printed_for_the_papers_run() -> None:
    said = invoke("plan", "--recipe", "paper-1.5b").stdout
    for part in (
        "128 × 8 = 1,024 rollouts; 2 updates of 1,024 rows (paper_appendix_a, fifo) from the newest 5,120",
        "⌊M/B⌋·(B/M)·K: 2; this schedule: 2, 2,048 draws for 1,024 rollouts in iteration 650",
        "; in all 2.00",
        "policies 396 GB and optimizer states 24 GB",  # 1.5e9 · 4 B · 66: every tenth and the last but one; 1.5e9 · 8 B · 2
        "the trainer about 24 GB: weights 6 GB, gradients 6 GB, moments 12 GB (1,500,000,000 parameters, from its name, DeepSeek-R1-Distill-Qwen-1.5B; ",
    ):
        assert part in said


def test_what_a_plan_does_not_know_is_said() -> None:
    said = invoke("plan", *words(TINY), "--set", "replay.rule=fresh_priority", "--set", "policy.base=some/model").stdout
    assert "before a run no rollout has a residual; |target| stands in for it" in said
    assert "Rewards are made up" in said
    assert "the number of parameters is not known: policy.base = 'some/model'" in said
    short = invoke(
        "plan", *words(TINY), *words({"replay.schedule": "paper_algorithm_1", "replay.batch_trajectories": 64})
    )
    assert "Iterations 1-3: at first, update 1 asks for 64 rows of fifo and 16 can be drawn" in short.stdout
    assert not short.stderr  # what the draws log of it is part of the plan
    never = words({"replay.rule": "custom", "replay.custom.weight": "0 * reward", "replay.schedule": "paper_algorithm_1"})
    assert (
        "Iteration 1: its draw rule takes no rollout; a run stops there." in invoke("plan", *words(TINY), *never).stdout
    )


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"replay.batch_trajectories": 5000}, "a window of 80 rows is smaller than an update"),
        (
            {"replay.schedule": "shares", "replay.shares": '[{"fresh" = 1.0}]', "replay.batch_trajectories": 32},
            "it asks for 32 fresh rows, and there are never more than 16",
        ),
        (
            {"replay.if_short": "refuse", "replay.schedule": "paper_algorithm_1", "replay.batch_trajectories": 64},
            "update 1 asks for 64 rows of fifo and 16 can be drawn",
        ),
        ({"replay.rule": "custom", "replay.custom.weight": "random()"}, "another answer every time"),
        ({"replay.rul": "fifo"}, "did you mean replay.rule?"),
    ],
)
def test_mistakes_are_one_line_and_code_2(mistake, message) -> None:
    assert message in refused("plan", *words({**TINY, **mistake}))


def test_an_archive_that_is_named_has_to_be_one(tmp_path) -> None:
    assert "does not exist" in refused("plan", "--archive", str(tmp_path / "none"))
    assert not list(tmp_path.iterdir())


def test_figures_measured_in_an_archive(trained) -> None:
    there = ["--archive", str(trained.archive)]
    before = sorted(Path(trained.archive).rglob("*"))
    said = invoke("plan", *words(trained.settings), *there).stdout
    assert "(the mean of 96 in the archive)" in said
    assert "433,792 parameters (from the archive)" in said
    assert "(medians of 2 iterations): μ = " in said
    found = costs.measured(Store(trained.archive), load("arithmetic"), any_run=False)
    y, x = costs.best_replay(found.generate_seconds / found.train_seconds)
    assert f"y* = {y:.3g} uses of a rollout, staleness horizon x* = {x:.3g}; this schedule: " in said
    assert sorted(Path(trained.archive).rglob("*")) == before
    # Runs of another recipe and base policy count where the archive is named, and not where it just lies there.
    assert "(the mean of 96 in the archive)" in invoke("plan", "--recipe", "paper-1.5b", *there).stdout
    other = costs.measured(Store(trained.archive), load("paper-1.5b"), any_run=False)
    assert other == costs.Measured()


@pytest.mark.slow
def test_it_needs_no_torch_and_makes_no_archive(tmp_path) -> None:
    code = "import sys; from flows.cli import app; app(['plan'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path)).returncode == 0
    assert not list(tmp_path.iterdir())
