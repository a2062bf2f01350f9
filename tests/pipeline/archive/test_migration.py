"""An archive of an older version gets what was added since and keeps every row and state; others are refused.

The newer version is made up: today's tables with three changes, one of each possible kind.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.archive.marker import Marker
from pipeline.archive.store import Store
from pipeline.exchange import import_archive
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.query.fetch import fetch
from pipeline.upkeep import compaction
from schemas import TABLES, Column, Table, UserError
from schemas.table import INT, TEXT
from tests.helpers.command import environment, invoke, refused

CHANGED = ("trajectories", "responses", "dreams")


def newer() -> dict[str, Table]:
    """The changes: a new nullable column, a column that may now be null, and a new table."""
    rollouts, responses = TABLES["trajectories"], TABLES["responses"]
    note = Column("note", INT, "A number.", null="made before there were notes")
    texts = [replace(c, null="it was not kept") if c.name == "response_text" else c for c in responses.columns]
    return {
        "trajectories": replace(rollouts, columns=(*rollouts.columns, note), version=rollouts.version + 1),
        "responses": replace(responses, columns=tuple(texts), version=responses.version + 1),
        "dreams": Table("dreams", "One dream.", ("dream_id",), (Column("dream_id", TEXT, "Its name."),)),
    }


@pytest.fixture
def update(monkeypatch):
    """Makes this reval the newer version until the test ends."""

    def update() -> None:
        for name, table in newer().items():
            monkeypatch.setitem(TABLES, name, table)

    return update


def contents(root: Path, at: str | None = None) -> dict[str, list[tuple]]:
    """All rows of today's tables and columns; snapshots without the versions and sizes of other tables."""
    store = Store(root)
    connection = db.connect(store, versions.resolve(store, at).versions)
    found = {}
    for name, table in TABLES.items():
        if name != "dreams":
            listed = ", ".join(f'"{c.name}"' for c in table.columns if c.name != "note")
            rows = connection.execute(f'SELECT {listed} FROM "{name}"').fetchall()
            found[name] = sorted(map(repr, rows))
    return found


def test_what_was_added_is_taken_on_and_no_row_changes(trained, archive, update) -> None:
    """It says so once, in one line. All rows are unchanged, now and in every earlier state, and a run's shards count as
    committed."""
    states = [None, trained.first, *Store(archive).transactions("labels")]
    before = [contents(archive, at) for at in states]
    files = {path: path.read_bytes() for path in archive.rglob("*.parquet")}
    shards = {name: Store(archive).transactions(name) for name in TABLES}
    update()
    assert invoke("status", "-a", str(archive)).stderr == (
        f"archive {archive} is of an older reval: its tables {', '.join(CHANGED)} now have the columns added since; "
        "no row was changed\n"
    )
    assert invoke("status", "-a", str(archive)).stderr == ""
    assert json.loads((archive / "reval.json").read_text()) == json.loads(Marker().dump())
    assert {path: path.read_bytes() for path in files} == files
    assert [contents(archive, at) for at in states] == before
    store = Store(archive)
    assert db.connect(store).execute("SELECT count(*), count(note) FROM trajectories").fetchone() == (96, 0)
    assert db.connect(store).execute("SELECT count(*) FROM dreams").fetchone() == (0,)
    assert all(store.recover(shard, (name,)) for name, names in shards.items() for shard in names)
    assert "whole" in invoke("check", "-a", str(archive)).stdout
    assert "again" in invoke("snapshots", "-a", str(archive)).stdout


def test_new_rows_stand_beside_old_ones(archive, update) -> None:
    """New rows have a null that was not allowed before and a value in a new column; all are read, merged and diffed."""
    store = Store(archive)
    (row,) = db.connect(store).sql("SELECT * FROM trajectories ORDER BY 1 LIMIT 1").to_arrow_table().to_pylist()
    told = fetch(store, [row["trajectory_id"]], ["response_text"]).to_pylist()[0]["response_text"]
    update()
    store = Store(archive)
    response = dict.fromkeys(("response_text", "prompt_token_ids", "response_token_ids", "behaviour_logprobs"))
    text = {"trajectory_id": "new", **response}
    tables = {"responses": text, "trajectories": {**row, "trajectory_id": "new", "note": 7}}
    store.write("new", {name: pa.Table.from_pylist([of], TABLES[name].schema) for name, of in tables.items()})
    versions.tag(store, "now", "begun")

    def seen() -> tuple:
        query = "SELECT count(*), count(note), sum(note), count(response_text) FROM trajectories JOIN responses USING (trajectory_id)"
        found = fetch(Store(archive), ["new", row["trajectory_id"], "new"], ["response_text"])
        return db.connect(Store(archive)).execute(query).fetchone(), found["response_text"].to_pylist()

    assert seen() == ((97, 1, 7, 96), [None, told, None])
    list(compaction.compact(Store(archive)))
    assert seen() == ((97, 1, 7, 96), [None, told, None])
    assert len(contents(archive, "begun")["trajectories"]) == 96, "a label on the newest snapshot, which was before"
    out = invoke("diff", "begun", "now", "-a", str(archive), code=1).stdout
    counts = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert counts["trajectories"] == ["96", "0", "1", "0"]
    assert counts["dreams"] == ["0", "0", "0", "0"]


def test_a_migration_that_was_cut_off_is_finished(archive, update, monkeypatch) -> None:
    marker, real, done = (archive / "reval.json").read_text(), DeltaTable.alter, []

    def dying(self):
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt
        return real.fget(self)

    update()
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "alter", property(dying))
        with pytest.raises(KeyboardInterrupt):
            Store(archive)
    assert (archive / "reval.json").read_text() == marker
    Store(archive)
    assert "whole" in invoke("check", "-a", str(archive)).stdout


def test_two_processes_open_it_at_once(archive, update) -> None:
    """One process migrates, the other finds it done: every table gets its columns once."""
    script = (
        "import logging, sys; logging.basicConfig(); from schemas import TABLES; from pipeline.archive.store import Store; "
        f"from {__name__} import newer; TABLES.update(newer()); sys.stdin.read(); Store(sys.argv[1])"
    )
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", script, str(archive)]
    both = [subprocess.Popen(command, env=environment(archive.parent), **pipes) for _ in range(2)]
    for process in both:
        process.stdin.close()
    said = [process.stderr.read() for process in both]
    assert [process.wait() for process in both] == [0, 0], said
    assert sum("of an older reval" in words for words in said) == 1, said
    update()
    names = [field.name for field in DeltaTable(archive / "trajectories").schema().fields]
    assert sorted(names) == sorted(column.name for column in TABLES["trajectories"].columns)
    assert "whole" in invoke("check", "-a", str(archive)).stdout


def test_an_older_export_comes_in(trained, tmp_path, update) -> None:
    """The columns that it lacks are null. It comes in once, like any export."""
    invoke("export", str(tmp_path / "out"), "-a", str(trained.archive))
    before = contents(trained.archive)
    update()
    where = ("-a", str(tmp_path / "copy"))
    invoke("import", str(tmp_path / "out"), *where)
    after = contents(tmp_path / "copy")
    assert {name: rows for name, rows in after.items() if name != "snapshots"} == {
        name: rows for name, rows in before.items() if name != "snapshots"
    }
    assert db.connect(Store(tmp_path / "copy")).execute("SELECT count(note) FROM trajectories").fetchone() == (0,)
    assert ": 0 rows added, " in invoke("import", str(tmp_path / "out"), *where).stdout


NEWER = "it was written by a newer reval than this {}; it needs reval 9.0.0"
OLDER = "is of a reval before {}, which this {} does not read; write its rollouts to a file with the reval that made it, "
REFUSED = [
    ({"format": 2, "readable_since": "9.0.0"}, "has format 2", NEWER),
    ({"format": 1, "readable_since": "9.0.0", "tables": {"verdicts": 9}}, "has table verdicts version 9", NEWER),
    ({"format": 1, "readable_since": "9.0.0", "tables": {"dreams": 1}}, "has table dreams version 1", NEWER),
    ({"format": 1, "readable_since": "0.5.0", "tables": {"verdicts": 3}}, "of a reval before 0.6.0", OLDER),
    ({"format": 1}, "of a reval before 0.6.0", OLDER),  # as the first version wrote it
]


def test_a_newer_or_a_far_older_one_is_refused_with_what_it_needs(tmp_path) -> None:
    """Every way to open it gives a one-line error and changes nothing; the same for an export."""
    root = tmp_path / "archive"
    Store.create(root)
    invoke("export", str(tmp_path / "out"), "-a", str(root))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    for content, what, way_out in REFUSED:
        (root / "reval.json").write_text(json.dumps(content))
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        words = refused("status", "-a", str(root))
        assert f"archive {root}" in words, content
        assert what in words, content
        assert way_out.partition("{}")[0] in words, content
        with pytest.raises(UserError, match=what):
            Store.create(root)
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before, content
        said = {"tables": {}, "readable_since": "0.1", **content, "export_format": content["format"]}
        said.pop("format")
        (tmp_path / "out" / "manifest.json").write_text(json.dumps({**manifest, **said}))
        with pytest.raises(UserError, match=what):
            import_archive.read_manifest(tmp_path / "out")
