"""Fewer files with the same answers, and less disk with every kept state intact."""

import threading
import time
from functools import partial

import pyarrow as pa
import pytest

from pipeline.archive.layout import shard_file
from pipeline.archive.parquet import write_parquet
from pipeline.archive.store import NAMES, Store
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.upkeep import compaction
from pipeline.upkeep.repeat import repeat
from schemas import TABLES, UserError
from tests.helpers.command import invoke, refused

DATA = [name for name in TABLES if name not in NAMES]


def answers(store: Store, at: str | None = None) -> dict[str, list]:
    """All rows of every table and view except names of states, in a fixed order."""
    connection = db.connect(store, versions.resolve(store, at).versions)
    found = {}
    for name in (*DATA, *db.VIEWS):
        rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
        found[name] = sorted(rows, key=repr)
    # An iteration's wall time is read from the names of states, which are always the newest.
    found["progress"] = [row[:-7] for row in found["progress"]]
    return found


def equal(a: Store, at_a: str | None, b: Store, at_b: str | None) -> bool:
    found = list(versions.diff(a, versions.resolve(a, at_a), b, versions.resolve(b, at_b)))
    assert [row.table for row in found] == DATA
    return all(row.equal for row in found)


def verdicts(store: Store, *names: str) -> pa.Table:
    row = db.connect(store).sql("SELECT * FROM verdicts ORDER BY ALL LIMIT 1").to_arrow_table().to_pylist()[0]
    return pa.Table.from_pylist([{**row, "trajectory_id": name} for name in names], TABLES["verdicts"].schema)


@pytest.mark.usefixtures("warm")
def test_merging_changes_no_answer(trained, archive) -> None:
    """Answers now, at every snapshot, of a repeated pass, and about the shards there are."""
    before, good = answers(Store(trained.archive)), Store(trained.archive)
    shards = {name: set(good.transactions(name)) for name in TABLES}
    states = db.connect(good).execute("SELECT snapshot_id FROM snapshots ORDER BY created_at").fetchall()
    out = invoke("compact", "-a", str(archive)).stdout
    assert "verdicts: 2 files merged into 1" in out
    store = Store(archive)
    assert {name: len(store.shards(name)) for name in DATA if good.shards(name)} == dict.fromkeys(
        (name for name in DATA if good.shards(name)), 1
    )
    assert answers(store) == before
    assert equal(good, None, store, None)
    for (snapshot_id,) in states[::6]:
        assert equal(good, snapshot_id, store, snapshot_id)
    first = answers(store, trained.first)
    assert first == answers(good, trained.first)
    assert len(first["trajectories"]) == 48
    for name in TABLES:
        assert all(store.committed(shard, name) for shard in shards[name])
    assert store.recover("arithmetic/1/generate/shard-0", ("engine_checks", "responses", "trajectories"))
    assert repeat(store, "arithmetic-0002").equal
    assert repeat(store, "again-0001").equal
    assert "whole" in invoke("check", "-a", str(archive)).stdout


def test_merging_again_finds_nothing_to_do(archive) -> None:
    invoke("compact", "-a", str(archive))
    state = {name: set(Store(archive).shards(name)) for name in DATA}
    assert not [line for line in invoke("compact", "-a", str(archive)).stdout.splitlines() if "snapshots" not in line]
    assert {name: set(Store(archive).shards(name)) for name in DATA} == state


def test_large_files_are_left_and_groups_are_no_larger_than_they(archive, monkeypatch) -> None:
    """With a target size of three files, at most three are merged at a time, in order."""
    store = Store(archive)
    for n in range(7):
        store.write(f"more/{n}", {"verdicts": verdicts(store, f"t{n}")})
    sizes = store.shards("verdicts")
    monkeypatch.setattr(compaction, "TARGET_BYTES", 3 * max(sizes.values()))
    groups = list(compaction._groups(store.logged("verdicts")))
    in_order = sorted(sizes, key=lambda path: (store.logged("verdicts")[path].least, path))  # neighbours stay neighbours
    assert [path for group in groups for path in group] == in_order[: sum(map(len, groups))]
    assert all(sum(sizes[path] for path in group) <= 3 * max(sizes.values()) for group in groups)
    before = answers(store)
    assert any("verdicts" in line for line in compaction.compact(store))
    assert 1 < len(Store(archive).shards("verdicts")) < 9
    assert answers(Store(archive)) == before
    monkeypatch.setattr(compaction, "TARGET_BYTES", 1)
    assert not list(compaction.compact(Store(archive)))


def test_rows_appended_meanwhile_are_kept(archive, monkeypatch) -> None:
    """Every merge finds that another process has added rows since it read the log."""
    store, other, added = Store(archive), Store(archive), []
    real = Store.replace

    def meanwhile(self, name, old, new):
        if name == "verdicts":
            other.write("meanwhile", {"verdicts": verdicts(other, "meanwhile")})
            added.append(name)
        return real(self, name, old, new)

    before = answers(store)
    monkeypatch.setattr(Store, "replace", meanwhile)
    assert "verdicts: 2 files merged into 1" in list(compaction.compact(store))
    assert added
    after = answers(Store(archive))
    (new,) = set(after["verdicts"]) - set(before["verdicts"])
    assert new[0] == "meanwhile"
    assert len(after["verdicts"]) == len(before["verdicts"]) + 1
    assert len(Store(archive).shards("verdicts")) == 2


def test_two_merges_at_once_double_nothing(archive, monkeypatch) -> None:
    """Both read the same files; the second tries to commit on an outdated state, and gives up."""
    store, other = Store(archive), Store(archive)
    before = answers(store)
    old = list(store.shards("verdicts"))
    other._table("verdicts")
    assert compaction._merge(store, "verdicts", old)
    monkeypatch.setattr(other._tables["verdicts"].__class__, "update_incremental", lambda self: None)  # a stale handle
    assert not compaction._merge(other, "verdicts", old)
    monkeypatch.undo()
    assert answers(Store(archive)) == before
    assert not compaction._merge(Store(archive), "verdicts", old), "nor does one that knows"
    assert len(Store(archive).shards("verdicts")) == 1
    assert "whole" in invoke("check", "-a", str(archive)).stdout


def test_merges_and_writers_in_parallel(archive) -> None:
    """Two threads merge as fast as they can while four append: every row is there once."""
    base = Store(archive)
    rows = {f"{writer}-{n}": verdicts(base, f"{writer}-{n}") for writer in range(4) for n in range(5)}
    failed: list[BaseException] = []
    done = threading.Event()

    def guarded(work, *how) -> None:
        try:
            work(*how)
        except BaseException as error:
            failed.append(error)

    def write(writer: int) -> None:
        store = Store(archive)
        for n in range(5):
            store.write(f"p/{writer}/{n}", {"verdicts": rows[f"{writer}-{n}"]})

    def merge() -> None:
        while not done.is_set():
            list(compaction.compact(Store(archive)))

    before = len(answers(base)["verdicts"])
    writers = [threading.Thread(target=guarded, args=(write, n)) for n in range(4)]
    mergers = [threading.Thread(target=guarded, args=(merge,)) for _ in range(2)]
    for thread in (*writers, *mergers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in mergers:
        thread.join()
    assert failed == []
    found = [row[0] for row in answers(Store(archive))["verdicts"]]
    assert len(found) == before + 20
    assert set(rows) <= set(found)


def test_vacuum_says_what_it_frees_and_frees_that(trained, archive) -> None:
    """It frees only files that merging left, and of these only files that no kept state needs."""
    invoke("compact", "-a", str(archive))
    size = sum(path.stat().st_size for path in archive.rglob("part-*.parquet"))
    store = Store(archive)
    everything = compaction.plan_vacuum(store, "all")
    assert {path.split("/")[0] for path in everything.files} == {"snapshots"}, "they are only read as they are now"
    assert everything.lost == []
    versions.tag(store, trained.first, "good")
    (newest,) = db.query(store, "newest_snapshot")["snapshot_id"].to_pylist()
    plan = compaction.plan_vacuum(store, f"good,{newest}")
    kept = {path for name in TABLES for path in store.shards(name)}
    kept |= {p for name, n in versions.resolve(store, "good").versions.items() for p in store.shards(name, n)}
    there = {path for name in TABLES for path in store.files.listing(name) if "_delta_log" not in path}
    assert set(plan.files) == there - kept
    assert plan.kept == 2
    assert plan.files

    # Without a terminal and without --yes it only says what it would do.
    words = ("vacuum", "--keep-snapshots", "good,now", "-a", str(archive))
    done = invoke(*words, code=2)
    assert done.stderr == "reval: vacuum: nothing was deleted; run it again with --yes\n"
    assert "snapshots will no longer be readable, 1 of them pinned by a training pass" in done.stdout
    assert {path for name in TABLES for path in store.files.listing(name) if "_delta_log" not in path} == there

    before, first = answers(store), answers(store, "good")
    out = invoke(*words, "--yes").stdout
    left = sum(path.stat().st_size for path in archive.rglob("part-*.parquet"))
    assert f"freed {(size - left) / 1e6:,.1f} MB" in out
    assert {path for name in TABLES for path in Store(archive).files.listing(name) if "_delta_log" not in path} == kept
    assert answers(Store(archive)) == before
    assert answers(Store(archive), "good") == first
    assert "whole" in invoke("check", "-a", str(archive)).stdout
    assert "whole" in invoke("check", "--at", "good", "-a", str(archive)).stdout


@pytest.mark.usefixtures("warm")
def test_a_state_that_was_vacuumed_is_refused_in_one_line(trained, archive) -> None:
    store = Store(archive)
    versions.tag(store, trained.first, "good")
    (lost,) = (
        db.connect(store)
        .execute("SELECT snapshot_id FROM snapshots WHERE run_id = 'arithmetic' AND stage = 'score' AND iteration = 2")
        .fetchone()
    )
    invoke("compact", "-a", str(archive))
    invoke("vacuum", "--keep-snapshots", "labelled", "--yes", "-a", str(archive))
    where = ("-a", str(archive))
    for words in (("sql", "SELECT 1", "--at", lost), ("status", "--at", lost), ("diff", lost), ("check", "--at", lost)):
        assert f"snapshot {lost}: " in (line := refused(*words, *where))
        assert "vacuum" in line
    assert f"snapshot {lost}: " in refused("repeat", "arithmetic-0002", *where)
    assert "whole" in invoke("check", *where).stdout
    assert (
        invoke("sql", "--format", "csv", "SELECT count(*) AS n FROM verdicts", "--at", "good", *where).stdout == "n\n48\n"
    )
    # Its name can still be asked for, and a label on it too; the archive as it is now is untouched.
    assert len(invoke("snapshots", *where).stdout.splitlines()) == 23
    assert equal(store, None, Store(trained.archive), None)


@pytest.mark.parametrize(("keep", "n_kept"), [("labelled", 1), ("3", 3), ("0", 0), ("1000", 22)])
def test_which_snapshots_are_kept(trained, archive, keep, n_kept) -> None:
    store = Store(archive)
    versions.tag(store, trained.first, "good")
    invoke("compact", "-a", str(archive))
    plan = compaction.plan_vacuum(Store(archive), keep)
    assert plan.kept == n_kept
    compaction.vacuum(Store(archive), plan)
    states = [row["snapshot_id"] for row in db.query(store, "snapshots_kept").to_pylist()]
    assert not {*plan.lost} & {*([trained.first] if keep == "labelled" else states[len(states) - n_kept :])}
    store = Store(archive)
    for snapshot_id in plan.lost:
        with pytest.raises(UserError, match="can no longer be read"):
            versions.resolve(store, snapshot_id)
    readable = [snapshot_id for snapshot_id in states if snapshot_id not in plan.lost]
    assert len(readable) >= n_kept
    for snapshot_id in readable:
        versions.resolve(store, snapshot_id)
    if readable:
        assert answers(store, readable[0]) == answers(Store(trained.archive), readable[0])


def test_files_that_are_about_to_be_committed_are_not_vacuumed(archive) -> None:
    """A shard's file is in its table's folder a moment before the log names it."""
    store = Store(archive)
    rows = verdicts(store, "soon")
    store.files.make(shard_file("soon", "verdicts"), partial(write_parquet, rows, "verdicts"))
    invoke("compact", "-a", str(archive))
    invoke("vacuum", "--keep-snapshots", "0", "--yes", "-a", str(archive))
    assert Store(archive).recover("soon", ("verdicts",))
    assert "soon" in [row[0] for row in answers(Store(archive))["verdicts"]]


def test_what_was_merged_long_ago_is_freed_too(archive) -> None:
    """Delta forgets what it removed a week ago at its next checkpoint; our plan does not."""
    now = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.archive.store.time.time", lambda: now - 30 * 86400)
        invoke("compact", "-a", str(archive))
    store = Store(archive)
    for n in range(26):  # past a checkpoint
        store.write(f"more/{n}", {"verdicts": verdicts(store, f"t{n}")})
    plan = compaction.plan_vacuum(Store(archive), "0")
    old = [path for path in plan.files if path.startswith("verdicts/")]
    assert len(old) == 2
    freed = compaction.vacuum(Store(archive), plan)
    assert not [path for path in plan.files if (archive / path).exists()]
    assert freed == sum(plan.files.values())
