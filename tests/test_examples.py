"""Every example runs, and does what it says."""

import re
import runpy
from pathlib import Path

import pytest

from examples import own_verifier, query_archive
from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.stages.evaluate import evaluate
from tests.helpers.archives import run_iteration, run_pass
from tests.helpers.command import ROOT, invoke
from tests.helpers.runs import open_run

EXAMPLES = ROOT / "examples"


def ask(archive: Path, query: str) -> list[tuple]:
    return db.connect(Store(archive)).execute(query).fetchall()


def test_every_file_is_explained() -> None:
    explained = set(re.findall(r"\*\*`(\S+?)`\*\*", (EXAMPLES / "README.md").read_text()))
    assert explained == {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}


class TestOwnVerifier:
    @pytest.mark.parametrize(
        ("gold_answer", "response", "said"),
        [
            ("2, 3", "x² = 25 has no part here. Answer: x = 3 or x = 2", (1.0, "3, 2")),
            ("2, 3", "the answer is 2", (0.5, "2")),
            ("2, 3", "4", (0.0, "4")),
            ("2, 3", "I do not know", (None, None)),
            ("none", "4", ("bad_gold", None)),
        ],
    )
    def test_it_judges(self, gold_answer, response, said) -> None:
        assert own_verifier.judge(gold_answer, response) == said

    def test_archived_rollouts_are_judged_by_it(self, archive, monkeypatch) -> None:
        monkeypatch.chdir(ROOT)
        name = "python:examples.own_verifier:judge"
        said = invoke("rescore", "--verifier", name, "-a", str(archive), "-s", "runtime.verifier_workers=1").stdout
        ((n_judged, n_rollouts),) = ask(
            archive,
            f"SELECT count(*) FILTER (verifier_id LIKE '{name}@%' AND verdict <> 'crashed'), count(DISTINCT trajectory_id) "
            "FROM verdicts",
        )
        assert n_judged == n_rollouts > 0
        assert f" judged {n_rollouts} rollouts" in said


class TestOwnDrawRule:
    def test_it_is_planned(self, monkeypatch) -> None:
        monkeypatch.chdir(ROOT)
        said = invoke("plan", "--recipe", "examples/own_draw_rule.toml").stdout
        assert said.startswith("own_draw_rule: 5 iterations of 32 × 8 = 256 rollouts; 4 updates of 256 rows")

    def test_archived_rollouts_are_drawn_by_it(self, trained, archive, warm) -> None:
        own = ("generate", "runtime", "policy", "evaluate")  # how the archive was made
        small = {key: value for key, value in trained.settings.items() if key.split(".")[0] in own}
        small |= {"replay.batch_trajectories": 20, "replay.updates_per_iteration": 2, "runtime.micro_batch_tokens": 256}
        config = recipes.load(str(EXAMPLES / "own_draw_rule.toml"), small, iterations=1, defaults=recipes.RETRAIN)
        with open_run("retrain", config, archive, name="own") as run:
            run_pass(run, 1)
        drawn = "SELECT rule, count(*), count(DISTINCT weight) > 1 FROM draws WHERE pass_id = 'own-0001' GROUP BY rule"
        assert ask(archive, drawn) == [("custom", 40, True)]


def test_own_questions_are_trained_on(trained, tmp_path, monkeypatch, warm) -> None:
    archive = tmp_path / "archive"
    monkeypatch.chdir(ROOT)
    said = invoke("import", "prompts", "examples/own_questions.jsonl", "--source", "mine", "-a", str(archive)).stdout
    assert "80 prompts of source mine (60 train, 20 heldout) added" in said
    small = {
        "policy.base": trained.settings["policy.base"],
        "generate.prompts_per_iteration": 6,
        "generate.max_response_tokens": 4,
        "replay.updates_per_iteration": 1,
        "replay.batch_trajectories": 48,
        "replay.window_trajectories": 48,
        "runtime.engine": "transformers",
        "runtime.device": "cpu",
        "runtime.verifier_workers": 1,
    }
    config = recipes.load("examples/own_questions.toml", small, iterations=1)
    with open_run("iterate", config, archive) as run:
        run_iteration(run, 1)
        evaluate(run, 1)
    query = "SELECT source, count(*) FROM trajectories JOIN prompts USING (prompt_id) GROUP BY source"
    assert ask(archive, query) == [("mine", 48)]
    assert ask(archive, "SELECT count(*) FROM evaluations WHERE temperature = 0") == [(20,)]
    assert ask(archive, "SELECT count(*) FROM policies WHERE policy_id = 'own_questions-0001'") == [(1,)]


def test_the_archive_is_asked_from_python(trained, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["query_archive.py", str(trained.archive)])
    runpy.run_path(str(EXAMPLES / "query_archive.py"), run_name="__main__")
    said = capsys.readouterr().out
    query = (
        "SELECT t.iteration, count(*), avg((verdict = 'correct')::INT) FROM verdicts JOIN trajectories t USING (trajectory_id) "
        "GROUP BY 1 ORDER BY 1"
    )
    for iteration, n_judged, correct in ask(trained.archive, query):
        assert f"iteration {iteration}: {correct:.3f} of {n_judged} rollouts correct" in said
    first = query_archive.versions(trained.archive, trained.first)
    by_policy = "SELECT policy_id, avg(n_response_tokens) FROM trajectories WHERE iteration = 1 GROUP BY 1"
    at_first = query_archive.lengths(trained.archive, first["trajectories"])
    assert at_first.rows() == [(name, pytest.approx(mean)) for name, mean in ask(trained.archive, by_policy)]
