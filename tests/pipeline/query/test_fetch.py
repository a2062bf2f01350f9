"""Responses by id: the same as DuckDB's, in the order asked for, read from a few row groups."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive.store import Store
from pipeline.query import db, fetch
from schemas import TABLES

COLUMNS = ["trajectory_id", "response_text", "prompt_token_ids", "response_token_ids", "behaviour_logprobs"]
N = 1500


def responses(names: list[str]) -> pa.Table:
    """Response number n has n tokens, up to 90: so there are row groups of several sizes, and empty responses."""
    rows = []
    for number, name in enumerate(names):
        n = number * 8 % 91
        logprobs = [-i / 8 for i in range(n)] if number % 5 else None
        ids = {"prompt_token_ids": [number, n], "response_token_ids": list(range(n))}
        rows.append({"trajectory_id": name, "response_text": f"{name} ", **ids, "behaviour_logprobs": logprobs})
    return pa.Table.from_pylist(rows, TABLES["responses"].schema)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Three files; one has several row groups, which are smaller than usual for this."""
    store = Store.create(tmp_path_factory.mktemp("fetch") / "archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.archive.parquet.TOKENS_PER_GROUP", 10_000)
        for shard, names in (("a", [f"a{i}" for i in range(N)]), ("b", ["b"]), ("c", [f"c{i}" for i in range(20)])):
            store.write(shard, {"responses": responses(names)})
    groups = [pq.read_metadata(store.layout.local / path).num_row_groups for path in store.shards("responses")]
    assert len(groups) == 3
    assert max(groups) > 5
    return store


ORDERS = {
    "one": ["c7"],
    "forwards": [f"a{i}" for i in range(N)],
    "backwards, all files": [*(f"a{i}" for i in reversed(range(N))), "b", *(f"c{i}" for i in range(20))],
    "far apart": ["a1499", "b", "a0", "c19", "a700", "a699"],
    "repeated": ["b", "a3", "b", "a3", "a1400", "b"],
}


def test_as_duckdb_would_in_the_order_asked(store) -> None:
    listed = ", ".join(f"r.{column}" for column in COLUMNS)
    connection = db.connect(store)
    query = f"SELECT {listed} FROM asked JOIN responses r USING (trajectory_id) ORDER BY place"
    for name, asked in ORDERS.items():
        connection.register("asked", pa.table({"trajectory_id": asked, "place": range(len(asked))}))
        expected = connection.sql(query).to_arrow_table()
        found = fetch.fetch(store, asked, COLUMNS)
        assert found.to_pylist() == expected.to_pylist(), name
        assert found["trajectory_id"].to_pylist() == asked, name


def test_only_the_columns_asked_for(store) -> None:
    found = fetch.fetch(store, ["b", "a5"], ["response_text"])
    assert found.column_names == ["response_text"]
    assert found["response_text"].to_pylist() == ["b ", "a5 "]


def test_nothing_asked_is_nothing_found(store) -> None:
    found = fetch.fetch(store, [], COLUMNS)
    assert (found.column_names, len(found)) == (COLUMNS, 0)


def test_an_id_without_a_response_is_an_error(store, tmp_path) -> None:
    """In an archive with responses and in one without any."""
    for asked in (["nobody"], ["a1", "nobody", "b"]):
        with pytest.raises(LookupError, match=f"1 of {len(asked)} rollouts have no response"):
            fetch.fetch(store, asked, COLUMNS)
    with pytest.raises(LookupError, match="no responses"):
        fetch.fetch(Store.create(tmp_path / "archive"), ["a"], COLUMNS)


def test_only_row_groups_that_hold_them_are_read(store, monkeypatch) -> None:
    """Two ids of one group and one of another: two row groups of one file are read, whatever else the archive holds."""
    real, read = pq.ParquetFile.read_row_groups, []

    def watched(self, groups, **how):
        read.append(groups)
        return real(self, groups, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", watched)
    fetch.fetch(store, ["a1499", "a0", "a1"], ["response_token_ids"])
    assert len(read) == 1
    assert len(read[0]) == 2
    assert read[0][0] == 0
