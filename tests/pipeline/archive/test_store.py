"""A shard is committed once or not at all, at whatever point its writer dies."""

import pytest
from deltalake import DeltaTable

from pipeline.archive.folder import Folder
from pipeline.archive.materialise import Shard, commit, materialise
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.upkeep import check
from schemas import SchemaError, UserError
from tests.helpers.archives import references, verdicts


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(tmp_path / "archive")


def names(store: Store, table: str) -> list[str]:
    return [name for (name,) in db.connect(store).execute(f'SELECT trajectory_id FROM "{table}" ORDER BY 1').fetchall()]


def test_a_shard_is_committed_once(store) -> None:
    for _ in range(3):
        if not store.recover("one", ("references",)):
            store.write("one", {"references": references("a", "b")})
    assert names(store, "references") == ["a", "b"]
    assert store.versions()["references"] == 1


@pytest.mark.parametrize("commits_before_death", [0, 1])
def test_death_between_commits_is_finished_from_the_files(store, monkeypatch, commits_before_death) -> None:
    """Both files are on disk and the first table may show its rows, so the rest must be the same rows, not new ones."""
    real = DeltaTable.create_write_transaction
    done = []

    def dying(*args, **kwargs):
        if len(done) == commits_before_death:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", dying)
    with pytest.raises(KeyboardInterrupt):
        store.write("x/s", {"references": references("a"), "verdicts": verdicts("a")})
    monkeypatch.undo()
    assert names(store, "verdicts") == []
    again = Store(store.layout.root)
    computed = []
    shard = Shard("s", ("references", "verdicts"), lambda: computed.append(1) or {})
    commit(again, "x", [shard])
    assert names(again, "references") == names(again, "verdicts") == ["a"]
    assert computed == []


def test_death_before_the_last_file_shows_nothing_and_is_made_anew(store, monkeypatch) -> None:
    real = Folder.make

    def dying(self, path, write):
        if "verdicts" in path:
            raise KeyboardInterrupt
        real(self, path, write)

    monkeypatch.setattr(Folder, "make", dying)
    with pytest.raises(KeyboardInterrupt):
        store.write("s", {"references": references("old"), "verdicts": verdicts("old")})
    monkeypatch.undo()
    assert not store.recover("s", ("references", "verdicts"))
    assert names(store, "references") == []
    store.write("s", {"references": references("new"), "verdicts": verdicts("new")})
    assert names(store, "references") == names(store, "verdicts") == ["new"]


def test_rows_that_do_not_fit_leave_nothing(store) -> None:
    with pytest.raises(SchemaError):
        store.write("s", {"references": references("a"), "verdicts": references("a")})
    assert not list(store.layout.local.joinpath("references").glob("*.parquet"))


def test_materialise_makes_only_what_is_missing(store) -> None:
    made = []

    def plan(shards):
        def compute(name):
            made.append(name)
            return {"references": references(name)}

        return lambda: [Shard(name, ("references",), lambda name=name: compute(name)) for name in shards]

    def failing():
        yield from plan("ab")()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialise(store, "run", 1, "reference", failing)
    materialise(store, "run", 1, "reference", plan("abc"))
    materialise(store, "run", 1, "reference", plan("abcd"))  # the stage has ended: it is not planned again
    assert made == ["a", "b", "c"]
    assert names(store, "references") == ["a", "b", "c"]
    ended = db.connect(store).execute("SELECT stage, run_id, iteration, seconds FROM snapshots").fetchall()
    assert ended == [("reference", "run", 1, None)], "it did not run in one go"


def test_a_snapshot_keeps_answering(store) -> None:
    store.write("one", {"references": references("a")})
    then = store.snapshot("first", "test")
    at_then = versions.resolve(store, then).versions
    store.write("two", {"references": references("b")})
    assert store.snapshot("first", "test") == then, "a name stands for one state for ever"
    count = 'SELECT count(*) AS n FROM "references"'
    assert db.ask(store, count, at_then).read_all()["n"].to_pylist() == [1]
    assert db.ask(store, count).read_all()["n"].to_pylist() == [2]
    with pytest.raises(UserError, match="snapshot 'nope' is not in the archive"):
        versions.resolve(store, "nope")


def test_other_readers_see_ordinary_delta_tables(store) -> None:
    import polars as pl

    store.write("one", {"references": references("a")})
    assert pl.scan_delta(f"{store.layout.root}/references").collect()["trajectory_id"].to_list() == ["a"]


def test_what_is_not_an_archive_is_refused_and_left_alone(tmp_path) -> None:
    """Archives of other versions: test_migration.py."""
    for n, (marker, words) in enumerate(((None, "does not exist"), ("", "is not an archive"), ("{", "damaged"))):
        root = tmp_path / str(n)
        if marker is not None:
            root.mkdir()
        if marker:
            (root / "reval.json").write_text(marker)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match=words):
            Store(root)
        assert sorted(tmp_path.rglob("*")) == before, words


def test_a_folder_with_other_things_is_not_taken_over(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not an archive"):
        Store.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_archive_begun_and_cut_off_is_finished(tmp_path, monkeypatch) -> None:
    """The process died between two tables, and a power failure left the log of one of them empty."""
    real, made = DeltaTable.create, []

    def dying(*args, **kwargs):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(real(*args, **kwargs))

    monkeypatch.setattr(DeltaTable, "create", dying)
    with pytest.raises(KeyboardInterrupt):
        Store.create(tmp_path / "archive")
    monkeypatch.undo()
    with pytest.raises(UserError, match="is not an archive"):
        Store(tmp_path / "archive")
    log = tmp_path / "archive" / "runs" / "_delta_log" / f"{0:020}.json"
    log.write_bytes(b"")
    assert set(Store.create(tmp_path / "archive").versions().values()) == {0}


def test_every_byte_of_a_file_counts(store) -> None:
    """The check notices a change in any part: data, footer or filters."""
    store.write("one", {"references": references("a", "b")})
    (path,) = store.layout.local.joinpath("references").glob("*.parquet")
    whole = path.read_bytes()
    assert list(check.files(store, store.versions())) == []
    for place in range(0, len(whole), 61):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert [found.kind for found in check.files(store, store.versions())] == [check.Kind.DAMAGED], place
