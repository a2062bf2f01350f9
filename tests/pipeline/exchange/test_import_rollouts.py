"""The archive after an import, for any file, and after a kill at any point of the import."""

import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.exchange import imports
from pipeline.exchange.import_prompts import import_prompts
from pipeline.exchange.import_rollouts import import_rollouts
from pipeline.inputs import arithmetic, prompts
from pipeline.query import db
from pipeline.runs.request import check
from pipeline.stages import draw as replay
from pipeline.stages import evaluate, generate, reference, train
from schemas import TABLES, UserError
from schemas.enums import Split
from tests.helpers.archives import random_model
from tests.helpers.command import SMALL, invoke, refused
from tests.helpers.files import lines, trace
from tests.helpers.runs import open_run

POLICIES = ("6b_finetuning", "175b_verification")


def ask(folder: Path, statement: str) -> list[tuple]:
    return db.connect(Store(folder / "archive")).execute(statement).fetchall()


def contents(folder: Path) -> dict[str, list[tuple]]:
    """Everything in the archive, except times and the Delta versions of snapshots."""
    connection = db.connect(Store(folder / "archive"))
    found = {}
    for name, table in TABLES.items():
        columns = [c.name for c in table.columns if c.name not in ("created_at", "versions", "n_rows")]
        listed = ", ".join(f'"{column}"' for column in columns)
        found[name] = sorted(connection.execute(f'SELECT {listed} FROM "{name}"').fetchall(), key=repr)
    return found


def solutions(n: int) -> list[dict]:
    """Lines as in GSM8K's example_model_solutions.jsonl."""
    chance = random.Random(0)
    rows = []
    for i in range(n):
        row: dict = {"question": f"What is {i} + {i}?", "ground_truth": f"It is that.\nA: {2 * i:,}"}
        for policy in POLICIES:
            right = chance.random() < 0.5
            row[policy] = {"is_correct": right, "solution": f"A: {2 * i if right else 'no'}"}
        rows.append(row)
    return rows


@pytest.fixture
def gsm8k(tmp_path) -> Path:
    """A folder of files like GSM8K's, in a folder of that name."""
    folder = tmp_path / "gsm8k"
    rows = solutions(700)
    lines(
        folder / "test.jsonl", *({"question": r["question"], "answer": f"...\n#### {2 * i}"} for i, r in enumerate(rows))
    )
    lines(folder / "example_model_solutions.jsonl", *rows)
    return folder


def test_the_commands(tmp_path, gsm8k, monkeypatch) -> None:
    """With no flag, questions and rollouts come in, and accuracy per policy is that of the labels."""
    monkeypatch.chdir(tmp_path)
    out = invoke("import", "prompts", "gsm8k/test.jsonl").stdout
    assert "700 prompts of source gsm8k (heldout) added, 0 known, 0 rejected" in out
    assert out.startswith("import gsm8k-")
    out = invoke("import", "rollouts", "gsm8k/example_model_solutions.jsonl").stdout
    assert "1,400 rollouts of 2 policies added, 0 known, 0 rejected" in out
    assert "can be queried and judged, but not trained on; --tokenizer" in out
    rows = [json.loads(line) for line in (gsm8k / "example_model_solutions.jsonl").read_text().splitlines()]
    labels = {p: sum(row[p]["is_correct"] for row in rows) / len(rows) for p in POLICIES}
    query = "SELECT policy_id, avg(reward) AS a FROM rollouts GROUP BY 1"
    found = map(json.loads, invoke("sql", "--format", "json", query).stdout.splitlines())
    assert {row["policy_id"]: row["a"] for row in found} == pytest.approx(labels)
    assert ask(tmp_path, "SELECT DISTINCT source, split, verifier_id FROM rollouts") == [("gsm8k", "heldout", "imported")]
    before = contents(tmp_path)
    again = invoke("import", "rollouts", "gsm8k/example_model_solutions.jsonl").stdout
    assert again.endswith("is in the archive already: 1,400 rows\n")
    assert again.count("\n") == 1
    assert contents(tmp_path) == before
    assert "example_model_solutions" in invoke("sql", "SELECT import_id FROM imports").stdout


def test_bad_rows_are_reported_and_good_ones_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = [{"question": f"q{i}", "answer": str(i)} for i in range(3)]
    lines(tmp_path / "mixed.jsonl", good[0], b"{\n", good[1], {"question": "q"}, {"answer": "1"}, good[2])
    done = invoke("import", "prompts", "mixed.jsonl")
    assert "3 prompts of source mixed (train) added, 0 known, 3 rejected" in done.stdout
    told = done.stderr.splitlines()
    assert [line.split(": ")[0] for line in told[:3]] == ["mixed.jsonl:2", "mixed.jsonl:4", "mixed.jsonl:5"]
    assert ["not JSON" in told[0], "no gold answer" in told[1], "no problem" in told[2]] == [True] * 3
    assert told[3].startswith("all of them: ")
    found = ask(tmp_path, 'SELECT file, line, "row" FROM rejects ORDER BY line')
    assert found == [
        ("mixed.jsonl", 2, "{"),
        ("mixed.jsonl", 4, '{"question": "q"}'),
        ("mixed.jsonl", 5, '{"answer": "1"}'),
    ]
    assert ask(tmp_path, "SELECT line FROM prompts ORDER BY 1") == [(1,), (3,), (6,)]
    assert refused("import", "prompts", "mixed.jsonl", "--strict", "-a", "new").startswith(
        "reval: mixed.jsonl:2: not JSON"
    )
    assert not (tmp_path / "new").exists()


MISTAKES = [
    (("prompts", "nope.jsonl"), "does not exist"),
    (("prompts", "empty.jsonl"), "holds no rows"),
    (("prompts", "bad.jsonl"), "none of its 2 rows can be imported; the first is bad.jsonl:1: "),
    (("prompts", "good.jsonl", "--map", "problm=q"), "unknown column problm; did you mean problem?"),
    (("prompts", "good.jsonl", "--map", "problem"), "write it as OURS=THEIRS"),
    (("prompts", "good.jsonl", "--map", "problem=zzz"), "no column 'zzz'; it has 'question', 'answer'"),
    (("prompts", "good.jsonl", "--source", "No Good"), "source name"),
    (("prompts", "good.jsonl", "--source", "arithmetic-3"), "questions made here"),
    (("rollouts", "good.jsonl"), "no response"),
    (("rollouts", "nobody.jsonl"), "name the one that made it with --policy"),
    (("rollouts", "nobody.jsonl", "--policy", "p", "--tokenizer", "."), "--tokenizer ."),
]


def test_mistakes_are_one_line_and_leave_nothing(tmp_path) -> None:
    lines(tmp_path / "empty.jsonl")
    lines(tmp_path / "good.jsonl", {"question": "q", "answer": "a"})
    lines(tmp_path / "bad.jsonl", b"{\n", b"\xff\n")
    lines(tmp_path / "nobody.jsonl", {"question": "q", "response": "a", "reward": 1})
    for (kind, file, *flags), words in MISTAKES:
        flags = [str(tmp_path) if flag == "." else flag for flag in flags]
        told = refused("import", kind, str(tmp_path / file), *flags, "--archive", str(tmp_path / "archive"))
        assert words.replace("--tokenizer .", f"--tokenizer {tmp_path}") in told
        assert not (tmp_path / "archive").exists(), words


class TestPrompts:
    def test_a_split_of_its_own_for_each_file_of_a_folder(self, tmp_path) -> None:
        lines(tmp_path / "sums" / "train.jsonl", *({"problem": f"{i}", "answer": i} for i in range(4)))
        lines(tmp_path / "sums" / "test.jsonl", *({"problem": f"{i}", "answer": i} for i in range(3, 6)))
        found = import_prompts(tmp_path / "archive", tmp_path / "sums")
        # Question 3 is in both files; it counts for the first file.
        assert (found.source, found.n_added, found.n_rejected) == ("sums", 6, 1)
        assert "other split" in found.rejects[0][2]
        assert ask(tmp_path, "SELECT split, count(*) FROM prompts GROUP BY 1 ORDER BY 1") == [
            ("heldout", 3),
            ("train", 3),
        ]

    def test_splits_of_a_source_share_no_problem(self, tmp_path) -> None:
        rows = [{"problem": f"{i}", "answer": i, "split": "test" if i < 2 else "train"} for i in range(4)]
        found = import_prompts(tmp_path / "archive", lines(tmp_path / "sums.jsonl", *rows))
        assert dict(found.counts)["n_train"] == 2
        more = lines(tmp_path / "more.jsonl", *rows, {"problem": "9", "answer": 9})
        found = import_prompts(tmp_path / "archive", more, source="sums", split=Split.TRAIN)
        assert (found.n_added, found.n_known, found.n_rejected) == (1, 2, 2)
        assert found.rejects[0] == ("more.jsonl", 1, "the problem is in the heldout split of source sums already")
        # Another source may have it in another split.
        assert import_prompts(tmp_path / "archive", more, source="other", split=Split.TRAIN).n_added == 5

    def test_the_same_rows_by_other_ways_are_known(self, tmp_path) -> None:
        rows = [{"q": f"{i}", "a": f"#### {i}"} for i in range(5)]
        path = lines(tmp_path / "sums.jsonl", *rows, rows[0])
        columns = {"problem": "q", "gold_answer": "a"}
        first = import_prompts(tmp_path / "archive", path, columns=columns)
        assert (first.n_added, first.n_known) == (5, 1)
        pq.write_table(pa.Table.from_pylist([*rows, {"q": "new", "a": "1"}]), tmp_path / "sums.parquet")
        second = import_prompts(tmp_path / "archive", tmp_path / "sums.parquet", columns=columns)
        assert (second.n_added, second.n_known, second.already) == (1, 5, False)
        assert ask(tmp_path, "SELECT count(*), count(DISTINCT prompt_id) FROM prompts") == [(6, 6)]
        assert ask(tmp_path, "SELECT n_added, n_known, n_rejected FROM imports ORDER BY 1") == [(1, 5, 0), (5, 1, 0)]


@pytest.mark.slow
def test_where_it_is_killed_makes_no_difference(tmp_path, monkeypatch) -> None:
    """Killed before each of its commits in turn, and run again: the archive is the same as without a kill."""
    monkeypatch.setattr(imports, "SHARD_ROWS", 5)
    rows = [*solutions(4), {"question": "bad"}, *solutions(3), {"question": "bad"}]
    path = lines(tmp_path / "x.jsonl", *rows)
    whole = import_rollouts(tmp_path / "whole" / "archive", path)
    assert (whole.n_added, whole.n_rejected) == (14, 2)
    expected = contents(tmp_path / "whole")
    assert len(expected["snapshots"]) == 1
    Store.create(tmp_path / "empty")
    real = DeltaTable.create_write_transaction
    for n in range(1_000):
        made = []

        def dying(*args, made=made, n=n, **kwargs):
            if len(made) == n:
                raise KeyboardInterrupt
            made.append(1)
            return real(*args, **kwargs)

        monkeypatch.setattr(DeltaTable, "create_write_transaction", dying)
        archive = tmp_path / str(n) / "archive"
        shutil.copytree(tmp_path / "empty", archive)
        try:
            import_rollouts(archive, path)
        except KeyboardInterrupt:
            monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
            assert ask(tmp_path / str(n), "SELECT count(*) FROM imports JOIN snapshots ON true") == [(0,)]
            again = import_rollouts(archive, path)
            assert (again.n_added, again.n_known, again.n_rejected) == (whole.n_added, whole.n_known, whole.n_rejected)
            assert contents(tmp_path / str(n)) == expected, n
        else:
            break
    assert n > 10, "it was killed at every commit"


class TestRollouts:
    def test_equal_responses_are_kept_and_known_again(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(imports, "SHARD_ROWS", 3)
        row = {"prompt": "2+2", "answer": "4", "policy": "P/1", "response": "4", "is_correct": True}
        first = import_rollouts(tmp_path / "archive", lines(tmp_path / "a.jsonl", *[row] * 8))
        assert (first.n_added, dict(first.counts)["n_prompts"]) == (8, 1)
        assert ask(tmp_path, "SELECT policy_id, min(sample_index), max(sample_index), count(DISTINCT trajectory_id) FROM trajectories GROUP BY ALL") == [("p-1", 0, 7, 8)]  # fmt: skip
        second = import_rollouts(tmp_path / "archive", lines(tmp_path / "b.jsonl", *[row] * 10))
        assert (second.n_added, second.n_known) == (2, 8)
        assert ask(tmp_path, "SELECT count(*), count(DISTINCT prompt_id) FROM rollouts") == [(10, 1)]

    def test_a_prompt_of_the_archive_is_answered_if_it_has_the_problem(self, tmp_path) -> None:
        import_prompts(
            tmp_path / "archive", lines(tmp_path / "one.jsonl", {"problem": "p", "answer": "1"}), split=Split.HELDOUT
        )
        import_prompts(tmp_path / "archive", lines(tmp_path / "two.jsonl", {"problem": "p", "answer": "2"}))
        row = {"problem": "p", "policy": "m", "response": "x"}
        rows = [
            {**row, "answer": "2"},
            {**row, "answer": "1", "response": "y"},
            {**row, "response": "z"},
            {**row, "problem": "new", "response": "no gold, no label"},
            {**row, "problem": "new", "response": "label", "reward": 0.0},
            {**row, "problem": "new", "answer": "3", "response": "gold"},
        ]
        found = import_rollouts(tmp_path / "archive", lines(tmp_path / "m.jsonl", *rows), source="two")
        assert (found.n_added, found.n_rejected) == (5, 1)
        assert found.rejects[0][1:] == (4, "no gold answer and no label, and no prompt of the archive has this problem")
        assert ask(tmp_path, "SELECT response_text, source, gold_answer, split, reward FROM rollouts ORDER BY 1") == [
            ("gold", "two", "3", "train", None),
            ("label", "two", "", "train", 0.0),
            ("x", "two", "2", "train", None),
            ("y", "one", "1", "heldout", None),
            ("z", "two", "2", "train", None),
        ]

    def test_labels_that_come_later_are_taken(self, tmp_path) -> None:
        row = {"problem": "p", "answer": "1", "policy": "m", "response": "x"}
        import_rollouts(tmp_path / "archive", lines(tmp_path / "a.jsonl", row))
        found = import_rollouts(tmp_path / "archive", lines(tmp_path / "b.jsonl", {**row, "reward": -0.5}))
        assert (found.n_added, found.n_known) == (0, 1)
        assert ask(tmp_path, "SELECT verdict, reward, extracted_answer, seconds FROM verdicts") == [
            ("wrong", -0.5, None, None)
        ]

    def test_what_the_file_does_not_say_is_null(self, tmp_path) -> None:
        import_rollouts(tmp_path / "archive", lines(tmp_path / "a.jsonl", *solutions(1)))
        names = "run_id = import_id, iteration, temperature, seed, engine, engine_version, finish_reason, n_prompt_tokens, n_response_tokens, behaviour_logprob_sum, line, tokenised_by, tokenizer_digest"
        expected = (True, 0, None, None, "imported", None, "unknown", None, None, None, 1, None, None)
        assert ask(tmp_path, f"SELECT DISTINCT {names} FROM trajectories") == [expected]
        assert set(ask(tmp_path, "SELECT * EXCLUDE (policy_id) FROM policies")) == {(None,) * 8}
        assert ask(tmp_path, "SELECT DISTINCT prompt_token_ids, response_token_ids, behaviour_logprobs FROM responses") == [(None,) * 3]  # fmt: skip

    def test_named_formats_name_the_run_and_its_step(self, tmp_path) -> None:
        row = {"input": "<user>2+2", "output": "4", "gts": "4", "score": 1.0, "step": 7}
        for step in (7, 8):
            lines(tmp_path / "my run" / "rollouts" / f"{step}.jsonl", {**row, "step": step}, {**row, "step": step})
        lines(tmp_path / "my run" / "step_3" / "train_rollouts.jsonl", trace())
        found = import_rollouts(tmp_path / "archive", tmp_path / "my run" / "rollouts")
        assert (found.n_added, dict(found.counts)["n_policies"]) == (4, 2)
        import_rollouts(tmp_path / "archive", tmp_path / "my run" / "step_3", policy="mine")
        import_rollouts(tmp_path / "archive", tmp_path / "my run" / "step_3")
        assert ask(tmp_path, "SELECT policy_id, iteration, count(*) FROM trajectories GROUP BY ALL ORDER BY 1") == [
            ("mine", 12, 1),
            ("my-run-step-7", 7, 2),
            ("my-run-step-8", 8, 2),
            ("qwen-qwen3-0.6b-step-12", 12, 1),
        ]

    def test_ids_without_text_want_their_tokenizer(self, tmp_path, model_folder) -> None:
        ids = arithmetic.make_tokenizer()(" 4")["input_ids"]
        row = {"problem": "2+2=", "answer": "4", "policy": "m", "response_token_ids": ids}
        path = lines(tmp_path / "a.jsonl", row, {**row, "response_token_ids": [10_000]})
        with pytest.raises(UserError, match="token ids without text: name their tokenizer with --tokenizer"):
            import_rollouts(tmp_path / "archive", path)
        found = import_rollouts(tmp_path / "archive", path, tokenizer=str(model_folder))
        assert (found.n_added, found.n_rejected) == (1, 1)
        assert "token id 10000 is none of tokenizer" in found.rejects[0][2]
        assert ask(tmp_path, "SELECT response_text FROM responses") == [(" 4",)]

    @pytest.mark.usefixtures("warm")
    @pytest.mark.parametrize("kind", ["ids", "text"])
    def test_retrain_on_imported_rollouts(self, tmp_path, kind) -> None:
        """Labelled rollouts of a policy that is known by name only train a policy with the same tokenizer."""
        base = random_model(tmp_path / "base", 1)
        rows = labelled_sums(with_ids=kind == "ids")
        found = import_rollouts(tmp_path / "archive", lines(tmp_path / "sums.jsonl", *rows), tokenizer=str(base))
        assert found.n_added == 4 * 12
        names = "count(*), count(n_prompt_tokens), count(DISTINCT tokenizer_digest), count(tokenised_by), count(behaviour_logprob_sum)"
        n_made_here, n_logprobs = (0, 48) if kind == "ids" else (48, 0)
        assert ask(tmp_path, f"SELECT {names} FROM trajectories") == [(48, 48, 1, n_made_here, n_logprobs)]
        tokenizer = arithmetic.make_tokenizer()
        for problem, prompt_ids, text, ids in ask(tmp_path, "SELECT problem, prompt_token_ids, r.response_text, response_token_ids FROM rollouts JOIN responses r USING (trajectory_id)"):  # fmt: skip
            assert tokenizer.decode(prompt_ids) == problem
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
        settings = {**SMALL, "policy.base": str(base), "score.verifier": "imported"}
        config = recipes.load("arithmetic", settings, defaults=recipes.RETRAIN)
        before = ask(tmp_path, "SELECT count(*) FROM trajectories, prompts")
        with open_run("retrain", config, tmp_path / "archive") as run:
            replay.draw(run, 1)
            reference.reference(run, 1)
            train.train(run, 1)
        assert ask(tmp_path, "SELECT count(*) FROM trajectories, prompts") == before
        assert ask(tmp_path, "SELECT n_updates, n_draws FROM passes") == [(3, 3 * 40)]
        # Each with its own label, less the mean of its prompt's group: 4 responses, of which 2 are right.
        assert ask(tmp_path, "SELECT DISTINCT d.reward, d.baseline, v.reward FROM draws d JOIN verdicts v USING (trajectory_id) ORDER BY 1") == [(0.0, 0.5, 0.0), (1.0, 0.5, 1.0)]  # fmt: skip
        math = recipes.load("arithmetic", {**settings, "score.verifier": "math"}, defaults=recipes.RETRAIN)
        said = pytest.raises(UserError, match="this policy can read was judged by math")
        with said, open_run("retrain", math, tmp_path / "archive"):
            pass

    @pytest.mark.usefixtures("warm")
    def test_what_cannot_be_trained_on_is_no_candidate(self, tmp_path) -> None:
        """Text without ids, ids of another tokenizer or of none that is known, and held-out questions."""
        base = random_model(tmp_path / "base", 1)
        rows = labelled_sums(with_ids=True)
        archive = tmp_path / "archive"
        import_rollouts(archive, lines(tmp_path / "a.jsonl", *labelled_sums(with_ids=False)))
        import_rollouts(archive, lines(tmp_path / "b.jsonl", *rows))
        import_rollouts(archive, lines(tmp_path / "c.jsonl", *({**r, "problem": "?" + r["problem"]} for r in rows)), split=Split.HELDOUT, tokenizer=str(base))  # fmt: skip
        config = recipes.load("arithmetic", {**SMALL, "policy.base": str(base), "score.verifier": "imported"})
        with (
            open_run("retrain", config, archive) as run,
            pytest.raises(UserError, match=r"no rollout in .* that this policy can read was judged by imported"),
        ):
            replay.draw(run, 1)


def labelled_sums(*, with_ids: bool) -> list[dict]:
    """12 sums with two right and two wrong answers each, as an engine with the arithmetic tokenizer would write them."""
    tokenizer = arithmetic.make_tokenizer()
    rows = []
    for problem, gold_answer, _ in arithmetic.problems(0)[:12]:
        for i, text in enumerate((*arithmetic.answers(problem), r" \boxed{0}", " 1")):
            row = {
                "problem": problem,
                "answer": gold_answer,
                "policy": "elsewhere",
                "response": text,
                "is_correct": i < 2,
            }
            if with_ids:
                ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
                row |= {
                    "prompt_token_ids": tokenizer(problem)["input_ids"],
                    "response_token_ids": ids,
                    "logprobs": [-1.0] * len(ids),
                }
            rows.append(row)
    return rows


class TestSources:
    """Runs on imported questions."""

    def questions(self, tmp_path: Path, split: Split) -> None:
        rows = ({"problem": p, "answer": a} for p, a, _ in arithmetic.problems(0)[:16])
        import_prompts(
            tmp_path / "archive", lines(tmp_path / f"{split}.jsonl", *rows), source=f"sums-{split}", split=split
        )

    @pytest.mark.usefixtures("warm")
    def test_iterate_takes_its_questions_from_an_import(self, tmp_path) -> None:
        base = str(random_model(tmp_path / "base", 1))
        for split in Split:
            self.questions(tmp_path, split)
        settings = {**SMALL, "policy.base": base, "runtime.engine": "transformers", "prompts.source": "sums-train", "prompts.seed": 3}  # fmt: skip
        config = recipes.load("arithmetic", settings)
        assert prompts.source(config) == "sums-train"
        with open_run("iterate", config, tmp_path / "archive") as run:
            evaluate.evaluate(run, 0)  # it has no held-out questions: there is nothing to evaluate
            generate.generate(run, 1)
        assert ask(tmp_path, "SELECT source, count(*) FROM rollouts GROUP BY 1") == [("sums-train", 12 * 4)]
        assert ask(tmp_path, "SELECT count(*) FROM evaluations") == [(0,)]
        assert ask(tmp_path, "SELECT count(*) FROM prompts") == [(32,)]
        held = recipes.load("arithmetic", {**settings, "prompts.source": "sums-heldout"})
        with (
            open_run("iterate", held, tmp_path / "archive") as run,
            pytest.raises(UserError, match="source sums-heldout has no training prompts"),
        ):
            generate.generate(run, 1)

    def test_a_source_that_is_not_there(self, tmp_path) -> None:
        config = recipes.load("arithmetic", {"prompts.source": "gsm8k", "runtime.engine": "transformers"})
        with pytest.raises(UserError, match=r"prompts.source = 'gsm8k': the archive has no questions yet; `reval import"):
            check("iterate", config, tmp_path / "archive")
        assert not (tmp_path / "archive").exists()
        self.questions(tmp_path, Split.TRAIN)
        for flow in ("iterate", "retrain", "evaluate", "init"):
            with pytest.raises(UserError, match=r"prompts.source = 'gsm8k': the archive has sums-train; `reval import"):
                check(flow, config, tmp_path / "archive")

    def test_labels_judge_nothing_new(self, tmp_path) -> None:
        config = recipes.load("arithmetic", {"score.verifier": "imported", "runtime.engine": "transformers"})
        for flow in ("iterate", "evaluate"):
            with pytest.raises(UserError, match=r"verifier 'imported' .* only `reval retrain` can use it"):
                check(flow, config, tmp_path / "archive")
        assert not (tmp_path / "archive").exists()
