"""States by name: the meaning of a name, commands at a state, differences between two states; repeating a pass."""

import pyarrow as pa
import pytest

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.stages import draw as replay
from pipeline.upkeep.repeat import repeat
from schemas import TABLES, UserError
from tests.helpers.archives import edit
from tests.helpers.command import invoke, refused
from tests.helpers.runs import open_run

AFTER_FIRST = {"trajectories": 48, "verdicts": 48, "passes": 1, "prompts": 450, "draws": 128}


def counts(store: Store, at: str | None) -> dict[str, int]:
    connection = db.connect(store, versions.resolve(store, at).versions)
    return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in AFTER_FIRST}


def test_a_state_has_an_id_labels_and_times(trained, archive) -> None:
    """The same state under each of its names; a time means the last snapshot made until then, in UTC unless it says."""
    store = Store(archive)
    assert versions.tag(store, trained.first, "good") == trained.first
    made = "SELECT created_at FROM snapshots WHERE snapshot_id = $1"
    (moment,) = db.connect(store).execute(made, [trained.first]).fetchone()
    names = [trained.first, "good", moment.isoformat(), moment.astimezone().isoformat()]
    names.append(moment.astimezone(versions.UTC).replace(tzinfo=None).isoformat())
    for name in names:
        assert versions.resolve(store, name).snapshot_id == trained.first, name
        assert counts(store, name) == AFTER_FIRST
    for name in (None, "now", "9999-01-01"):
        assert counts(store, name) == {**AFTER_FIRST, "trajectories": 96, "verdicts": 96, "passes": 3, "draws": 376}
    assert versions.resolve(store, "now").snapshot_id is None
    with pytest.raises(UserError, match=r"^--at 1999-12-31: the archive's first snapshot is younger"):
        versions.resolve(store, "1999-12-31")


def test_tables_that_have_not_changed_since_are_not_opened(archive, monkeypatch) -> None:
    """To check that a state can still be read. Opening a table takes most of the time of a small query."""
    (newest,) = db.query(Store(archive), "newest_snapshot")["snapshot_id"].to_pylist()
    opened, real = [], Store.at
    monkeypatch.setattr(Store, "at", lambda self, name, *version: opened.append(name) or real(self, name, *version))
    store = Store(archive)
    versions.resolve(store, newest)
    assert set(opened) == {"snapshots", "labels"}
    store.write("more", {"verdicts": db.connect(store).sql("SELECT * FROM verdicts LIMIT 1").to_arrow_table()})
    opened.clear()
    versions.resolve(Store(archive), newest)
    assert set(opened) == {"snapshots", "labels", "verdicts"}


def test_a_label_names_one_snapshot_for_ever(trained, archive) -> None:
    where = ("--archive", str(archive))
    assert invoke("tag", trained.first, "good", *where).stdout == f"good is snapshot {trained.first}\n"
    invoke("tag", trained.first, "good", *where)
    invoke("tag", "good", "again", *where)
    newest = invoke("tag", "now", "latest", *where).stdout.split()[-1]
    labels = db.connect(Store(archive)).execute("SELECT label, snapshot_id FROM labels ORDER BY 1").fetchall()
    assert labels == [("again", trained.first), ("good", trained.first), ("latest", newest)]
    assert newest not in ("now", trained.first)
    taken = refused("tag", newest, "good", *where)
    assert taken == f"reval: label 'good' is taken: it names snapshot {trained.first}; choose another"
    assert db.connect(Store(archive)).execute("SELECT label, snapshot_id FROM labels ORDER BY 1").fetchall() == labels


def test_a_label_is_never_taken_for_something_else(trained, archive) -> None:
    """`all`, `labelled` and numbers mean something else to `vacuum --keep-snapshots`."""
    for label in ("", "Good", "a b", "../x", "now", "2026-11-22", "2026-11-22t18", "all", "labelled", "3"):
        line = refused("tag", trained.first, label, "-a", str(archive))
        assert "choose another" in line or "use lower-case" in line, label
        assert db.connect(Store(archive)).execute("SELECT count(*) FROM labels").fetchone() == (0,), label


def test_sql_and_status_answer_as_it_was(trained, archive) -> None:
    where = ("--archive", str(archive), "--at", trained.first)
    out = invoke("sql", "--format", "csv", "SELECT count(*) AS n, max(iteration) AS last FROM rollouts", *where).stdout
    assert out.split() == ["n,last", "48,1"]
    status = invoke("status", *where).stdout
    assert "arithmetic-0001" in status
    assert "arithmetic-0002" not in status
    rows = {line.split()[0]: line.split()[1] for line in status.splitlines() if len(line.split()) == 2}
    assert {name: int(rows[name]) for name in AFTER_FIRST} == AFTER_FIRST


def test_snapshots_say_what_was_added(trained, archive) -> None:
    """Counts from one snapshot to the next; over all snapshots every row is counted once."""
    store = Store(archive)
    listed = db.query(store, "snapshots_listed", n=None).to_pylist()
    total: dict[str, int] = {}
    for row in listed:
        for part in filter(None, row["rows_added"].split(", ")):
            name, n = part.split(" +")
            total[name] = total.get(name, 0) + int(n)
    connection = db.connect(store)
    held = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in TABLES}
    held.pop("snapshots")
    assert total == {name: n for name, n in held.items() if n}
    assert [row["rows_added"] for row in listed if row["snapshot_id"] == trained.first] == [""]
    assert {row["rows_added"] for row in listed if row["stage"] == "score"} == {"verdicts +48"}
    versions.tag(store, trained.first, "good")
    out = invoke("snapshots", "--last", "21", "-a", str(archive)).stdout.splitlines()
    assert len(out) == 22
    assert sum("good" in line for line in out) == 1
    assert len(invoke("snapshots", "-n", "2", "-a", str(archive)).stdout.splitlines()) == 3


def retrain(trained, archive, at, **how):
    settings = recipes.load("arithmetic", trained.settings, iterations=2, defaults=recipes.RETRAIN)
    return open_run("retrain", settings, archive, at=at, **how)


@pytest.mark.usefixtures("warm")
def test_a_retraining_draws_from_the_state_it_was_given(trained, archive) -> None:
    store = Store(archive)
    versions.tag(store, trained.first, "good")
    with retrain(trained, archive, "good", name="pinned") as run:
        replay.draw(run, 1)
        assert run.snapshot_id(1) == run.snapshot_id(2) == trained.first
    seen = (
        "SELECT max(t.iteration), count(DISTINCT t.trajectory_id) FROM draws d JOIN trajectories t USING (trajectory_id)"
    )
    drawn = db.connect(store).execute(f"{seen} WHERE d.pass_id = 'pinned-0001'").fetchone()
    assert drawn == (1, 48)
    with retrain(trained, archive, None, name="all") as run:
        replay.draw(run, 1)
    assert db.connect(store).execute(f"{seen} WHERE d.pass_id = 'all-0001'").fetchone() > (2, 48)
    # Under its name it continues from the state where it began, given by any name, and from no other state.
    for same in ("good", trained.first, None):
        with retrain(trained, archive, same, name="pinned") as run:
            assert run.snapshot_id(2) == trained.first
    other = db.query(store, "newest_snapshot")["snapshot_id"][0].as_py()
    words = f"run pinned: snapshot {trained.first} → {other} since it began; choose another run name"
    with pytest.raises(UserError, match=words), retrain(trained, archive, other, name="pinned"):
        pass
    # Without a name, the unfinished run of this state.
    with retrain(trained, archive, "good") as run:
        assert run.run_id == "pinned"


def altered(source: Store, folder, name: str, change) -> Store:
    """Another archive with the same rows in every table, but those of one table changed."""
    other, connection = Store.create(folder), db.connect(source)
    for table in TABLES:
        rows = connection.sql(f'SELECT * FROM "{table}"').to_arrow_table()
        other.write(f"copy/{table}", {table: change(rows) if table == name else rows})
    return other


def test_diff_finds_what_was_added_and_what_has_another_value(trained, archive, tmp_path) -> None:
    store = Store(archive)
    where = ("-a", str(archive))
    assert invoke("diff", "now", *where).stdout.splitlines()[-1] == "equal"
    invoke("tag", trained.first, "good", *where)  # a label does not make another state
    assert invoke("diff", "good", trained.first, *where).stdout.splitlines()[-1] == "equal"

    out = invoke("diff", "good", *where, code=1).stdout.splitlines()
    assert out[-1] == "different"
    found = {line.split()[0]: tuple(map(int, line.split()[1:])) for line in out[1:-1]}
    assert set(found) == {*TABLES} - {"snapshots", "labels"}
    assert found["trajectories"] == (48, 0, 48, 0)
    assert found["draws"] == (128, 0, 248, 0)
    assert found["prompts"] == (450, 0, 0, 0)
    assert invoke("diff", "now", "good", *where, code=1).stdout.splitlines()[0] == out[0]

    # The same rows in other files are equal; one other number in one row is one row changed.
    same = altered(store, tmp_path / "same", "", None)
    assert invoke("diff", "now", f"{same.layout.root}@now", *where).stdout.splitlines()[-1] == "equal"

    def nudged(rows: pa.Table) -> pa.Table:
        values = rows["ref_value"].to_pylist()
        values[7] += 1e-12
        return rows.set_column(rows.column_names.index("ref_value"), "ref_value", pa.array(values))

    other = altered(store, tmp_path / "other", "references", nudged)
    out = invoke("diff", f"{other.layout.root}@now", *where, code=1).stdout.splitlines()
    found = {line.split()[0]: tuple(map(int, line.split()[1:])) for line in out[1:-1]}
    n = db.connect(store).execute('SELECT count(*) FROM "references"').fetchone()[0]
    assert found.pop("references") == (n - 1, 0, 0, 1)
    assert all(row[1:] == (0, 0, 0) for row in found.values())


@pytest.mark.usefixtures("warm")
def test_a_pass_again_is_the_same_bit_for_bit(archive) -> None:
    """The first and a later pass of a run and of a retraining. Repeating adds no rows and leaves no files."""
    before = sorted(path for path in archive.rglob("*") if "scratch" not in path.parts)
    for pass_id in ("arithmetic-0001", "arithmetic-0002", "again-0001"):
        found = repeat(Store(archive), pass_id)
        assert found.equal
        assert found.weights_equal
        assert found.n_draws == found.n_draws_equal == (120 if pass_id == "again-0001" else 128)
        assert found.max_residual_gap == 0
    assert not list((archive / "scratch").rglob("*.parquet"))
    assert sorted(path for path in archive.rglob("*") if "scratch" not in path.parts) == before
    out = invoke("repeat", "arithmetic-0002", "-a", str(archive)).stdout
    assert "128 of 128 draws the same; weights the same, bit for bit; residuals at most 0 nats apart" in out


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("draws", "trajectory_id", None), ("draws", "deviation", 7.0), ("policies", "weights_digest", "0" * 64)],
    ids=["a rollout", "a deviation", "weights"],
)
def test_a_pass_that_is_not_what_it_says_is_found_out(archive, table, column, value) -> None:
    """In one place of the second pass there is another rollout (None: the next one's) or deviation; or the recorded
    weights are not those that training made. The objective `reval` does not use the deviation: it trains the same."""

    def change(rows: pa.Table) -> pa.Table:
        values = rows[column].to_pylist()
        values[0] = values[1] if value is None else value
        return rows.set_column(rows.column_names.index(column), column, pa.array(values))

    store = Store(archive)
    edit(store, table, lambda rows: change(rows) if "arithmetic-0002" in rows["pass_id"].to_pylist() else rows)
    out = invoke("repeat", "arithmetic-0002", "-a", str(archive), code=1).stdout
    if column == "deviation":
        assert "127 of 128 draws the same; weights the same, bit for bit; residuals at most 0 nats apart" in out
    elif column == "trajectory_id":
        assert "127 of 128 draws the same; weights not the same" in out
        assert "at most 0 nats" not in out
    else:
        assert "128 of 128 draws the same; weights not the same; residuals at most 0 nats apart" in out


MISTAKES = [
    (("sql", "SELECT 1", "--at", "nope"), "snapshot 'nope' is not in the archive, nor is it a label or a time"),
    (("status", "--at", "2026-99-99"), "snapshot '2026-99-99' is not in the archive"),
    (("check", "--at", "1999-01-01"), "first snapshot is younger"),
    (("check", "--at", "now", "--repair"), "--repair mends the archive as it is now"),
    (("retrain", "--at", "nope"), "snapshot 'nope'"),
    (("diff", "nope"), "snapshot 'nope'"),
    (("diff", "now", "elsewhere@now"), "does not exist"),
    (("tag", "nope", "label"), "snapshot 'nope'"),
    (("repeat", "nope"), "pass 'nope' is not in the archive"),
    (("vacuum", "--keep-snapshots", "nope"), "snapshot 'nope'"),
    (("vacuum", "--keep-snapshots", ""), "snapshot ''"),
]


def test_mistakes(trained) -> None:
    before = Store(trained.archive).versions()
    for words, message in MISTAKES:
        assert message in refused(*words, "--archive", str(trained.archive)), words
        assert Store(trained.archive).versions() == before, words


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("gone", ["weights/arithmetic-0001", "optimizer/arithmetic-0001.safetensors", "updates"])
def test_a_pass_whose_ground_is_gone_says_so(archive, gone) -> None:
    if gone == "updates":
        store = Store(archive)
        for path in store.shards("updates"):
            store.replace("updates", [path], [])
    else:
        (archive / gone).rename(archive / "elsewhere")
    assert "arithmetic-000" in refused("repeat", "arithmetic-0002", "-a", str(archive))
