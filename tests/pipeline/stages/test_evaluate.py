"""Evaluation: figures computed by hand; each question is asked once, for any file and any policy."""

import json
import math
import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.exchange.import_prompts import import_prompts
from pipeline.inputs import prompts
from pipeline.query import db
from pipeline.runs.request import check
from pipeline.stages import evaluate
from schemas import UserError
from schemas.enums import Split
from tests.helpers.archives import random_model
from tests.helpers.command import invoke, refused
from tests.helpers.runs import open_run

DATA = Path(__file__).parents[4] / "shared" / "data" / "benchmarks"
# Questions of the model's own kind, whose answers are a digit.
SUMS = [{"problem": f"{a}+{b}=", "answer": float(a + b)} for a in range(4) for b in range(3)]
# An untrained policy, which gets only the question and answers in four characters.
SETTINGS = {
    "prompts.template": "{problem}",
    "generate.max_response_tokens": 4,
    "runtime.engine": "transformers",
    "runtime.device": "cpu",
    "runtime.verifier_workers": 1,
}
QUICK = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


def figures(*questions: list[tuple[str, str | None]], temperature: float = 1.0) -> dict[str, tuple[float, ...]]:
    """Value, low and high of each score of questions, each a list of (verdict, answer that was read)."""
    rows = [
        {
            **{"policy_id": "p", "benchmark": "b", "temperature": temperature, "prompt_id": str(number)},
            **{"sample_index": index, "verdict": verdict, "finish_reason": "stop"},
            **{"response_text": f"text {index}", "extracted_answer": answer},
        }
        for number, answers in enumerate(questions)
        for index, (verdict, answer) in enumerate(answers)
    ]
    connection = duckdb.connect()
    connection.register("evaluations", pa.Table.from_pylist(rows))
    db.derive(connection, ("evaluation_answers", "evaluation_questions", "scores"))
    found = connection.sql("SELECT score, value, low, high FROM scores").fetchall()
    return {score: tuple(values) for score, *values in found}


def answers(text: str) -> list[tuple[str, str | None]]:
    """`a a! b -`: answers a, a (correct), b, and none."""
    return [
        ("no_answer", None) if word == "-" else ("correct" if word.endswith("!") else "wrong", word.strip("!"))
        for word in text.split()
    ]


def test_avg_and_pass_by_hand() -> None:
    """Of 4 answers 1 and 3 are right: avg@4 = (1/4 + 3/4) / 2; pass@2 = (1 - C(3,2)/C(4,2) + 1 - C(1,2)/C(4,2)) / 2."""
    found = figures(answers("1! 2 3 4"), answers("1! 1! 1! 4"))
    assert {name: value for name, (value, _, _) in found.items()} == pytest.approx(
        {"avg@4": 0.5, "pass@2": (0.5 + 1) / 2, "pass@4": 1.0, "maj@4": 1.0}
    )
    # Five answers: also pass@4, for which one of C(5,4) = 5 draws misses the one right answer; and pass@5.
    five = figures(answers("1! 2 3 4 5"))
    assert [five[f"pass@{k}"][0] for k in (2, 4, 5)] == pytest.approx([1 - 6 / 10, 1 - 1 / 5, 1.0])
    assert set(five) == {"avg@5", "pass@2", "pass@4", "pass@5", "maj@5"}


@pytest.mark.parametrize("k", [1, 2, 7, 16])
def test_pass_is_the_unbiased_estimator_for_every_count(k) -> None:
    for c in range(k + 1):
        found = figures(answers(" ".join(["1!"] * c + ["2"] * (k - c))))
        for j in {k, *(2**i for i in range(1, k.bit_length()))} - {1}:
            if j <= k:
                assert found[f"pass@{j}"][0] == pytest.approx(1 - math.comb(k - c, j) / math.comb(k, j)), (c, j)
        assert found[f"avg@{k}"][0] == pytest.approx(c / k)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("5 7! 7! 6", 1),  # two of four
        ("5 5 7! 6", 0),
        ("5 7! 6 8", 0),  # all answers differ: the first counts
        ("7! 5 6 8", 1),
        ("5 5 7! 7!", 0),  # two against two: the answer given first wins
        ("7! 5 5 7!", 1),
        ("7! 7.0! 5 6", 1),  # the same number
        ("5 5.0 7! 6", 0),
        (r"\frac{1}{2}! $\frac{1}{2}$! 5 6", 1),  # the same text, but for what goes around it
        ("7! - - -", 1),  # a response without an answer has no vote
        ("- - - -", 0),
    ],
)
def test_the_majority(said, value) -> None:
    assert figures(answers(said))["maj@4"][0] == value


def test_what_nobody_judged_is_not_correct_and_has_no_vote() -> None:
    found = figures([("timeout", None), ("timeout", None), ("correct", "7"), ("bad_gold", None)])
    assert (found["avg@4"][0], found["maj@4"][0], found["pass@2"][0]) == pytest.approx((0.25, 1, 0.5))
    # Old answers without a stored reading, and answers of a verifier without readings: only their text counts.
    assert figures([("correct", None), ("wrong", None), ("wrong", None)])["maj@3"][0] == 1


def test_the_interval_by_hand() -> None:
    """Ten questions, all wrong: the mean of 10 zeros, two zeros and two ones is 1/7, its variance 6/49, over 14 questions."""
    value, low, high = figures(*[answers("1")] * 10, temperature=0.0)["greedy"]
    assert (value, low) == (0, 0)
    assert high == pytest.approx(1 / 7 + 1.96 * math.sqrt(6 / 49 / 14))
    assert figures(*[answers("1!")] * 10)["avg@1"] == pytest.approx((1, 1 - high, 1))
    # Six right of ten: (6 + 2) / 14 and 8/14 · 6/14.
    half = 1.96 * math.sqrt(8 / 14 * 6 / 14 / 14)
    assert figures(*[answers("1!")] * 6, *[answers("1")] * 4)["avg@1"] == pytest.approx(
        (0.6, 8 / 14 - half, 8 / 14 + half)
    )


def test_more_answers_a_question_narrow_the_interval_and_it_holds_the_value() -> None:
    one = figures(*[answers("1!")] * 10, *[answers("1")] * 10)["avg@1"]
    four = figures(*[answers("1! 1 1! 1")] * 20)["avg@4"]
    assert one[0] == four[0] == 0.5
    assert four[2] - four[1] < 0.6 * (one[2] - one[1])
    for right in range(9):
        for n in (1, 3, 40):
            said = [answers(" ".join(["1!"] * right + ["1"] * (8 - right)))] * n
            for value, low, high in figures(*said).values():
                assert 0 <= low <= value <= high <= 1


def test_answers_that_not_all_questions_have_do_not_count() -> None:
    """As after an evaluation with a larger k that was interrupted."""
    assert figures(answers("1! 1"), answers("1 1! 1! 1!"))["avg@2"][0] == 0.5


def ask(archive: Path, statement: str) -> list[tuple[Any, ...]]:
    return db.connect(Store(archive)).execute(statement).fetchall()


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.mark.usefixtures("warm")
class TestTheCommand:
    @pytest.fixture
    def base(self, tmp_path) -> str:
        return str(random_model(tmp_path / "My Model", 1))

    def test_a_folder_on_two_files_and_an_archive_that_is_not_there_yet(self, tmp_path, base) -> None:
        """A row for each answer; the same command adds nothing; a larger k adds what is missing."""
        archive = tmp_path / "archive"
        a, b = lines(tmp_path / "sums.jsonl", SUMS), tmp_path / "letters.jsonl"
        lines(b, [{"question": "1+1=", "answer": "A"}, {"question": "2+1=", "answer": "(C)"}])
        words = ("evaluate", base, "-b", a, "-b", str(b), "-a", str(archive), *QUICK)
        said = invoke(*words, "-k", "2")
        assert "benchmark sums: 12 questions of" in said.stderr
        scores = [line.split() for line in said.stdout.splitlines()]
        assert scores[0][:4] == ["policy_id", "benchmark", "temperature", "score"]
        assert [(row[1].split("/")[0], row[3]) for row in scores[1:]] == [
            (source, score) for source in ("letters", "sums") for score in ("greedy", "avg@2", "pass@2", "maj@2")
        ]
        n_answers = (
            "SELECT split_part(benchmark, '/', 1), temperature, count(*) FROM evaluations GROUP BY ALL ORDER BY ALL"
        )
        assert ask(archive, n_answers) == [("letters", 0, 2), ("letters", 1, 4), ("sums", 0, 12), ("sums", 1, 24)]
        judges = (
            "SELECT DISTINCT split_part(benchmark, '/', 1), split_part(verifier_id, '@', 1) FROM evaluations ORDER BY 1"
        )
        assert ask(archive, judges) == [("letters", "multiple_choice"), ("sums", "math")]
        (policy,) = ask(archive, "SELECT policy_id, location, run_id FROM policies")
        assert policy[0].startswith("my-model-")
        assert policy[1:] == (base, None)
        assert ask(archive, "SELECT split, count(*) FROM prompts GROUP BY 1") == [("heldout", 14)]
        before = Store(archive).versions()
        assert invoke(*words, "-k", "2").stdout == said.stdout
        assert Store(archive).versions() == before
        invoke(*words, "-k", "3")
        invoke("evaluate", policy[0], "-b", "sums", "-b", "letters", "-a", str(archive), *QUICK, "-k", "3")
        assert [n for *_, n in ask(archive, n_answers)] == [2, 6, 12, 36]
        assert ask(
            archive, "SELECT count(*), count(DISTINCT (benchmark, temperature, prompt_id, sample_index)) FROM evaluations"
        ) == [(56, 56)]
        assert (
            ask(
                archive,
                "SELECT DISTINCT extracted_answer IS NULL, verdict = 'no_answer' FROM evaluations WHERE (extracted_answer IS NULL) <> (verdict = 'no_answer')",
            )
            == []
        )
        invoke("check", "-a", str(archive))

    def test_what_a_digit_is_worth(self, tmp_path, base) -> None:
        """An untrained model is sometimes right; the figures are compared with a count of its answers here."""
        archive = tmp_path / "archive"
        a = lines(tmp_path / "sums.jsonl", SUMS)
        invoke("evaluate", base, "-b", a, "-a", str(archive), *QUICK, "-k", "16")
        rows = ask(
            archive,
            "SELECT prompt_id, list(verdict = 'correct' ORDER BY sample_index) FROM evaluations WHERE temperature = 1 GROUP BY 1",
        )
        assert len(rows) == 12
        assert {len(right) for _, right in rows} == {16}
        avg = sum(sum(right) for _, right in rows) / 192
        passed = sum(1 - math.comb(16 - sum(right), 4) / math.comb(16, 4) for _, right in rows) / 12
        found = dict(ask(archive, "SELECT score, value FROM scores WHERE temperature = 1"))
        assert (found["avg@16"], found["pass@4"]) == pytest.approx((avg, passed))
        assert 0 < avg < 1

    def test_a_policy_of_a_run_is_asked_as_its_run_asks(self, trained, archive, tmp_path) -> None:
        """With the run's prompt and limits, and all questions of the file. The run's own evaluations do not change."""
        a = lines(tmp_path / "sums.jsonl", SUMS)
        own = ask(archive, "SELECT * FROM evaluations ORDER BY ALL")
        invoke("evaluate", "arithmetic-0002", "-b", a, "-a", str(archive), *QUICK[4:], "--set", "evaluate.max_prompts=3")
        at = "FROM evaluations WHERE benchmark LIKE 'sums/%'"
        assert ask(archive, f"SELECT temperature, count(*), max(n_response_tokens) <= 4 {at} GROUP BY 1 ORDER BY 1") == [
            (0, 3, True),
            (1, 6, True),
        ]
        invoke("evaluate", "arithmetic-0002", "-b", "sums", "-a", str(archive), *QUICK[4:], "-k", "0")
        assert ask(archive, f"SELECT count(DISTINCT prompt_id) {at}") == [(12,)]
        assert ask(archive, "SELECT * FROM evaluations WHERE benchmark NOT LIKE 'sums/%' ORDER BY ALL") == own
        assert ask(archive, "SELECT n FROM (SELECT count(*) AS n FROM prompts WHERE source = 'sums')") == [(12,)]

    def test_what_is_killed_between_two_shards_goes_on(self, tmp_path, base, monkeypatch) -> None:
        """Three questions between two commits; committed answers are not generated again."""
        archive, real, done = tmp_path / "archive", evaluate._answers, []

        def dying(*asked: Any) -> Any:
            done.append(1)
            if len(done) == 3:
                raise KeyboardInterrupt
            return real(*asked)

        words = ("evaluate", base, "-b", lines(tmp_path / "sums.jsonl", SUMS), "-a", str(archive), *QUICK)
        words = (*words, "-k", "2", "--set", "generate.shard_trajectories=3")
        monkeypatch.setattr(evaluate, "_answers", dying)
        invoke(*words, code=130)
        kept = ask(archive, "SELECT * FROM evaluations ORDER BY ALL")
        assert len(kept) == 6
        monkeypatch.setattr(evaluate, "_answers", real)
        invoke(*words)
        rows = ask(archive, "SELECT * FROM evaluations ORDER BY ALL")
        assert set(kept) < set(rows)
        assert len(rows) == 12 + 24

    @pytest.mark.skipif(not DATA.exists(), reason="no benchmark files here")
    def test_questions_too_long_for_the_model_are_not_answered(self, tmp_path, base) -> None:
        """The model's tokenizer has one token for a row of letters, so some of them fit."""
        archive = tmp_path / "archive"
        files = [word for name in ("aime24", "amc23") for word in ("-b", str(DATA / f"{name}.jsonl"))]
        invoke("evaluate", base, *files, "-a", str(archive), *QUICK, "-k", "2")
        found = ask(
            archive,
            "SELECT split_part(benchmark, '/', 1), n_prompts, n_too_long, value, low FROM scores WHERE score = 'avg@2' ORDER BY 1",
        )
        n_fit = {name: 0 for name, *_ in found}
        for name, encoded in (
            (row[0].split("/")[0], row[1])
            for row in ask(archive, "SELECT benchmark, n_response_tokens FROM evaluations WHERE temperature = 0")
        ):
            n_fit[name] += encoded > 0
        assert [row[:2] for row in found] == [("aime24", 30), ("amc23", 40)]
        assert [row[2] for row in found] == [30 - n_fit["aime24"], 40 - n_fit["amc23"]]
        assert all(n_too_long > 10 and value < 0.1 and low == 0 for _, _, n_too_long, value, low in found)

    def test_mistakes(self, tmp_path, base) -> None:
        archive = ("-a", str(tmp_path / "archive"), *QUICK)
        a = lines(tmp_path / "sums.jsonl", SUMS)
        (tmp_path / "empty").mkdir()
        (tmp_path / "bad.jsonl").write_text('{"problem": "1+1="}\n')
        for words, message in {
            ("evaluate", base, "-b", "gpqaa"): "benchmark 'gpqaa' is no file, .*; did you mean gpqa",
            ("evaluate", base, "-b", "nowhere/sums.jsonl"): "benchmark 'nowhere/sums.jsonl' is no file",
            ("evaluate", base, "-b", a, "-b", a): "two benchmarks are called 'sums'",
            ("evaluate", base, "-b", str(tmp_path / "bad.jsonl")): "none of its 1 rows can be imported",
            ("evaluate", base, "-b", str(tmp_path / "empty")): "holds no data",
            ("evaluate", str(tmp_path / "empty"), "-b", a): "policy .* is not a model folder",
            ("evaluate", "nobody", "-b", a): "archive .* does not exist",
            ("evaluate", base, "-b", a, "--set", "evaluate.max_prompts=none"): "evaluate.max_prompts = 'none'",
            ("evaluate", base, "--set", "evaluate.benchmarks=['x']"): "no held-out questions of source 'x'",
        }.items():  # fmt: skip
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path)
                said = refused(*words, *archive)
            assert re.search(message, said), said
        assert not (tmp_path / "archive").exists()

    def test_another_file_of_the_same_name(self, tmp_path, base) -> None:
        archive = ("-a", str(tmp_path / "archive"), *QUICK, "-k", "0")
        invoke("evaluate", base, "-b", lines(tmp_path / "sums.jsonl", SUMS), *archive)
        other = lines(tmp_path / "sums.jsonl", SUMS[:5])
        before = Store(tmp_path / "archive").versions()
        assert "questions 'sums' are those of another file" in refused("evaluate", base, "-b", other, *archive)
        assert Store(tmp_path / "archive").versions() == before
        assert "policy 'nobody' is not in" in refused("evaluate", "nobody", "-b", "sums", *archive)

    def test_a_hubs_name(self, tmp_path, base, monkeypatch) -> None:
        """Only files of its test split, under its own name. Without access to the hub there is a one-line error."""
        hub, asked = tmp_path / "hub" / "3f2a", []
        (hub / "data").mkdir(parents=True)
        lines(hub / "data" / "train-00000.jsonl", SUMS[:4])
        lines(hub / "data" / "test-00000.jsonl", SUMS[4:7])

        def snapshot_download(repository: str, **how: Any) -> str:
            asked.append((repository, how["repo_type"]))
            if repository != "owner/Sums":
                raise OSError("offline\nand more of it")
            return str(hub)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        archive = ("-a", str(tmp_path / "archive"), *QUICK, "-k", "0")
        invoke("evaluate", base, "-b", "owner/Sums", *archive)
        count = "SELECT source, split, count(*) FROM prompts GROUP BY ALL ORDER BY ALL"
        assert ask(tmp_path / "archive", count) == [("sums", "heldout", 3), ("sums", "train", 4)]
        assert ask(tmp_path / "archive", "SELECT count(*) FROM evaluations") == [(3,)]
        said = refused("evaluate", base, "-b", "gpqa", *archive)
        assert said.endswith("'gpqa' is no file, and the hub does not give Idavidrein/gpqa: offline")
        assert "has no main.csv" in refused("evaluate", base, "-b", "owner/Sums:main.csv", *archive)
        assert asked == [("owner/Sums", "dataset"), ("Idavidrein/gpqa", "dataset"), ("owner/Sums", "dataset")]
        assert "3 heldout" in invoke("import", "prompts", "owner/Sums", "--source", "mine", *archive[:2]).stdout
        assert "hub does not give" in refused("import", "prompts", "amc", *archive[:2])


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, [3, 0, 0, 0, 0, 0, 0, 3]),
        ({"every_iterations": 3}, [3, None, None, 0, None, None, 0, 3]),
        ({"every_iterations": 3, "sampled_every_iterations": 2}, [3, None, 3, 0, 3, None, 3, 3]),
        ({"every_iterations": 99, "sampled_every_iterations": 5}, [3, None, None, None, None, 3, None, 3]),
    ],
)
def test_when_a_run_evaluates(tmp_path, monkeypatch, settings, asked) -> None:
    """At iterations 0 to 7: None: no evaluation, 0: greedy only, 3: also three sampled answers."""
    found: dict[str, int] = {}

    def shards(*words: Any) -> list[Any]:
        found[words[3]] = words[4]
        return []

    monkeypatch.setattr("pipeline.stages.evaluate.shards", shards)
    base = str(random_model(tmp_path / "base", 1))
    named = {f"evaluate.{name}": value for name, value in {"samples_per_prompt": 3, **settings}.items()}
    config = recipes.load("arithmetic", {"policy.base": base, "runtime.engine": "transformers", **named}, iterations=7)
    with open_run("iterate", config, tmp_path / "archive") as run:
        for iteration in range(8):
            evaluate.evaluate(run, iteration)
        assert [found.get(run.policy_id(iteration)) for iteration in range(8)] == asked


@pytest.mark.usefixtures("warm")
def test_a_run_on_several_benchmarks(tmp_path) -> None:
    """Each has its own name and verifier. `progress` has their mean for policies that answered all of them."""
    archive = tmp_path / "archive"
    for name, rows in {"ones": SUMS[:4], "twos": SUMS[4:]}.items():
        import_prompts(archive, Path(lines(tmp_path / f"{name}.jsonl", rows)), split=Split.HELDOUT)
    settings = {**SETTINGS, "policy.base": str(random_model(tmp_path / "base", 1)), "evaluate.samples_per_prompt": 8}
    both = recipes.load("arithmetic", {**settings, "evaluate.benchmarks": ["ones", "twos"]})
    one = recipes.load("arithmetic", {**settings, "evaluate.benchmarks": ["ones"]})
    seen = "SELECT heldout_accuracy, heldout_avg_at_k FROM progress WHERE run_id = 'both'"
    with open_run("iterate", both, archive, name="both") as run:
        evaluate.evaluate_policy(run.store, one, run.processes, run.base_policy_id)
        assert ask(archive, seen) == [(None, None)]
        evaluate.evaluate(run, 0)
    ((greedy, sampled),) = ask(archive, seen)
    means = dict(ask(archive, "SELECT temperature, avg(value) FROM scores WHERE score IN ('greedy', 'avg@8') GROUP BY 1"))
    assert (greedy, sampled) == pytest.approx((means[0], means[1]))
    assert 0 < sampled < 1
    assert ask(archive, "SELECT count(*), count(DISTINCT benchmark) FROM evaluations") == [(12 * 9, 2)]
    named = {name for (name,) in ask(archive, "SELECT DISTINCT benchmark FROM evaluations")}
    assert set(ask(archive, "SELECT benchmark FROM runs")[0][0].split(", ")) == named
    lacking = {**settings, "evaluate.benchmarks": ["ones", "threes"]}
    with pytest.raises(
        UserError, match=r"evaluate.benchmarks: .* of source 'threes' .*`reval import prompts FILE --source threes"
    ):
        check("iterate", recipes.load("arithmetic", lacking), archive)


def test_default_names_are_as_ever(trained) -> None:
    """The `benchmark` of older archives is the same as now, so the figures of a policy stay together."""
    store = Store(trained.archive)
    (named,) = prompts.evaluation_sets(store, recipes.load("arithmetic"))
    assert named == prompts.EvaluationSet("arithmetic", "math", "arithmetic/heldout@" + named.name[-6:])
    assert named.name == "arithmetic/heldout@bfaeec"
