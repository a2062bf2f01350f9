"""Every table is fully described, and conform refuses rows that do not fit."""

import pyarrow as pa
import pytest

from schemas import TABLES, SchemaError, UserError, check_name, conform, digest


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_says_what_it_is(table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert set(table.key) <= set(names)
    assert table.doc.endswith(".")
    for column in table.columns:
        assert column.doc[-1] in ".;", column.name
        assert column.null is None or column.name not in table.key, f"{column.name}: a key has no null"


def verdict(**changes) -> pa.Table:
    row = {
        "trajectory_id": "a",
        "verifier_id": "math",
        "verdict": "wrong",
        "reward": 0.0,
        "extracted_answer": None,
        "seconds": 0.1,
        "iteration": 1,
    }
    row.update(changes)
    return pa.Table.from_pylist([{key: value for key, value in row.items() if value != "absent"}])


def test_conform_orders_and_casts() -> None:
    rows = conform(
        verdict().select(
            ["iteration", "seconds", "verdict", "verifier_id", "trajectory_id", "reward", "extracted_answer"]
        ),
        "verdicts",
    )
    assert rows.schema == TABLES["verdicts"].schema
    # A column of nulls has no type of its own; an integer that fits a float is the same number.
    assert conform(verdict(reward=1), "verdicts")["reward"].to_pylist() == [1.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": 1}, "unknown columns .'score'."),
        ({"seconds": "absent"}, "missing columns .'seconds'."),
        ({"verifier_id": None}, "1 nulls"),
        ({"verdict": "maybe"}, "'maybe'"),
        ({"seconds": "soon"}, "soon"),
    ],
)
def test_conform_refuses(changes, words) -> None:
    with pytest.raises(SchemaError, match=words):
        conform(verdict(**changes), "verdicts")


def test_digest_is_fixed_for_ever() -> None:
    # Ids in archives depend on it: this value may never change.
    assert digest("trajectory", 1, 0.5, None) == "a28292948d65af5d013a80be731ec27d"
    assert len({digest("a", "b"), digest("ab"), digest("a b"), digest("b", "a"), digest(1), digest("1")}) == 6


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a" * 64, ".a"])
def test_names_that_could_not_be_folders(name) -> None:
    with pytest.raises(UserError, match="run name"):
        check_name("run", name)
