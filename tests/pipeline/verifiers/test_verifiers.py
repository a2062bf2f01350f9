"""The verdicts of each verifier on the rows of its golden table, in this process.

A row of tests/golden/NAME.jsonl has a gold answer, a response, the verdict that a mathematician would give, `what` it is
an example of, and perhaps the verifier's `argument`. `math_verify` marks a known deviation: the library gives another
verdict, and this cannot be changed from outside.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.verifiers import verifier
from pipeline.verifiers.latex import as_latex
from pipeline.verifiers.reading import MAX_EXTRACTED_CHARACTERS, boxed
from schemas import UserError

Row = dict[str, Any]
TABLES = {path.stem: path for path in sorted((Path(__file__).parent / "golden").glob("*.jsonl"))}
GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k" / "example_model_solutions.jsonl"
READERS = ("math", "gsm8k", "multiple_choice", "exact", "numeric")


def golden(name: str) -> list[Row]:
    return [json.loads(line) for line in TABLES[name].read_text().splitlines()]


def judge(name: str, row: Row) -> tuple[str, str | None]:
    judge_of = verifier(f"{name}:{row['argument']}" if "argument" in row else name)
    verdict, extracted, _ = judge_of.judge(row["gold"], judge_of.read(row["response"]))
    return verdict.value, extracted


@pytest.mark.parametrize("name", TABLES)
def test_golden_table(name) -> None:
    rows = golden(name)
    said = [judge(name, row) for row in rows]
    expected = [row.get("math_verify", row["verdict"]) for row in rows]
    off = [(row, verdict) for row, (verdict, _), right in zip(rows, said, expected, strict=True) if verdict != right]
    assert not off
    for row, (verdict, extracted) in zip(rows, said, strict=True):
        assert (extracted is None) == (verdict in ("no_answer", "bad_gold")), row
        assert extracted is None or len(extracted) <= MAX_EXTRACTED_CHARACTERS, row


def test_tables_are_as_large_as_they_claim() -> None:
    assert set(TABLES) >= set(READERS)
    assert len(golden("math")) >= 150
    assert min(len(golden(name)) for name in READERS) >= 25
    for name in TABLES:
        keys = [(row["gold"], row["response"], row.get("argument")) for row in golden(name)]
        assert len(keys) == len(set(keys)), f"{name} has a row twice"
    deviations = [row for row in golden("math") if "math_verify" in row]
    assert len(deviations) <= 10
    assert all(row["math_verify"] != row["verdict"] for row in deviations)


@pytest.mark.parametrize("name", READERS)
def test_example_is_right(name) -> None:
    found = verifier(name)
    gold, response = found.example
    assert judge(name, {"gold": gold, "response": response})[0] == "correct"
    assert "\n" not in found.summary


def test_verdicts_depend_on_nothing_judged_before() -> None:
    """All answers that one process judges share parsers and their caches."""
    rows = [(name, row) for name in READERS for row in golden(name)]
    first = [judge(name, row) for name, row in rows]
    order = random.Random(7).sample(range(len(rows)), len(rows))
    again = {i: judge(*rows[i]) for i in order}
    assert [again[i] for i in range(len(rows))] == first


@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from tests.pipeline.verifiers.test_verifiers import *\n"
        "print(json.dumps([judge(name, row) for name in READERS for row in golden(name)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = [tuple(judgement) for judgement in json.loads(done.stdout)]
    assert said == [judge(name, row) for name in READERS for row in golden(name)]


@pytest.mark.parametrize(
    ("asked", "way_out"),
    [
        ("maths", "did you mean math?"),
        ("judge", "there are math, gsm8k"),
        ("", "there are math, gsm8k"),
        ("imported", "labels that came with a file"),
        ("math:3", "write math and not math:3"),
        ("gsm8k:", "write gsm8k and not"),
        ("multiple_choice:E", "write multiple_choice"),
        ("exact:case", "write exact"),
        ("numeric:", "such as numeric:0.01"),
        ("numeric:abc", "such as numeric:0.01"),
        ("numeric:-0.1", "such as numeric:0.01"),
        ("numeric:1", "such as numeric:0.01"),
        ("numeric:1e999999999", "such as numeric:0.01"),
        ("numeric:nan", "such as numeric:0.01"),
        ("numeric:.", "such as numeric:0.01"),
        ("exact@0", "where exact is exact@1"),
        ("numeric:0.01@7", "where numeric:0.01 is numeric:0.01@1"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_way_out(asked, way_out) -> None:
    with pytest.raises(UserError) as error:
        verifier(asked)
    assert way_out in str(error.value)
    assert "\n" not in str(error.value)


def test_an_id_says_all_that_decides_a_verdict() -> None:
    assert verifier("numeric").verifier_id == "numeric@1+1e-6"
    assert verifier("numeric:0.01").verifier_id == "numeric:0.01@1"
    assert verifier("math").verifier_id.startswith("math@2+math-verify-")
    assert verifier("numeric:0.01@1").verifier_id == "numeric:0.01@1"


UNITS = [
    *(
        "{",
        "}",
        "\\",
        "\\boxed{",
        "\\boxed",
        "\\boxed ",
        "\\boxed{1}",
        "\\boxed\\a{",
        "\\{",
        "####",
        "A:\n",
        "#### 1\n",
        "\n",
        " ",
    ),
    *(
        "answer is ",
        "Answer: ",
        "answer is (",
        "answer:**",
        "answer is \\text{",
        "answer is A and ",
        "A ",
        "(",
        "*",
        "$",
        "=",
    ),
    *(
        "\\frac{1}",
        "\\frac{",
        "1,",
        "1,000",
        "1",
        "-",
        "1e",
        "10^{",
        "1 x 10^",
        "1/",
        ".",
        "1234,",
        "^{-",
        "\\times",
        "{,}",
    ),
]
HOSTILE = {
    **{f"{unit!r} again and again": unit * (200_000 // len(unit)) for unit in UNITS},
    **{
        f"a box of {unit!r}": f"\\boxed{{5{unit * (200_000 // len(unit))}!}}"
        for unit in ("{", "}", " ", "a ", " a^2", "1", "=", "(", "/")
    },
    "boxes in boxes": "\\boxed{" * 28_000 + "}" * 28_000,
    "blank boxes in boxes": "\\boxed{ " * 24_000 + " }" * 24_000,
    "groups of thousands that are none": "1" + ",234" * 50_000 + "5",
    "a numerator without an end": "\\frac{" + "1" * 200_000,
}


@pytest.mark.parametrize("name", READERS)
def test_reading_is_linear(name) -> None:
    """200 kB of each are read. If reading took more than linear time, this would not end."""
    read = verifier(name).read
    for what, text in HOSTILE.items():
        found = read(text)
        assert found is None or len(found) <= len(text) + len("\\boxed{}"), what


@pytest.mark.parametrize("name", [name for name in READERS if name != "math"])
def test_what_is_read_from_a_hostile_text_is_judged_at_once(name) -> None:
    """math-verify may take very long and is then killed; the others must be fast."""
    found = verifier(name)
    for text in HOSTILE.values():
        extracted = found.judge(found.example[0], found.read(text)).extracted_answer
        assert extracted is None or len(extracted) <= MAX_EXTRACTED_CHARACTERS
        found.judge(text, "5")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{1} \fbox{2}", "2"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{\boxed{1}}", "1"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1 \\}", r"1 \\"),
        (r"} \boxed{1} {", "1"),
        (r"\boxed{1} and \boxed{ }", "1"),
        (r"\boxed 5.", "5"),
        (r"\boxed{1} is put in \boxed for you", "1"),
        (r"\boxedx{1}", None),
        (r"\boxed{", None),
        ("boxed{1}", None),
    ],
)
def test_last_box(text, content) -> None:
    assert boxed(text) == content


def test_the_part_that_decides_is_all_that_is_judged() -> None:
    """So the same answer in other words is judged only once."""
    for name in ("math", "exact", "multiple_choice", "gsm8k", "numeric"):
        read = verifier(name).read
        assert read("so \\boxed{ C 5 }") == read("hence it is \\boxed{C 5}"), name
    assert verifier("gsm8k").read("16 - 7 = 9\n#### 9 eggs") == "9"


def test_units_leave_formulas_alone() -> None:
    assert as_latex(r"\frac{1}{3}\pi r^2 h") == r"\frac{1}{3}\pi r^2 h"
    assert as_latex("a + b + c") == "a + b + c"
    assert [as_latex(text) for text in ("12 cm^2", "5 m/s", r"3\text{ hours}", "2 1/2", "no solution")] == [
        *("12", "5", "3"),
        r"2\frac{1}{2}",
        r"\text{no solution}",
    ]


@pytest.mark.skipif(not GSM8K.exists(), reason="no labelled solutions here")
@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_real_solutions_agree_with_their_labels(name) -> None:
    """5,276 solutions of four models; for `math` there is no marker, so it takes the last number."""
    found = verifier(name)
    agreed = []
    for line in GSM8K.read_text().splitlines():
        row = json.loads(line)
        gold = row["ground_truth"] if name == "gsm8k" else row["ground_truth"].rsplit("A:", 1)[1].strip()
        for labelled in (value for value in row.values() if isinstance(value, dict)):
            verdict = found.judge(gold, found.read(labelled["solution"])).verdict
            agreed.append((verdict == "correct") == labelled["is_correct"])
    assert len(agreed) == 5276
    assert sum(agreed) / len(agreed) >= 0.995
