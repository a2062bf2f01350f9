"""An archive that reval 0.1 made: opened by this one it takes on what was added since, and keeps every row and state."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction

from pipeline import recipes
from pipeline.archive.marker import Marker
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.query.fetch import fetch
from pipeline.replay import draws
from pipeline.upkeep import compaction
from pipeline.upkeep.repeat import repeat
from schemas import TABLES, UserError, digest
from tests.helpers.command import environment, invoke, refused

# What changed since 0.1, from this schema back to that: tables and columns that were not there, columns that were never
# null, and one that is no more.
NEW_TABLES = ("steps", "labels", "imports", "rejects")
NEW_COLUMNS = {
    "prompts": ("import_id", "line"),
    "trajectories": ("import_id", "line", "tokenised_by", "tokenizer_digest"),
    "verdicts": ("iteration",),
    "references": ("pass_id", "precision"),
    "draws": ("rule", "deviation"),
    "updates": ("entropy", "clipped_share"),
    "passes": ("micro_batch_tokens", "verifier_id", "batching"),
    "evaluations": ("extracted_answer",),
    "snapshots": ("n_rows",),
}
NEVER_NULL = {
    "policies": ("weights_digest", "tokenizer_digest", "location", "n_parameters"),
    "trajectories": (
        "temperature",
        "max_response_tokens",
        "seed",
        "engine_version",
        "n_prompt_tokens",
        "n_response_tokens",
    ),
    "responses": ("prompt_token_ids", "response_token_ids"),
    "verdicts": ("seconds",),
    "passes": ("loss", "grad_norm", "reference_id"),
    "snapshots": ("versions",),
}
OLD_TABLES = [name for name in TABLES if name not in NEW_TABLES]
CHANGED = [name for name in TABLES if name in {*NEW_TABLES, *NEW_COLUMNS, *NEVER_NULL}]


def old_schema(name: str) -> pa.Schema:
    fields = [
        field.with_nullable(field.nullable and field.name not in NEVER_NULL.get(name, ()))
        for field in TABLES[name].schema
        if field.name not in NEW_COLUMNS.get(name, ())
    ]
    if name == "snapshots":
        place = [field.name for field in fields].index("versions")
        fields.insert(place, pa.field("label", pa.string()))
    return pa.schema(fields)


def old_rows(name: str, rows: pa.Table) -> pa.Table:
    schema = old_schema(name)
    if name == "snapshots":
        named = [[(table, n) for table, n in of if table in OLD_TABLES] for of in rows["versions"].to_pylist()]
        place = rows.column_names.index("versions")
        rows = rows.set_column(place, "versions", pa.array(named, rows["versions"].type))
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(schema.names).cast(schema)


@pytest.fixture
def old(trained, tmp_path) -> Path:
    """The rows of the trained archive in tables, files, commits and a marker as 0.1 wrote them; states included."""
    root, store = tmp_path / "archive", Store(trained.archive)
    (root / "weights").parent.mkdir()
    for kept in ("weights", "optimizer"):
        shutil.copytree(trained.archive / kept, root / kept)
    for name in OLD_TABLES:
        DeltaTable.create(
            str(root / name),
            old_schema(name),
            mode="ignore",
            name=name,
            configuration={"delta.checkpointInterval": "25"},
        )
        for number, path in enumerate(in_order(store, name)):
            rows = old_rows(name, pq.read_table(trained.archive / path))
            new = root / name / f"part-{digest(f'{name}/{number}')}.parquet"
            pq.write_table(rows, new, compression="zstd")
            stats = json.dumps({"numRecords": len(rows)})
            add = AddAction(new.name, new.stat().st_size, {}, 0, True, stats)
            table = DeltaTable(str(root / name))
            properties = CommitProperties(app_transactions=[Transaction(f"{name}/{number}", 1)])
            table.create_write_transaction([add], "append", table.schema(), commit_properties=properties)
    (root / "reval.json").write_text('{"format": 1}')
    return root


def in_order(store: Store, name: str) -> list[str]:
    """A table's files in the order of their commits, so that versions mean the same states."""
    found: list[str] = []
    for version in range(1, DeltaTable(f"{store.layout.root}/{name}").version() + 1):
        found += set(store.shards(name, version)) - set(found)
    return found


def rows(root: Path, name: str, at: str | None = None) -> list[tuple]:
    """Rows of a table with the columns that both have; snapshots with the versions of tables that both have."""
    store = Store(root)
    new = NEW_COLUMNS.get(name, ())
    listed = ", ".join(f'"{c.name}"' for c in TABLES[name].columns if c.name not in new)
    connection = db.connect(store, versions.resolve(store, at).versions, only=f'"{name}"')
    found = connection.execute(f'SELECT {listed} FROM "{name}"').fetchall()
    return sorted((tuple(map(of_both, row)) for row in found), key=repr)


def of_both(value: object) -> object:
    return {name: n for name, n in value.items() if name in OLD_TABLES} if isinstance(value, dict) else value


def test_what_was_added_is_taken_on_and_no_row_changes(trained, old) -> None:
    """It says so once, in one line; all rows are as they were, now and in every state of before."""
    data = {path: path.read_bytes() for path in old.rglob("*.parquet")}
    said = invoke("status", "-a", str(old)).stderr
    listed = ", ".join(CHANGED)
    assert (
        said
        == f"archive {old} is of an older reval: its tables {listed} now have the columns added since; no row was changed\n"
    )
    assert invoke("status", "-a", str(old)).stderr == ""
    assert json.loads((old / "reval.json").read_text()) == json.loads(Marker().dump())
    assert {path: path.read_bytes() for path in data} == data
    good = Store(trained.archive)
    for name in OLD_TABLES:
        assert rows(old, name) == rows(trained.archive, name), name
    for (snapshot_id,) in (
        db.connect(good).execute("SELECT snapshot_id FROM snapshots ORDER BY created_at").fetchall()[::5]
    ):
        for name in ("prompts", "trajectories", "responses", "verdicts", "passes"):
            assert rows(old, name, snapshot_id) == rows(trained.archive, name, snapshot_id), (name, snapshot_id)
    assert len(rows(old, "trajectories", trained.first)) == 48
    connection = db.connect(Store(old))
    for name, columns in NEW_COLUMNS.items():
        for column in columns:
            assert connection.execute(f'SELECT count(*), count("{column}") FROM "{name}"').fetchone()[1] == 0
    for name in NEW_TABLES:
        assert connection.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (0,)
    assert "whole" in invoke("check", "-a", str(old)).stdout
    assert "again" in invoke("snapshots", "-a", str(old)).stdout


def test_new_rows_stand_beside_old_ones(old) -> None:
    """With null where 0.1 allowed none, and a value where it had no column; read, merged and diffed together."""
    store = Store(old)
    first = {
        name: db.connect(store).sql(f"SELECT * FROM {name} ORDER BY trajectory_id LIMIT 1").to_arrow_table()
        for name in ("trajectories", "responses")
    }
    (row,) = first["trajectories"].to_pylist()
    named = {**row, "trajectory_id": "new", "temperature": None, "n_prompt_tokens": None, "import_id": "i", "line": 7}
    (wide,) = first["responses"].to_pylist()
    text = {
        **wide,
        "trajectory_id": "new",
        "prompt_token_ids": None,
        "response_token_ids": None,
        "behaviour_logprobs": None,
    }
    store.write(
        "new",
        {
            "responses": pa.Table.from_pylist([text], TABLES["responses"].schema),
            "trajectories": pa.Table.from_pylist([named], TABLES["trajectories"].schema),
        },
    )
    versions.tag(store, "now", "begun")

    def seen() -> list[tuple]:
        query = "SELECT count(*), count(line), sum(line), count(temperature) FROM trajectories JOIN responses USING (trajectory_id)"
        return db.connect(Store(old)).execute(query).fetchall()

    assert seen() == [(97, 1, 7, 96)]
    columns = ["trajectory_id", "response_token_ids"]
    found = fetch(store, ["new", row["trajectory_id"], "new"], columns)
    assert found["response_token_ids"].to_pylist() == [None, wide["response_token_ids"], None]
    list(compaction.compact(Store(old)))
    assert seen() == [(97, 1, 7, 96)]
    assert fetch(Store(old), ["new", row["trajectory_id"], "new"], columns).equals(found)
    assert len(rows(old, "trajectories", "begun")) == 96, "a label on the newest snapshot, which was before"


def test_shards_of_before_stay_committed(old) -> None:
    store = Store(old)
    for name in OLD_TABLES:
        assert store.committed(f"{name}/0", name)
        assert store.recover(f"{name}/0", (name,))


def test_a_migration_that_was_cut_off_is_finished(old, monkeypatch) -> None:
    real, done = DeltaTable.alter, []

    def dying(self):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real.fget(self)

    monkeypatch.setattr(DeltaTable, "alter", property(dying))
    with pytest.raises(KeyboardInterrupt):
        Store(old)
    monkeypatch.undo()
    assert json.loads((old / "reval.json").read_text()) == {"format": 1}
    Store(old)
    assert "whole" in invoke("check", "-a", str(old)).stdout


def test_two_processes_open_it_at_once(old) -> None:
    """One of them migrates, the other finds it done: every table got its columns once."""
    script = "import logging, sys; logging.basicConfig(); from pipeline.store import Store; sys.stdin.read(); Store(sys.argv[1])"
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(old)], env=environment(old.parent), **pipes) for _ in range(2)
    ]
    for process in both:
        process.stdin.close()
    said = [process.stderr.read() for process in both]
    assert [process.wait() for process in both] == [0, 0], said
    assert sum("of an older reval" in words for words in said) == 1, said
    actions = [
        json.loads(line)
        for path in sorted((old / "trajectories" / "_delta_log").glob("*.json"))
        for line in path.read_text().splitlines()
    ]
    schemas = [json.loads(action["metaData"]["schemaString"]) for action in actions if "metaData" in action]
    names = [field["name"] for field in schemas[-1]["fields"]]
    assert sorted(names) == sorted(column.name for column in TABLES["trajectories"].columns)
    assert "whole" in invoke("check", "-a", str(old)).stdout


NEWER = [
    (
        {"format": 2, "readable_since": "1.4.0"},
        r"has format 2: it was written by a newer reval than this \S+; it needs reval 1.4.0",
    ),
    (
        {"format": 1, "readable_since": "0.9.0", "tables": {"verdicts": 9}},
        "has table verdicts version 9: .* it needs reval 0.9.0",
    ),
    (
        {"format": 1, "readable_since": "0.9.0", "tables": {"dreams": 1}},
        "has table dreams version 1: .* it needs reval 0.9.0",
    ),
    ({"format": 3}, "it needs a newer one$"),
]


@pytest.mark.parametrize(("content", "words"), NEWER)
def test_a_newer_one_is_refused_with_what_it_needs(tmp_path, content, words) -> None:
    store = Store.create(tmp_path / "archive")
    marker = store.layout.local / "reval.json"
    marker.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        Store(tmp_path / "archive")
    refused("status", "-a", str(tmp_path / "archive"))
    assert marker.read_text() == json.dumps(content)


def test_references_of_before_are_of_float32(old) -> None:
    """They serve passes in float32 and no others, and a row beside one of them that says float32 is the same row twice."""
    store = Store(old)
    query = "SELECT reference_id FROM passes WHERE pass_id = 'arithmetic-0002'"
    where = {"pass_id": "arithmetic-0002", "reference_id": db.connect(store).execute(query).fetchone()[0]}
    drawn = len(db.query(store, "pass_references", **where, precision="float32"))
    assert drawn > 0
    of_run = {**where, "run_id": "arithmetic", "iteration": 2}
    assert len(db.query(store, "unreferenced", **of_run, precision="float32")) == 0
    assert len(db.query(store, "pass_references", **where, precision="bfloat16")) == 0
    assert len(db.query(store, "unreferenced", **of_run, precision="bfloat16")) == drawn
    assert len(db.query(store, "lost_references")) == 0
    columns = "* REPLACE ('%s' AS precision) FROM \"references\" ORDER BY trajectory_id, reference_id LIMIT 1"
    for precision in ("bfloat16", "float32"):
        store.write(precision, {"references": db.connect(store).sql(f"SELECT {columns % precision}").to_arrow_table()})
    out = invoke("check", "-a", str(old), code=1).stdout
    (line,) = (line for line in out.splitlines() if "references_have_unique_keys" in line)
    assert re.search(r"\w+/\S+/float32: there 2 times$", line), line


@pytest.mark.usefixtures("warm")
def test_a_pass_of_before_is_drawn_again_as_it_was(old) -> None:
    """Deviations and how rows were put together were not recorded: the first is not compared, the second was padded."""
    found = repeat(Store(old), "arithmetic-0002")
    assert found.n_draws == found.n_draws_equal == 128


def test_an_old_archive_is_drawn_from_like_a_new_one(trained, old) -> None:
    """Its log has no ranges and its verdicts no iterations: every file is read, and the same rows come out."""
    config = recipes.load("arithmetic", {**trained.settings, "replay.rule": "fresh_priority"})
    found = []
    for root in (trained.archive, old):
        store = Store(root)
        base = db.connect(store).execute("SELECT base_policy_id FROM runs WHERE run_id = 'arithmetic'").fetchone()[0]
        where = draws.scope(config, "iterate", "arithmetic", 2, store.versions(), base, "arithmetic-0001")
        found.append(draws.rows(store, where, config.replay, "x", 2).to_pylist())
    assert found[0] == found[1]
    assert len(found[0]) == 128
