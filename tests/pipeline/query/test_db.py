"""A user's SQL returns its answer and can do nothing else."""

import pytest

from pipeline.archive.store import Store
from pipeline.query import db, readonly
from pipeline.query.generated import GENERATED
from schemas import TABLES, UserError
from tests.helpers.command import invoke, refused


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.create(tmp_path_factory.mktemp("sql") / "archive")


def files(store: Store) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in store.layout.local.parent.rglob("*") if path.is_file()}


NO_QUESTIONS = [
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
]


def refuses(store: Store, statement: str) -> None:
    with pytest.raises(UserError, match=r"^SQL: [^\n]+$"):
        db.ask(store, statement).read_all()


def test_only_questions_are_answered(store) -> None:
    (store.layout.local.parent / "outside.csv").write_text("secret\n1\n")
    for statement in NO_QUESTIONS:
        before = files(store)
        refuses(store, statement.format(root=store.layout.root))
        assert files(store) == before, statement


def test_every_view_works_on_an_empty_archive(store) -> None:
    connection = db.connect(store)
    for view in (*TABLES, *db.VIEWS):
        assert db.ask(store, f'SELECT * FROM "{view}"').read_all().num_rows == 0, view
        assert connection.execute(f'SELECT * FROM "{view}"').fetchall() == [], view


def test_columns_explain_themselves(store) -> None:
    found = db.ask(store, "SELECT comment FROM duckdb_columns() WHERE table_name = 'verdicts' AND column_name = 'reward'")
    assert found.read_all()["comment"].to_pylist() == [
        "1 for correct, 0 for wrong or no_answer; what the file says, if imported, or a user's function. Null: no judgement was reached."
    ]


def test_every_query_opens_with_what_it_returns_and_lists_its_columns() -> None:
    queries = {str(path): path.read_text() for path in sorted(db.PIPELINE.rglob("*.sql"))}
    assert len(queries) > 50
    for name, text in [*queries.items(), *((name, make()) for name, make in GENERATED.items())]:
        assert text.startswith("-- "), name
        assert "row" in text.split("\n\n")[0].lower(), name
        assert "SELECT *" not in text, name


# The archive has rows, so that its tables are files that DuckDB reads. {file} is such a file's path in the
# archive, {listed} its address in the views.
ESCAPES = [
    "COPY (SELECT 1) TO '{tmp}/x.csv'",
    "WITH x AS (COPY (SELECT 1) TO '{tmp}/x.csv') SELECT * FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{tmp}/x.csv'",
    "WITH x AS (COPY (SELECT 1) TO '.tmp/x.csv') SELECT * FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '.tmp/x.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '.tmp/x.parquet' (FORMAT parquet, USE_TMP_FILE false)",
    "WITH x AS (COPY (SELECT * FROM trajectories) TO '{listed}') SELECT * FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{listed}' (FORMAT parquet, USE_TMP_FILE false)) SELECT * FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{listed}' (FORMAT parquet, USE_TMP_FILE true)",
    "WITH x AS (COPY (SELECT 1) TO '{root}/{file}' (FORMAT parquet, USE_TMP_FILE false)) SELECT * FROM x",
    "WITH x AS (COPY (SELECT 1) TO 'file://{root}/x.parquet' (FORMAT parquet)) SELECT * FROM x",
    "WITH x AS (COPY (SELECT 1) TO 'trajectories://trajectories/part-x.parquet' (FORMAT parquet)) SELECT * FROM x",
    "WITH x AS (COPY (SELECT 1) TO '/dev/stdout') SELECT * FROM x",
    "SELECT * FROM read_text('{root}/reval.json')",
    "SELECT * FROM read_blob('{root}/reval.json')",
    "SELECT * FROM read_blob('.tmp/secret')",
    "SELECT * FROM read_text('trajectories://reval.json')",
    "SELECT * FROM read_text('trajectories://../reval.json')",
    "SELECT * FROM read_parquet('{root}/{file}')",
    "SELECT * FROM '{root}/{file}'",
    "SELECT * FROM read_parquet('trajectories://trajectories/*.parquet')",
    "SELECT * FROM read_csv_auto('.tmp/secret')",
    "SELECT * FROM read_json('{root}/reval.json')",
    "SELECT * FROM parquet_metadata('{root}/{file}')",
    "SELECT * FROM sniff_csv('.tmp/secret')",
    "SELECT * FROM query($$COPY (SELECT 1) TO '.tmp/x.csv'$$)",
    "SELECT * FROM delta_scan('{root}/trajectories')",
    "SELECT * FROM sqlite_scan('{root}/x.db', 'x')",
    "ATTACH '{listed}'",
    "ATTACH ':memory:' AS other",
    "PRAGMA enable_external_access",
    "PRAGMA database_list",
    "SET temp_directory = '{tmp}'",
    "SET allowed_paths = ['/etc/passwd']",
    "SET disabled_filesystems = ''",
    "RESET lock_configuration",
    "CREATE MACRO x() AS TABLE SELECT * FROM read_text('/etc/passwd')",
    "CREATE SECRET (TYPE s3)",
    "CHECKPOINT",
]
# Some of these are refused and some find nothing; none of them reveals anything.
NOSY = [
    "SELECT * FROM glob('{root}/*')",
    "SELECT * FROM glob('.tmp/*')",
    "SELECT getenv('HOME')",
    "FROM duckdb_secrets()",
]


@pytest.fixture
def escape(archive, tmp_path, monkeypatch):
    """An archive with rows, asked from a folder with a `.tmp` in it, where DuckDB would keep files of its own."""
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "secret").write_text("secret\n1\n")
    monkeypatch.chdir(tmp_path)
    store = Store(archive)
    shards = store.shards("trajectories")
    listed = readonly.ReadOnly("trajectories", store.files, shards).addresses[0]
    named = {"root": archive, "tmp": tmp_path / ".tmp", "file": next(iter(shards)), "listed": listed}
    return store, lambda statement: statement.format(**named)


def held(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_question_reaches_no_file_of_its_own(escape, tmp_path) -> None:
    store, filled = escape
    before = held(tmp_path)
    for statement in ESCAPES:
        refuses(store, filled(statement))
        assert held(tmp_path) == before, statement
        assert db.ask(store, "SELECT count(*) AS n FROM trajectories").read_all()["n"].to_pylist() == [96], statement


def test_nor_does_it_learn_what_there_is(escape, tmp_path) -> None:
    store, filled = escape
    before = held(tmp_path)
    for statement in NOSY:
        try:
            found = db.ask(store, filled(statement)).read_all().to_pylist()
        except UserError:
            found = []
        assert found == [], statement
        assert held(tmp_path) == before, statement


def test_the_command_says_so_in_one_line(escape, archive) -> None:
    _, filled = escape
    line = refused("sql", filled("WITH x AS (COPY (SELECT 1) TO '.tmp/x.csv') SELECT * FROM x"), "-a", str(archive))
    assert line.startswith("reval: SQL: ")
    assert invoke("sql", "--format", "csv", "SELECT count(*) AS n FROM rollouts", "-a", str(archive)).stdout == "n\n96\n"


def test_one_file_for_many_threads(escape) -> None:
    """DuckDB reads one handle from several threads at once: each gets the bytes from where it asked."""
    store, _ = escape
    everything = "string_agg(trajectory_id || response_text, '' ORDER BY trajectory_id)"
    query = f"SELECT sum(len(response_token_ids)) AS n, md5({everything}) AS text FROM responses"
    plain = db.connect(store).sql(query).fetchall()
    for _ in range(20):
        asked = db.ask(store, query).read_all().to_pylist()
        assert [tuple(row.values()) for row in asked] == plain


def test_no_bar_is_drawn_on_what_a_command_prints(store) -> None:
    """DuckDB's own bar would be on standard output, where `--format json` writes."""
    setting = "SELECT current_setting('enable_progress_bar') AS bar"
    assert db.connect(store).sql(setting).fetchall() == [(False,)]
    assert db.ask(store, setting).read_all()["bar"].to_pylist() == [False]
