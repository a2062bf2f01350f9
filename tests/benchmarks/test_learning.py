"""The benchmark of learning: it makes nothing twice, and its report's numbers are those of the rows."""

import math
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from benchmarks.learning import __main__ as learning
from benchmarks.learning import arms, columns, report, results
from benchmarks.learning.arms import ARMS, TASKS, Arm, Task
from pipeline.verifiers import verifier


def test_every_run_is_asked_for_what_a_recipe_may_say() -> None:
    for task in TASKS:
        for name, arm in ARMS.items():
            for number, (rate, beta) in enumerate(arm.grid):
                config = learning.Trial(task, name, 3, number, 5).config({})
                assert (config.train.learning_rate, config.train.beta, config.seed) == (rate, beta, 3)
                assert config.train.objective == arm.objective


def test_arms_have_the_same_budget() -> None:
    assert {len(arm.grid) for arm in ARMS.values()} == {8}
    assert set(arms.CORE) < set(ARMS)


def test_columns_teaches_right_answers_and_no_question_is_in_both_splits(tmp_path) -> None:
    files = columns.questions(tmp_path)
    rows = {split: pl.read_ndjson(path) for split, path in files.items()}
    assert not set(rows["train"]["problem"]) & set(rows["heldout"]["problem"])
    judge = verifier("math")
    for problem, gold in rows["heldout"].head(50).iter_rows():
        answer = columns.answer(problem)
        assert judge.judge(gold, judge.read(answer)).verdict == "correct"
        assert len(problem) + len(answer) < columns.CONTEXT


@pytest.fixture
def small(monkeypatch, tmp_path, model_folder) -> Path:
    """Very short tasks and arms, with separate results; returns the archive."""
    settings = {
        "policy.base": str(model_folder),
        "generate.prompts_per_iteration": 2,
        "generate.samples_per_prompt": 2,
        "generate.max_response_tokens": 4,
        "replay.batch_trajectories": 4,
        "replay.window_trajectories": 8,
        "replay.updates_per_iteration": 1,
        "evaluate.max_prompts": 3,
    }
    monkeypatch.setattr(
        "pipeline.inputs.arithmetic.problems", lambda seed: [(f"{n}+1=", str(n + 1), s) for n, s in SPLIT]
    )
    monkeypatch.setitem(TASKS, "tiny", Task(2, 1, (0.5,), settings, base=None))
    for name in ("a", "grpo-fresh"):
        monkeypatch.setitem(ARMS, name, Arm("reinforce", arms._updates("fresh", 1) | {"train.reset_every_iterations": 0}))
    monkeypatch.setattr(arms, "RATES", arms.RATES[:1])
    monkeypatch.setattr(results, "SAVED_IN", tmp_path)
    return tmp_path / "archive"


SPLIT = [(n, "heldout" if n < 3 else "train") for n in range(9)]


def test_what_is_done_is_not_done_again(small, warm, capsys, monkeypatch) -> None:
    def made(*words: str, archive: Path = small) -> list[str]:
        learning.main(["--archive", str(archive), "--tasks", "tiny", *words])
        return [line.split()[0] for line in capsys.readouterr().out.splitlines() if "runs are left" in line]

    assert made("--arms", "a", "--seeds", "1") == ["tiny.a.t0.s0", "tiny.a.t0.s1"]
    kept = pq.read_table(results.SAVED_IN / "curves.parquet")
    assert len(set(kept["run_id"].to_pylist())) == 2
    assert max(kept["n_generated"].to_pylist()) == 8
    assert made("--arms", "a", "--seeds", "1") == []
    # If the archive is deleted, saved runs are not made again; only new ones run.
    new = made("--arms", "a", "grpo-fresh", "--seeds", "1", archive=small.with_name("another"))
    assert [name.rpartition(".t")[0] for name in new] == ["tiny.grpo-fresh"] * 2
    assert len(set(pq.read_table(results.SAVED_IN / "curves.parquet")["run_id"].to_pylist())) == 4
    learning.main(["--report"])
    said = capsys.readouterr().out
    rate = ARMS["grpo-fresh"].grid[results.best("tiny", "grpo-fresh")][0]
    assert f"| grpo-fresh | {rate:.3g} | 1 | " in said
    assert (results.SAVED_IN / "curves-tiny.png").stat().st_size > 1000


def curves(folder: Path, rewards: dict[str, list[float]]) -> None:
    """Saved rows of made-up runs: ten rollouts and two updates per iteration."""
    rows = []
    for run_id, of_run in rewards.items():
        task, arm, trial, seed = run_id.split(".")
        for i, reward in enumerate([None, *of_run]):
            row = {"run_id": run_id, "task": task, "arm": arm, "trial": int(trial[1:]), "seed": int(seed[1:])}
            row |= {"iteration": i, "n_generated": 10 * i, "n_updates": 2 * i, "train_reward": reward}
            row |= {"heldout_accuracy": None, "learning_rate": 1e-4, "beta": 1.0, "base": "0" * 64}
            rows.append(row | {"seconds_generate": 1.0, "seconds_train": 2.0})
    pl.DataFrame(rows).write_parquet(folder / "curves.parquet")
    ages = {"run_id": "x.a.t1.s1", "task": "x", "arm": "a", "age_iterations": 0, "n_draws": 4, "residual_rms": 0.5}
    pl.DataFrame([ages | {"log_ratio_rms": 0.1, "reward": 0.5}]).write_parquet(folder / "ages.parquet")


def test_results_of_another_base_policy_are_not_gone_on_with(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(results, "SAVED_IN", tmp_path)
    curves(tmp_path, {"arithmetic.a.t0.s1": [0.5]})
    with pytest.raises(SystemExit) as ended:
        learning.main(["--archive", str(tmp_path / "archive"), "--tasks", "arithmetic", "--arms", "grpo-fresh"])
    assert ended.value.code == 2
    assert "began from another policy (00000000…)" in capsys.readouterr().err


def test_reached_is_on_the_line_between_two_points(tmp_path, monkeypatch) -> None:
    """Means of up to three: .1, .2, .3, .5 (of .2 .3 .4 → .3; .3 .4 .8 → .5): .4 lies half-way from 30 to 40 rollouts."""
    monkeypatch.setitem(TASKS, "x", Task(4, 1, (0.4, 0.9)))
    other = {"x.a.t1.s0": [1.0] * 4, "x.a.t0.s0": [0.5] * 4, "x.a.t0.s1": [1.0] * 4}  # none of these is reported
    curves(tmp_path, {"x.a.t1.s1": [0.2, 0.3, 0.4, 0.8], "x.a.t1.s2": [0.4, 0.0, 0.0, 0.0], **other})
    found = report.ask(report.opened(tmp_path), "reached").filter(pl.col("task") == "x")
    got = {(row["seed"], row["threshold"]): (row["n_generated"], row["n_updates"]) for row in found.iter_rows(named=True)}
    assert got[1, 0.4] == (pytest.approx(35), pytest.approx(7))
    assert got[1, 0.9] == (None, None)
    assert got[2, 0.4] == (10, 2), "there from the first iteration on"
    runs = report.ask(report.opened(tmp_path), "runs").filter(pl.col("task") == "x")
    assert runs["final_accuracy"].to_list() == [pytest.approx(0.5), pytest.approx(0.0)]
    assert runs["area"][0] == pytest.approx((0.2 + 0.25 + 0.3 + 0.5) / 4)


def test_the_best_try_has_the_highest_mean_and_of_equals_is_the_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(results, "SAVED_IN", tmp_path)
    tries = {"x.a.t1.s0": [0.1, 0.2], "x.a.t2.s0": [0.2, 0.3], "x.a.t3.s0": [0.3, 0.2], "x.a.t4.s9": [1.0, 1.0]}
    curves(tmp_path, tries)
    assert results.best("x", "a") == 2
    assert results.best("x", "unheard") == 0


def test_intervals() -> None:
    assert report.interval([3.0] * 5) == (3.0, 3.0, 3.0)
    middle, low, high = report.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (middle, low, high) == (3.0, 1.0, 5.0)
    assert report.ratio([2.0] * 3, [6.0] * 3) == (3.0, 3.0, 3.0)
    # Never reached counts as infinity: such a peer needs infinitely many times as many.
    assert report.ratio([2.0] * 3, [math.inf] * 3) == (math.inf,) * 3
    assert report.ratio([math.inf] * 3, [2.0] * 3) == (0.0,) * 3
    assert all(map(math.isnan, report.ratio([math.inf] * 3, [math.inf] * 3)))


def test_a_try_that_was_kept_half_made_counts_as_the_archive_has_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(results, "SAVED_IN", tmp_path)
    curves(tmp_path, {"x.a.t0.s0": [0.5, 0.5], "x.a.t1.s0": [0.1, 1.0]})
    whole = results.saved("curves")
    curves(tmp_path, {"x.a.t0.s0": [0.5, 0.5], "x.a.t1.s0": [0.1]})
    monkeypatch.setattr(results, "rows", lambda store, name, pattern: whole)
    assert results.best("x", "a", store="an archive") == 1
