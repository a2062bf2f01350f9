"""Rows of the paper's evaluation sets, in the columns in which they are published: the question and its answer.

The questions are made up; two files of real ones are read where they are at hand.
"""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.exchange.import_prompts import import_prompts
from pipeline.inputs import prompts
from pipeline.query import db
from pipeline.verifiers import verifier
from schemas.enums import Split

DATA = Path(__file__).parents[4] / "shared" / "data" / "benchmarks"
# By benchmark: a row, a right answer, a wrong one. Gold answers are written as the file writes them.
ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "aime24": (
        {"id": 1, "problem": "What is 5 squared?", "solution": r"It is $\boxed{25}$.", "answer": "025", "url": "", "year": "2024"},
        r"\boxed{25}",
        r"\boxed{26}",
    ),
    "aime24-of-another": (
        {"ID": "2024-I-1", "Problem": "What is 5 squared?", "Solution": "Multiply.", "Answer": 25},
        r"\boxed{25}",
        r"\boxed{5}",
    ),
    "aime25": ({"problem": "What is 7 squared?", "answer": "49", "id": "0"}, r"\boxed{049}", r"\boxed{7}"),
    "amc": ({"id": 3, "question": "What is 3 cubed?", "answer": 27.0, "url": ""}, r"\boxed{27}", r"\boxed{9}"),
    "math": (
        {
            **{"problem": "Halve one.", "solution": r"$\boxed{\frac{1}{2}}$", "answer": r"\frac{1}{2}"},
            **{"subject": "Prealgebra", "level": 1, "unique_id": "test/prealgebra/0.json"},
        },
        r"\boxed{0.5}",
        r"\boxed{2}",
    ),
    "hendrycks": (
        {"problem": "Halve three.", "level": "Level 1", "type": "Algebra", "solution": r"So $x = \boxed{\dfrac{3}{2}}$, or 1.5."},
        r"\boxed{1\frac{1}{2}}",
        r"\boxed{3}",
    ),
    "minerva": (
        {"problem": "How heavy is the made-up star, in solar masses?", "solution": r"$M=\boxed{3.2e-4}$ of them.", "type": "Astronomy", "idx": 0},
        r"\boxed{3.2 \times 10^{-4}}",
        r"\boxed{3.3 \times 10^{-4}}",
    ),
    "minerva-of-the-hub": ({"question": "Name a made-up energy in erg.", "answer": "9e11"}, r"\boxed{9\times 10^{11}}", r"\boxed{9}"),
    "olympiad": (
        {
            **{"id": 1, "question": "Which numbers have the square 4?", "context": None, "image_1": None, "modality": "Text-only"},
            **{"solution": ["Take roots.", "Both signs."], "final_answer": ["2", "$-2$"], "is_multiple_answer": True},
            **{"answer_type": "Numerical", "unit": None, "error": None, "subfield": "Algebra"},
        },
        r"\boxed{-2, 2}",
        r"\boxed{2}",
    ),
    "gpqa": (
        {
            **{"Question": "Which made-up particle is blue?", "Correct Answer": "the bluon\n", "Incorrect Answer 1": "the redon"},
            **{"Incorrect Answer 2": "the greenon", "Incorrect Answer 3": "none", "Explanation": "By its name.", "Subdomain": "Physics"},
        },
        r"The answer is (GOLD).",
        r"\boxed{OTHER}",
    ),
}  # fmt: skip


def brought(tmp_path: Path, rows: list[dict[str, Any]], name: str = "questions") -> list[tuple[str, str]]:
    """Problems and gold answers of rows, through a file and the archive."""
    file = tmp_path / f"{name}.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    import_prompts(tmp_path / "archive", file, source=name, split=Split.HELDOUT)
    statement = f"SELECT problem, gold_answer FROM prompts WHERE source = '{name}' ORDER BY line"
    return db.connect(Store(tmp_path / "archive")).execute(statement).fetchall()


@pytest.mark.slow
def test_the_right_answer_is_right_by_default(tmp_path) -> None:
    """With the default verifier of the benchmark."""
    for name, (row, right, wrong) in ROWS.items():
        ((problem, gold),) = brought(tmp_path, [row], name)
        config = recipes.load("arithmetic", {"evaluate.benchmarks": [name]})
        (named,) = prompts.evaluation_sets(Store(tmp_path / "archive"), config)
        judge = verifier(named.verifier)
        assert judge.name == ("multiple_choice" if name == "gpqa" else "math"), name
        other = next(letter for letter in "ABCD" if letter != gold)
        for answer, verdict in ((right.replace("GOLD", gold), "correct"), (wrong.replace("OTHER", other), "wrong")):
            assert judge.judge(gold, judge.read(answer)).verdict == verdict, (name, gold, answer)
        assert problem, name


def test_every_benchmark_of_the_recipe_is_here() -> None:
    assert set(recipes.load("paper-1.5b").evaluate.benchmarks) <= set(ROWS)


def test_choices_are_shuffled_the_same_way_each_time(tmp_path) -> None:
    """The choices have letters, in another order for each question; the gold answer is the letter of the right choice."""
    row, *_ = ROWS["gpqa"]
    many = [{**row, "Question": f"{row['Question']} {number}"} for number in range(40)]
    found = brought(tmp_path, many)
    golds = [gold for _, gold in found]
    assert set(golds) == set("ABCD")
    for problem, gold in found:
        lines = problem.splitlines()
        assert lines[1] == lines[6] == ""
        assert [line[:3] for line in lines[2:6]] == ["A. ", "B. ", "C. ", "D. "]
        assert next(line for line in lines if line.endswith("the bluon")).startswith(gold)
    assert brought(tmp_path, many[::-1], "reversed")[::-1] == found
    header = list(many[0])
    with (tmp_path / "gpqa_diamond.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(many)
    import_prompts(tmp_path / "archive", tmp_path / "gpqa_diamond.csv", split=Split.HELDOUT)
    same = "SELECT problem, gold_answer FROM prompts WHERE source = 'gpqa_diamond' ORDER BY line"
    assert db.connect(Store(tmp_path / "archive")).execute(same).fetchall() == found


def test_what_cannot_be_asked_is_rejected_with_its_reason(tmp_path) -> None:
    olympiad, gpqa = ROWS["olympiad"][0], ROWS["gpqa"][0]
    good = [{**olympiad, "context": "Let x be a number."}, {**olympiad, "question": "One?", "final_answer": ["$1$"]}]
    bad = [
        {**olympiad, "question": "In the picture?", "image_1": {"bytes": "…"}},
        {**olympiad, "question": "Prove it.", "final_answer": None},
        {**gpqa, "Incorrect Answer 2": "the bluon"},
        {**gpqa, "Correct Answer": None},
    ]
    assert brought(tmp_path, [*good, *bad]) == [
        ("Let x be a number.\n\nWhich numbers have the square 4?", "2, -2"),
        ("One?", "1"),
    ]
    reasons = db.connect(Store(tmp_path / "archive")).execute("SELECT reason FROM rejects ORDER BY line").fetchall()
    for (reason,), words in zip(
        reasons, ("has an image", "no gold answer", "two of its choices", "not text"), strict=True
    ):
        assert words in reason


def test_columns_that_are_named_are_taken_as_they_are(tmp_path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(ROWS["gpqa"][0]))
    columns = {"problem": "Question", "gold_answer": "Correct Answer"}
    import_prompts(tmp_path / "archive", file, columns=columns, split=Split.HELDOUT)
    found = db.connect(Store(tmp_path / "archive")).execute("SELECT problem, gold_answer FROM prompts").fetchall()
    assert found == [("Which made-up particle is blue?", "the bluon")]


@pytest.mark.skipif(not DATA.exists(), reason="no benchmark files here")
def test_real_files(tmp_path) -> None:
    """Every gold answer is an integer. The integer in plain form is right, and the next integer is wrong."""
    for name in ("aime24", "amc23"):
        import_prompts(tmp_path / "archive", DATA / f"{name}.jsonl", split=Split.HELDOUT)
    golds = db.connect(Store(tmp_path / "archive")).execute("SELECT gold_answer FROM prompts").fetchall()
    assert len(golds) == 30 + 40
    judge = verifier("math")
    for (gold,) in golds:
        value = int(float(gold))
        assert judge.judge(gold, judge.read(rf"\boxed{{{value}}}")).verdict == "correct"
        assert judge.judge(gold, judge.read(rf"\boxed{{{value + 1}}}")).verdict == "wrong"
