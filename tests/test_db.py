"""A user's SQL answers and does nothing else."""

import pytest

from pipeline import db
from pipeline.store import Store
from schemas import TABLES, UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.create(tmp_path_factory.mktemp("sql") / "archive")


def files(store: Store) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in store.layout.local.parent.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO '{root}/x.csv'",
        "WITH x AS (COPY (SELECT 1) TO '{root}/x.csv') SELECT * FROM x",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/x.csv'",
        "EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO '{root}/x.csv') SELECT 1",
        "WITH x AS (COPY (SELECT 1) TO '{root}/reval.json') SELECT * FROM x",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('{root}/../outside.csv')",
        "SELECT * FROM read_parquet('{root}/*/*.parquet')",
        "SELECT * FROM glob('/etc/*')",
        "ATTACH '{root}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW prompts",
        "INSERT INTO prompts VALUES (1)",
        "WITH x AS (DELETE FROM _prompts RETURNING *) SELECT * FROM x",
        "EXPORT DATABASE '{root}/x'",
        "SELECT 1; SELECT 2",
        "CALL pragma_version()",
        "SELECT * FROM sys",
        "",
        "SELEC 1",
        "SELECT nothing FROM prompts",
        "SELECT error('half-way') FROM range(3)",
    ],
)
def test_only_questions_are_answered(store, statement) -> None:
    (store.layout.local.parent / "outside.csv").write_text("secret\n1\n")
    before = files(store)
    with pytest.raises(UserError, match=r"^SQL: [^\n]+$"):
        db.ask(store, statement.format(root=store.layout.root)).read_all()
    assert files(store) == before


@pytest.mark.parametrize("view", [*TABLES, *db.VIEWS])
def test_every_view_works_on_an_empty_archive(store, view) -> None:
    assert db.ask(store, f'SELECT * FROM "{view}"').read_all().num_rows == 0
    assert db.connect(store).execute(f'SELECT * FROM "{view}"').fetchall() == []


def test_columns_explain_themselves(store) -> None:
    found = db.ask(store, "SELECT comment FROM duckdb_columns() WHERE table_name = 'verdicts' AND column_name = 'reward'")
    assert found.read_all()["comment"].to_pylist() == [
        "1 for correct, 0 for wrong or no_answer; what the file says, if imported. Null: no judgement was reached."
    ]


@pytest.mark.parametrize("path", sorted(db.SQL.rglob("*.sql")), ids=lambda path: path.stem)
def test_every_query_opens_with_what_it_returns_and_lists_its_columns(path) -> None:
    text = path.read_text()
    assert text.startswith("-- ")
    assert "row" in text.split("\n\n")[0].lower()
    assert "SELECT *" not in text


def test_no_bar_is_drawn_on_what_a_command_prints(store) -> None:
    """DuckDB's own is on standard output, where `--format json` writes."""
    setting = "SELECT current_setting('enable_progress_bar') AS bar"
    assert db.connect(store).sql(setting).fetchall() == [(False,)]
    assert db.ask(store, setting).read_all()["bar"].to_pylist() == [False]
