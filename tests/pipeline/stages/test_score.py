"""Judging and judging again: which rollouts, by which verifier, with which reward, and the messages about it."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.children.pool import Pool, Result
from pipeline.inputs import prompts
from pipeline.query import db
from pipeline.recipes.config import Config, Reward
from pipeline.replay import draws
from pipeline.runs.processes import Processes
from pipeline.stages import score
from pipeline.stages.evaluate import evaluate
from pipeline.verifiers import REWARDS, math, verifier
from schemas import UserError
from schemas.enums import Verdict
from tests.helpers.archives import SUMS, run_iteration, run_pass
from tests.helpers.command import invoke, refused
from tests.helpers.runs import open_run

KEY = "SELECT count(*), count(DISTINCT (trajectory_id, verifier_id)) FROM verdicts"


def ask(archive: Path, statement: str) -> list[tuple]:
    return db.connect(Store(archive)).execute(statement).fetchall()


@pytest.fixture
def processes(archive) -> Iterator[Processes]:
    made = Processes(Config(recipe="test", runtime={"verifier_workers": 1}), Store(archive))
    yield made
    made.close()


def everything(store: Store) -> pa.Table:
    return db.connect(store).sql("SELECT trajectory_id FROM trajectories").to_arrow_table()


class TestRescore:
    def test_it_adds_once_and_leaves_what_was_there(self, archive, processes) -> None:
        store = Store(archive)
        before = ask(archive, "SELECT * FROM verdicts ORDER BY ALL")
        judge = replace(verifier("math"), version="later")
        n, _ = score.rescore(store, processes, judge, store.versions(), everything(store))
        assert n == len(before)
        assert ask(archive, KEY) == [(2 * n, 2 * n)]
        assert ask(archive, "SELECT * FROM verdicts WHERE verifier_id <> 'math@later' ORDER BY ALL") == before
        columns = "trajectory_id, verdict, reward, extracted_answer, iteration"
        assert ask(archive, f"SELECT {columns} FROM verdicts WHERE verifier_id = 'math@later' ORDER BY ALL") == ask(
            archive, f"SELECT {columns} FROM verdicts WHERE verifier_id <> 'math@later' ORDER BY ALL"
        )
        state = store.versions()
        assert score.rescore(store, processes, judge, state, everything(store))[0] == 0
        assert store.versions() == state, "nothing to do leaves nothing behind"

    def test_a_state_and_a_condition_say_which(self, archive, trained, monkeypatch) -> None:
        verdicts = "SELECT iteration, count(*) FROM verdicts WHERE verifier_id = 'exact@1' GROUP BY 1 ORDER BY 1"
        invoke("rescore", "--verifier", "exact", "--at", trained.first, "--where", "sample_index = 0", "-a", str(archive))
        asked = "SELECT iteration, count(*) FROM trajectories WHERE iteration = 1 AND sample_index = 0 GROUP BY 1"
        assert ask(archive, verdicts) == ask(archive, asked)
        invoke("rescore", "--verifier", "exact", "-a", str(archive))
        assert ask(archive, verdicts) == ask(
            archive, "SELECT iteration, count(*) FROM trajectories GROUP BY 1 ORDER BY 1"
        )
        assert ask(archive, KEY)[0][0] == ask(archive, KEY)[0][1]

    def test_killed_at_every_commit_it_goes_on(self, archive, processes, monkeypatch) -> None:
        """Committed verdicts stay, can be read, and are not made again."""
        monkeypatch.setattr(score, "SHARD_ROLLOUTS", 20)
        judge, real = replace(verifier("math"), version="later"), Store.append
        judged, n_all = list[int](), len(everything(Store(archive)))
        mapped = Pool.map

        def counting(self: Pool, items: list) -> Iterator[tuple[int, Result]]:
            judged.append(len(items))
            return mapped(self, items)

        monkeypatch.setattr(Pool, "map", counting)
        for n_commits in range(1, 20):
            left = n_commits

            def dying(self: Store, *arguments: object) -> None:
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                real(self, *arguments)

            monkeypatch.setattr(Store, "append", dying)
            store = Store(archive)
            try:
                score.rescore(store, processes, judge, store.versions(), everything(store))
            except KeyboardInterrupt:
                (n,) = ask(archive, "SELECT count(*) FROM verdicts WHERE verifier_id = 'math@later'")[0]
                assert 0 < n <= n_all
                assert ask(archive, KEY)[0][0] == ask(archive, KEY)[0][1]
            else:
                break
        assert n_commits < 19
        assert ask(archive, "SELECT count(*) FROM verdicts WHERE verifier_id = 'math@later'") == [(n_all,)]
        assert ask(archive, KEY)[0][0] == ask(archive, KEY)[0][1]

    def test_the_same_answer_to_the_same_question_is_judged_once(self, tmp_path) -> None:
        judge = verifier("math")
        items = list[tuple[str, str | None]]()

        class Counting:
            def map(self, asked: list) -> Iterator[tuple[int, Result]]:
                items.extend(asked)
                values = [judge.judge(*item) for item in asked]
                for i in reversed(range(len(asked))):
                    yield i, Result(values[i]._asdict(), None, 0.5)

        golds = ["7", "7", "8", "7", "8"]
        responses = [r"long way \boxed{7}", r"\boxed{7} at once", r"\boxed{7}", "no", r"\boxed{8}"]
        found = score.verdicts(Counting(), judge, golds, responses, lambda done, total: None)
        assert len(items) == 4, "the first two are one"
        assert found["verdict"].to_pylist() == ["correct", "correct", "wrong", "no_answer", "correct"]
        assert found["seconds"].to_pylist() == [0.5, 0.0, 0.5, 0.5, 0.5]

    def test_two_at_once_wait_for_one_another_and_say_so(self, archive, processes, caplog) -> None:
        store, judge = Store(archive), replace(verifier("math"), version="later")
        n = len(everything(store))
        caplog.set_level("INFO", "reval")
        with ThreadPoolExecutor() as threads:
            with score.alone(Store(archive), judge):
                other = threads.submit(score.rescore, store, processes, judge, store.versions(), everything(store))
                while "which judges by math@later too" not in caplog.text:
                    assert not other.done()
                assert ask(archive, "SELECT count(*) FROM verdicts WHERE verifier_id = 'math@later'") == [(0,)]
            assert other.result()[0] == n
        assert score.rescore(store, processes, judge, store.versions(), everything(store))[0] == 0

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ("mth", "did you mean math?"),
            ("haruspicy", "there are math, gsm8k"),
            ("imported", "judges no new answer"),
            ("math@1", "where math is math@2+"),
            ("math:7", "takes no argument"),
            ("python", "write python:MODULE:FUNCTION"),
            ("python:nowhere:judge", "no module 'nowhere'"),
        ],
    )
    def test_a_judge_that_is_none(self, archive, asked, says) -> None:
        before = Store(archive).versions()
        assert says in refused("rescore", "--verifier", asked, "-a", str(archive))
        assert Store(archive).versions() == before

    def test_a_condition_that_is_none(self, archive) -> None:
        line = refused("rescore", "--verifier", "math", "--where", "nosuch = 1", "-a", str(archive))
        assert line.startswith("reval: --where = 'nosuch = 1': ")


class TestReports:
    @pytest.mark.slow
    def test_gold_answers_that_cannot_be_read_are_named_by_file_and_line(self, tmp_path) -> None:
        file = tmp_path / "q.jsonl"
        rows = [("1+1=", "2", "2"), ("a?", "???", "2"), ("2+2=", "4", r"\boxed{5}")]
        file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a, _ in rows))
        rollouts = tmp_path / "r.jsonl"
        lines = [{"question": q, "answer": a, "response": r, "policy": "me", "correct": True} for q, a, r in rows]
        rollouts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        archive = str(tmp_path / "archive")
        invoke("import", "prompts", str(file), "-a", archive)
        invoke("import", "rollouts", str(rollouts), "--source", "q", "-a", archive)
        said = invoke("rescore", "--verifier", "math", "-a", archive).stdout
        judge = verifier("math").verifier_id
        assert f"{judge} judged 3 rollouts in " in said
        assert "a second" in said
        counts = {
            line.split()[0]: line.split()[1]
            for line in said.splitlines()
            if line.startswith(("correct", "wrong", "bad_gold"))
        }
        assert counts == {"correct": "1", "wrong": "1", "bad_gold": "1"}
        assert "The slowest:" in said
        (bad,) = [line.split() for line in said.splitlines() if "???" in line and "q.jsonl" in line]
        assert bad[0].endswith("q.jsonl")
        assert bad[1:4] == ["2", "???", "q"]
        assert bad[-1] == "1"
        assert [line.split() for line in said.splitlines() if line.startswith("imported")] == [
            ["imported", "correct", "bad_gold", "1"],
            ["imported", "correct", "wrong", "1"],
        ]
        again = invoke("rescore", "--verifier", "math", "-a", archive).stdout
        assert f"{judge} judged 0 rollouts; 3 it had judged before" in again
        differ = "SELECT gold_answer, verdict_a, verdict_b FROM disagreements WHERE verifier_a = 'imported' ORDER BY 1"
        assert ask(Path(archive), differ) == [("4", "correct", "wrong"), ("???", "correct", "bad_gold")]

    def test_the_stage_by_itself_reports(self, tmp_path, trained, warm) -> None:
        archive = str(tmp_path / "archive")
        how = [word for key, value in trained.settings.items() for word in ("--set", f"{key}={value}")]
        invoke("generate", "-a", archive, *how)
        said = invoke("score", "-a", archive, *how).stdout
        n = trained.settings["generate.prompts_per_iteration"] * trained.settings["generate.samples_per_prompt"]
        assert f"{verifier('math').verifier_id} judged {n} rollouts in " in said
        assert "The slowest:" in said

    def test_verifiers_are_listed_with_an_example(self) -> None:
        said = invoke("verifiers").stdout
        for name in (
            "math@2+math-verify-",
            "gsm8k@1",
            "multiple_choice@1",
            "exact@1",
            "numeric@1",
            "python:MODULE:FUNCTION",
            "imported",
        ):
            assert any(line.startswith(name) for line in said.splitlines()), name


class TestViews:
    def add(self, archive: Path, verifier_id: str, verdict: str, where: str = "true") -> None:
        store = Store(archive)
        of = db.connect(store).sql(
            f"SELECT t.trajectory_id, t.iteration, '{verifier_id}' AS verifier_id, '{verdict}' AS verdict, 0.5 AS reward, "
            f"'x' AS extracted_answer, 0.0 AS seconds FROM trajectories t WHERE {where}"
        )
        store.write(f"test/{verifier_id}", {"verdicts": of.to_arrow_table()})

    def test_the_recipes_verifier_comes_first_and_its_last_version(self, archive) -> None:
        """Version 0.10 comes after 0.9, and by name `zz` after `math`."""
        own = ask(archive, "SELECT DISTINCT verifier_id FROM verdicts")[0][0]
        for name in ("zz@9", "imported", "math@2+math-verify-0.8.9", "exact@1"):
            self.add(archive, name, "no_answer")
        assert ask(
            archive, "SELECT DISTINCT verifier_id, verdict <> 'no_answer' FROM rollouts WHERE verdict <> 'no_answer'"
        ) == [(own, True)]
        assert ask(archive, "SELECT DISTINCT verifier_id FROM rollouts") == [(own,)]
        self.add(archive, "math@2+math-verify-0.10.0", "no_answer", "sample_index = 0")
        found = ask(archive, "SELECT sample_index = 0, verifier_id, count(*) FROM rollouts GROUP BY 1, 2 ORDER BY 1")
        assert [row[:2] for row in found] == [(False, own), (True, "math@2+math-verify-0.10.0")]
        assert sum(row[2] for row in found) == ask(archive, "SELECT count(*) FROM trajectories")[0][0]

    def test_without_a_recipe_labels_come_first(self, archive) -> None:
        """For a rollout of an import, without a run."""
        for name in ("zz@9", "imported"):
            self.add(archive, name, "no_answer")
        store = Store(archive)
        connection = db.connect(store)
        connection.execute("CREATE TABLE renamed AS SELECT DISTINCT ON (run_id) * REPLACE ('other' AS run_id) FROM runs")
        connection.execute("CREATE OR REPLACE VIEW runs AS FROM renamed")
        assert connection.execute("SELECT DISTINCT verifier_id FROM rollouts").fetchall() == [("imported",)]

    def test_disagreements_are_pairs(self, archive) -> None:
        n = ask(archive, "SELECT count(*) FROM trajectories")[0][0]
        self.add(archive, "a@1", "crashed")
        self.add(archive, "b@1", "crashed")
        found = ask(
            archive, "SELECT verifier_a, left(verifier_b, 4), count(*) FROM disagreements GROUP BY ALL ORDER BY ALL"
        )
        assert found == [("a@1", "math", n), ("b@1", "math", n)]


class TestUpgrade:
    """Another version of a library is another verifier. It judges all of a run, and the old verdicts stay."""

    def test_a_run_goes_on_under_it(self, archive, trained, warm, monkeypatch) -> None:
        before = ask(archive, "SELECT verifier_id, count(*) FROM verdicts GROUP BY 1")
        old, made = before[0][0], math.make
        verifier.cache_clear()
        monkeypatch.setattr(math, "make", lambda argument: replace(made(argument), version="3"))
        with open_run(
            "iterate", recipes.load("arithmetic", trained.settings, iterations=3), archive, name="arithmetic"
        ) as run:
            run_iteration(run, 3)
            evaluate(run, 3)
        verifier.cache_clear()
        monkeypatch.undo()
        n = ask(archive, "SELECT count(*) FROM trajectories")[0][0]
        assert ask(archive, "SELECT verifier_id, count(*) FROM verdicts GROUP BY 1 ORDER BY 1") == sorted(
            [*before, ("math@3", n)]
        )
        passes = {"again-0001": old, "arithmetic-0001": old, "arithmetic-0002": old, "arithmetic-0003": "math@3"}
        assert dict(ask(archive, "SELECT pass_id, verifier_id FROM passes")) == passes
        # A pass is repeated under the verifier it drew from.
        said = invoke("repeat", "arithmetic-0003", "-a", str(archive)).stdout
        assert "weights the same, bit for bit" in said

    def test_what_an_older_version_said_can_be_trained_on(self, archive, trained, warm, monkeypatch) -> None:
        store = Store(archive)
        now = verifier("math").verifier_id
        old = (
            db.connect(store)
            .sql("SELECT * REPLACE ('math@1+old' AS verifier_id, 0.25 AS reward) FROM verdicts")
            .to_arrow_table()
        )
        store.write("test/old", {"verdicts": old})
        settings = {**trained.settings, "retrain.runs": ["arithmetic"]}
        for asked, rewards in (("math", {0.0, 1.0}), ("math@1+old", {0.25}), (now, {0.0, 1.0})):
            config = recipes.load("arithmetic", {**settings, "score.verifier": asked}, defaults=recipes.RETRAIN)
            where = draws.scope(config, "retrain", "r", 1, store.versions(), "arithmetic-0002", "arithmetic-0002")
            found = draws.rows(store, where, config.replay, "r-0001", 1)
            assert set(found["reward"].to_pylist()) <= rewards
        with (
            pytest.raises(UserError, match="cannot judge here"),
            open_run(
                "iterate",
                recipes.load("arithmetic", {**trained.settings, "score.verifier": "math@1+old"}),
                archive,
                name="x",
            ),
        ):
            pass


class TestRewards:
    """[reward] sets the reward of a verdict for training; the stored verdicts do not change."""

    def test_no_judgement_has_no_reward(self) -> None:
        assert {verdict for verdict in Verdict if REWARDS[verdict] is None} == {"bad_gold", "timeout", "crashed"}

    @pytest.fixture
    def store(self, archive) -> Store:
        return Store(archive)

    def rewards(self, store: Store, **shaping: float) -> dict[str, set[float]]:
        """The rewards of rollouts that may be drawn, by verdict."""
        config = Config(recipe="test", reward=shaping)
        where = draws.scope(config, "retrain", "r", 1, store.versions(), "arithmetic-0002", "arithmetic-0002")
        connection = draws.opened(store, where, config.replay.model_copy(update={"window_trajectories": "all"}))
        found = connection.execute("SELECT verdict, list(DISTINCT reward) FROM candidates GROUP BY 1").fetchall()
        return {verdict: set(values) for verdict, values in found}

    def test_the_table(self, store) -> None:
        plain = self.rewards(store)
        assert plain["correct"] == {1.0}
        assert plain["wrong"] == {0.0}
        said = {verdict for (verdict,) in ask(Path(store.layout.root), "SELECT DISTINCT verdict FROM verdicts")}
        assert {"correct", "wrong"} <= said
        assert self.rewards(store, correct=1, wrong=-1, no_answer=-0.5) == {
            verdict: {{"correct": 1.0, "wrong": -1.0, "no_answer": -0.5}[verdict]} for verdict in plain
        }

    def test_what_has_no_judgement_counts_only_if_it_is_given_a_worth(self, archive, store) -> None:
        none = (
            db.connect(store)
            .sql("SELECT * REPLACE ('math@0' AS verifier_id, 'timeout' AS verdict, NULL AS reward) FROM verdicts")
            .to_arrow_table()
        )
        store.write("test/none", {"verdicts": none})
        config = Config(recipe="test", score={"verifier": "math@0"})
        n_trained_on = ask(
            archive,
            "SELECT count(*) FROM trajectories JOIN prompts USING (prompt_id) WHERE split = 'train' AND n_response_tokens > 0",
        )[0][0]
        for reward, expected in ((Reward(), []), (Reward(timeout=0.0), [(0.0, n_trained_on)])):
            shaped = config.model_copy(update={"reward": reward})
            where = draws.scope(shaped, "retrain", "r", 1, store.versions(), "arithmetic-0002", "x")
            settings = config.replay.model_copy(update={"window_trajectories": "all"})
            connection = draws.opened(store, where, settings)
            found = connection.execute("SELECT reward, count(*) FROM candidates GROUP BY 1").fetchall()
            assert found == expected

    def test_length(self, store) -> None:
        """L = 4, c = 2, penalty 0.5: up to 2 tokens nothing, 3 tokens 0.25, 4 tokens 0.5."""
        config = Config(recipe="test", reward={"length_penalty": 0.5, "length_buffer_tokens": 2})
        where = draws.scope(config, "retrain", "r", 1, store.versions(), "arithmetic-0002", "arithmetic-0002")
        connection = draws.opened(store, where, config.replay.model_copy(update={"window_trajectories": "all"}))
        found = connection.execute(
            "SELECT DISTINCT n_response_tokens, (verdict = 'correct')::DOUBLE - reward FROM candidates ORDER BY 1"
        ).fetchall()
        loses = {1: 0.0, 2: 0.0, 3: 0.25, 4: 0.5}
        assert len(found) > 1
        assert found == [(n, loses[n]) for n, _ in found]

    def test_a_retraining_under_it_is_whole_and_says_so(self, archive, trained, warm) -> None:
        shaped = {"reward.correct": 2, "reward.wrong": -1, "reward.length_penalty": 0.5, "reward.length_buffer_tokens": 2}
        config = recipes.load("arithmetic", {**trained.settings, **shaped}, iterations=1, defaults=recipes.RETRAIN)
        with open_run("retrain", config, archive, name="shaped") as run:
            run_pass(run, 1)
        rewards = {r for (r,) in ask(archive, "SELECT DISTINCT reward FROM draws WHERE pass_id = 'shaped-0001'")}
        assert rewards <= {2, 1.75, 1.5, 1, -1, -1.25, -1.5, 0, -0.25, -0.5}
        assert min(rewards) < 0 < 1 < max(rewards)
        invoke("check", "-a", str(archive))


def test_what_another_verifier_says_of_a_benchmark_is_another_benchmark(trained) -> None:
    """With another verifier the policy is evaluated again; labels cannot judge, so the usual verifier is used then."""
    store = Store(trained.archive)
    names = {
        name: prompts.evaluation_sets(store, Config(recipe="x", score={"verifier": name}))[0].name
        for name in ("math", "imported", "exact")
    }
    assert names["math"] == names["imported"] != names["exact"]


class TestPython:
    SOURCE = """
def judge(gold_answer, response):
    if "loop" in response:
        while True:
            pass
    if "boom" in response:
        raise KeyError("boom")
    if "exit" in response:
        raise SystemExit(0)
    if response == "none":
        return None
    if response == "half":
        return 0.5
    if response == "word":
        return "no_answer", "word"
    if response == "nan":
        return float("nan")
    return response == gold_answer, response
"""

    @pytest.fixture
    def here(self, tmp_path, monkeypatch) -> Path:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "rewards.py").write_text(self.SOURCE)
        monkeypatch.chdir(tmp_path)
        verifier.cache_clear()
        yield tmp_path
        verifier.cache_clear()

    @pytest.mark.slow
    def test_it_is_called_in_the_pool(self, here) -> None:
        judge = verifier("python:mine.rewards:judge")
        responses = ["7", "8", "none", "half", "word", "loop", "boom", "exit", "nan", "7"]
        pool = Pool("pipeline.verifiers.child", 2, 1.0, here / "log" / "v.log", name=judge.name)
        try:
            found = score.verdicts(pool, judge, ["7"] * len(responses), responses, lambda done, total: None)
        finally:
            pool.close()
        assert found["verdict"].to_pylist() == [
            "correct", "wrong", "no_answer", "correct", "no_answer", "timeout", "crashed", "crashed", "crashed", "correct",
        ]  # fmt: skip
        assert found["reward"].to_pylist() == [1.0, 0.0, 0.0, 0.5, 0.0, None, None, None, None, 1.0]
        assert found["extracted_answer"].to_pylist()[:5] == ["7", "8", None, None, "word"]

    def test_a_changed_file_is_another_verifier(self, here) -> None:
        before = verifier("python:mine.rewards:judge").verifier_id
        (here / "mine" / "rewards.py").write_text(self.SOURCE + "\n# changed")
        verifier.cache_clear()
        after = verifier("python:mine.rewards:judge").verifier_id
        assert before != after
        assert before.split("@")[0] == after.split("@")[0] == "python:mine.rewards:judge"

    @pytest.mark.parametrize(
        ("source", "asked", "says"),
        [
            ("import nosuch", "python:bad:judge", "ModuleNotFoundError: No module named 'nosuch'"),
            ("x = 1", "python:bad:judge", "has no attribute 'judge'"),
            ("judge = 1", "python:bad:judge", "judge is no function"),
            ("x = 1", "python:bad.worse:judge", "no module 'bad.worse'"),
            ("x = 1", "python:bad:", "write python:MODULE:FUNCTION"),
        ],
    )
    def test_what_is_wrong_with_it_is_one_line(self, here, archive, source, asked, says) -> None:
        (here / "bad.py").write_text(source)
        assert says in refused("rescore", "--verifier", asked, "-a", str(archive))


def test_verifiers_killed_at_random_change_no_verdict(tmp_path, trained, warm, monkeypatch) -> None:
    """The run of the fixture again, while all its verifiers are killed twice a second."""
    pools, over = list[Pool](), threading.Event()
    made = Pool.__init__

    def watched(self: Pool, *arguments: object, **settings: object) -> None:
        made(self, *arguments, **settings)
        pools.append(self)

    n_kills = 0

    def kill() -> None:
        nonlocal n_kills
        while not over.wait(0.5):
            for place in [place for pool in pools for place in pool._places if place.ready]:
                place.worker._process.kill()
                n_kills += 1

    monkeypatch.setattr(Pool, "__init__", watched)
    monkeypatch.setattr("pipeline.inputs.arithmetic.problems", lambda seed: SUMS)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with open_run("iterate", recipes.load("arithmetic", trained.settings, iterations=2), tmp_path / "archive") as run:
            evaluate(run, 0)
            for i in (1, 2):
                run_iteration(run, i)
    finally:
        over.set()
        killer.join()
    assert n_kills > 1
    columns = "SELECT trajectory_id, verifier_id, verdict, reward, extracted_answer FROM verdicts ORDER BY ALL"
    assert ask(tmp_path / "archive", columns) == ask(trained.archive, columns)
