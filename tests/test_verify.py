"""Verdicts."""

from pathlib import Path

import pytest

from pipeline.pool import Outcome, Pool
from pipeline.verifiers import REWARDS, verifier, verifier_id
from schemas.enums import Verdict

GOLDEN = [
    ("46", r" \boxed{46}", "correct"),
    ("46", r" \boxed{47}", "wrong"),
    ("-22", r" \boxed{-22}", "correct"),
    ("-22", r" \boxed{22}", "wrong"),
    ("46", "the answer is 46", "correct"),
    ("46", r"\boxed{4} no, \boxed{46}", "correct"),
    ("4", r"\boxed{4} no, \boxed{46}", "wrong"),
    ("46", "I do not know", "no_answer"),
    ("46", "", "no_answer"),
    (r"\frac{1}{2}", r"\boxed{0.5}", "correct"),
    ("1/2", r"\boxed{\frac{2}{4}}", "correct"),
    ("1000", r"\boxed{1,000}", "correct"),
    ("", r"\boxed{1}", "bad_gold"),
    ("?", r"\boxed{1}", "bad_gold"),
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    made = Pool("pipeline.verifier_process", 2, 3.0, tmp_path_factory.mktemp("logs") / "verifier.log", name="math")
    yield made
    made.close()


def judge(pool: Pool, pairs: list[tuple[str, str]]) -> list[Outcome]:
    read = verifier("math").read
    found = dict(pool.map([(gold, read(text)) for gold, text in pairs]))
    assert sorted(found) == list(range(len(pairs))), "every item has one outcome"
    return [found[i] for i in range(len(pairs))]


def test_golden_table(pool) -> None:
    outcomes = judge(pool, [(gold, text) for gold, text, _ in GOLDEN])
    assert [(g, t, o.values["verdict"]) for (g, t, _), o in zip(GOLDEN, outcomes, strict=True)] == GOLDEN


def test_no_judgement_has_no_reward() -> None:
    assert {verdict for verdict in Verdict if REWARDS[verdict] is None} == {"bad_gold", "timeout", "crashed"}
    assert verifier_id("math").startswith("math@")


def test_real_solutions_agree_with_their_labels(pool) -> None:
    """A sample of labelled GSM8K solutions; `A: 18` is read as the last number."""
    import json

    data = Path(__file__).parent.parent.parent / "shared" / "data" / "gsm8k" / "example_model_solutions.jsonl"
    if not data.exists():
        pytest.skip("no labelled solutions here")
    rows = [json.loads(line) for line in data.read_text().splitlines()[:150]]
    pairs, labels = [], []
    for row in rows:
        for value in row.values():
            if isinstance(value, dict) and "solution" in value and "A: " in value["solution"]:
                answer = value["solution"].rsplit("A: ", 1)[1].strip()
                pairs.append((row["ground_truth"].rsplit("A: ", 1)[1].strip(), rf"\boxed{{{answer}}}"))
                labels.append(value["is_correct"])
    assert len(pairs) > 300
    verdicts = [outcome.values["verdict"] == "correct" for outcome in judge(pool, pairs)]
    agreement = sum(v == label for v, label in zip(verdicts, labels, strict=True)) / len(labels)
    assert agreement >= 0.99
