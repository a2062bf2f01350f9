"""Every fault of an archive is found and repaired as far as possible, and no row is deleted for it."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import recipes
from pipeline.archive import torn
from pipeline.archive.layout import delta_log, shard_file
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.query import states as versions
from pipeline.runs.loop import end
from pipeline.stages import draw as replay
from pipeline.stages import evaluate, generate, reference, score, train
from pipeline.upkeep import check
from pipeline.upkeep.check import Kind
from schemas import TABLES, UserError, digest
from tests.helpers.archives import edit, made_up
from tests.helpers.command import invoke, refused
from tests.helpers.holder import lock_held
from tests.helpers.runs import open_run

CHECKS = sorted(db.PIPELINE.glob("upkeep/sql/checks/*.sql"))


def contents(store: Store, name: str, without: tuple[str, ...] = ()) -> list[tuple]:
    """All rows of a table, by value, in the order of its key."""
    listed = ", ".join(f'"{c.name}"' for c in TABLES[name].columns if c.name not in without)
    key = ", ".join(f'"{column}"' for column in TABLES[name].key)
    return db.connect(store, only=f'"{name}"').execute(f'SELECT {listed} FROM "{name}" ORDER BY {key}').fetchall()


def more(store: Store, name: str, /, where: str = "true", **values: Any) -> dict[str, Any]:
    """Adds a copy of the first row, or a made-up one, with changed values; returns it."""
    key = ", ".join(f'"{column}"' for column in TABLES[name].key)
    found = db.connect(store).sql(f'SELECT * FROM "{name}" WHERE {where} ORDER BY {key} LIMIT 1').to_arrow_table()
    row = {**(found.to_pylist()[0] if len(found) else made_up(name)), **values}
    number = len(store.shards(name))
    store.write(f"more/{number}", {name: pa.Table.from_pylist([row], TABLES[name].schema)})
    return row


# The fault planted for each query of sql/checks, and the exact message. A query without a planted fault fails.
Plant = Callable[[Store], list[tuple[str, str]]]


def draws_draw_something(store: Store) -> list[tuple[str, str]]:
    more(store, "draws", pass_id="p", trajectory_id="nobody")
    wrong = more(store, "draws", pass_id="q", reward=0.5)
    said = f"a reward of 0.5 that no verdict of {wrong['trajectory_id']} has"
    return [("p/0/0", "a draw of unknown trajectory nobody"), ("q/0/0", said)]


def evaluations_lead_somewhere(store: Store) -> list[tuple[str, str]]:
    (training,) = db.connect(store).execute("SELECT min(prompt_id) FROM prompts WHERE split = 'train'").fetchone()
    a = more(store, "evaluations", policy_id="nobody")
    b = more(store, "evaluations", prompt_id="nothing")
    c = more(store, "evaluations", prompt_id=training)
    return [
        (f"nobody on {a['prompt_id']}", "unknown policy"),
        (f"{b['policy_id']} on nothing", "unknown prompt"),
        (f"{c['policy_id']} on {training}", "a training prompt"),
    ]


def groups_are_whole(store: Store) -> list[tuple[str, str]]:
    row = more(store, "trajectories", trajectory_id="one too many", sample_index=9)
    more(store, "trajectories", trajectory_id="alone", group_id="short", sample_index=0)
    return [
        (row["group_id"], "of run arithmetic: 5 samples from 0 to 9 of 4"),
        ("short", "of run arithmetic: 1 samples from 0 to 0 of 4"),
    ]


def imports_add_up(store: Store) -> list[tuple[str, str]]:
    more(store, "imports", import_id="i", n_rejected=2)
    more(store, "rejects", import_id="i")
    prompt = more(store, "prompts", prompt_id="p", import_id="gone", line=1)
    return [("i", "says 2 rejects and has 1"), (prompt["prompt_id"], "a prompt of unfinished import gone")]


def labels_name_snapshots(store: Store) -> list[tuple[str, str]]:
    more(store, "labels", label="lost", snapshot_id="nothing")
    return [("lost", "names unknown snapshot nothing")]


def passes_add_up(store: Store) -> list[tuple[str, str]]:
    strangers = {"policy_id": "n", "parent_id": "o", "reference_id": "p", "snapshot_id": "q"}
    more(store, "passes", pass_id="astray", **strangers, n_updates=3, n_draws=128)
    more(store, "updates", pass_id="arithmetic-0001", update=0, slot=999)
    words = "unknown policy n, unknown parent o, unknown reference p, unknown snapshot q, says 3 updates of 128 draws"
    return [("arithmetic-0001", "1 draws without an update row, or the other way"), ("astray", words)]


def policies_have_parents(store: Store) -> list[tuple[str, str]]:
    more(store, "policies", policy_id="foundling", parent_id="a", run_id="b", pass_id="c")
    return [("foundling", "unknown parent a, unknown run b, unknown pass c")]


def references_refer(store: Store) -> list[tuple[str, str]]:
    a = more(store, "references", trajectory_id="nobody")
    b = more(store, "references", reference_id="nobody")
    c = more(store, "references", reference_id="arithmetic-0001", ref_logprob_sum=float("nan"))
    return [
        (f"nobody under {a['reference_id']}", "unknown trajectory"),
        (f"{b['trajectory_id']} under nobody", "unknown policy"),
        (f"{c['trajectory_id']} under arithmetic-0001", "not a finite number"),
    ]


def splits_are_apart(store: Store) -> list[tuple[str, str]]:
    row = more(store, "prompts", "split = 'train'", prompt_id="twin", split="heldout", gold_answer="0")
    return [(f"arithmetic: {row['problem']}", "in splits heldout, train")]


def steps_add_up(store: Store) -> list[tuple[str, str]]:
    n_tokens = "SELECT n_tokens FROM passes WHERE pass_id = 'again-0001'"
    (n,) = db.connect(store).execute(n_tokens).fetchone()
    more(store, "steps", pass_id="again-0001", update=7, n_trajectories=3, n_tokens=5)
    more(store, "passes", pass_id="stepless")
    more(store, "draws", pass_id="stepless")
    more(store, "draws", pass_id="unfinished")
    return [
        ("again-0001", f"says {n} tokens and its steps {n + 5}"),
        ("again-0001/7", "a step of 3 for 0 draws"),
        ("stepless/0", "no step for 1 draws"),
    ]


def tokens_are_counted(store: Store) -> list[tuple[str, str]]:
    long = more(store, "trajectories", trajectory_id="long")
    more(store, "responses", f"trajectory_id = '{digest('none')}'", **wide("long", long["n_prompt_tokens"], 99, 0.0))
    heavy = more(store, "trajectories", trajectory_id="heavy", n_response_tokens=2, behaviour_logprob_sum=-3.0)
    more(store, "responses", "false", **wide("heavy", heavy["n_prompt_tokens"], 2, -1.4))
    fine = more(store, "trajectories", trajectory_id="fine", n_response_tokens=2, behaviour_logprob_sum=-3.0)
    more(store, "responses", "false", **wide("fine", fine["n_prompt_tokens"], 2, -1.5))
    words = "its token counts or its log-prob sum are not those of its response"
    return [("heavy", words), ("long", words)]


def wide(trajectory_id: str, n_prompt: int, n_response: int, logprob: float) -> dict[str, Any]:
    ids = {"prompt_token_ids": [5] * n_prompt, "response_token_ids": [5] * n_response}
    return {"trajectory_id": trajectory_id, "response_text": "", **ids, "behaviour_logprobs": [logprob] * n_response}


def trajectories_have_responses(store: Store) -> list[tuple[str, str]]:
    more(store, "trajectories", trajectory_id="silent")
    more(store, "responses", trajectory_id="voice")
    return [("silent", "no response"), ("voice", "a response without a trajectory")]


def trajectories_lead_somewhere(store: Store) -> list[tuple[str, str]]:
    more(store, "trajectories", trajectory_id="a", prompt_id="n", policy_id="o", run_id="p")
    more(store, "trajectories", trajectory_id="b", run_id="i", import_id="i")
    return [("a", "unknown prompt n, unknown policy o, unknown run p"), ("b", "unfinished import i")]


def updates_are_whole(store: Store) -> list[tuple[str, str]]:
    (other,) = db.connect(store).execute("SELECT max(trajectory_id) FROM draws").fetchone()
    more(store, "draws", pass_id="gap", slot=1, trajectory_id=other)
    more(store, "draws", pass_id="twice", slot=0, trajectory_id=other)
    more(store, "draws", pass_id="twice", slot=1, trajectory_id=other)
    return [("gap/0", "1 draws in slots 1 to 1"), ("twice/0", "2 draws in slots 0 to 1")]


def verdicts_judge_something(store: Store) -> list[tuple[str, str]]:
    a = more(store, "verdicts", trajectory_id="nobody")
    b = more(store, "verdicts", verifier_id="x", verdict="wrong", reward=None)
    c = more(store, "verdicts", verifier_id="y", verdict="timeout", reward=0.0)
    d = more(store, "verdicts", "verdict = 'wrong'", verifier_id="z", iteration=7)
    (iteration,) = (
        db.connect(store)
        .execute("SELECT iteration FROM trajectories WHERE trajectory_id = $1", [d["trajectory_id"]])
        .fetchone()
    )
    return [
        (f"nobody by {a['verifier_id']}", "a verdict of an unknown trajectory"),
        (f"{b['trajectory_id']} by x", "a reward of null for wrong"),
        (f"{c['trajectory_id']} by y", "a reward of 0.0 for timeout"),
        (f"{d['trajectory_id']} by z", f"says iteration 7 of a rollout of {iteration}"),
    ]


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_every_check_finds_what_was_planted_and_nothing_else(trained, archive, path) -> None:
    query = path.read_text()
    assert db.connect(Store(trained.archive), only=query).execute(query).fetchall() == []
    store = Store(archive)
    expected = globals()[path.stem](store)
    assert sorted(db.connect(store, only=query).execute(query).fetchall()) == sorted(expected)
    said = [(finding.where, finding.what) for finding in check.rows(store, store.versions())]
    for row, problem in expected:
        assert (f"{path.stem}: {row}", problem) in said


def test_a_key_that_is_there_twice_is_found_in_every_table(archive) -> None:
    store = Store(archive)
    expected = set()
    for name in TABLES:
        row = more(store, name)
        if name in ("labels", "imports", "rejects"):  # they were empty
            row = more(store, name)
        expected.add(
            (f"{name}_have_unique_keys: {'/'.join(str(row[column]) for column in TABLES[name].key)}", "there 2 times")
        )
    state = versions.resolve(store, None).versions
    found = {(f.where, f.what) for f in check.rows(store, state) if "_have_unique_keys" in f.where}
    assert found == expected


def test_many_findings_are_counted_not_listed(archive) -> None:
    edit(Store(archive), "verdicts", lambda rows: rows.set_column(0, "trajectory_id", pa.array(["gone"] * len(rows))))
    out = invoke("check", "-a", str(archive), code=1).stdout
    assert "and 91 more like these" in out
    assert out.splitlines()[-1].endswith("findings; `reval check --repair` mends what can be")


# The damage to a file, and the message about it.
CHECKSUM = "its checksum is not that of what was committed"


def missing(path: Path) -> str:
    path.unlink()
    return "missing"


def cut(path: Path) -> str:
    size = path.stat().st_size
    os.truncate(path, size // 2)
    return f"{size // 2:,} bytes, not the {size:,} that were committed"


def flipped(path: Path) -> str:
    """Flips one bit in the middle, so that without a checksum other values are read and nothing is noticed."""
    rows, content = pq.read_table(path), path.read_bytes()
    metadata = pq.read_metadata(path).row_group(0)
    for column in map(metadata.column, range(metadata.num_columns)):
        for place in range(column.data_page_offset, column.data_page_offset + column.total_compressed_size):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            try:
                if not pq.read_table(path).equals(rows):
                    return CHECKSUM
            except (OSError, pa.ArrowException, MemoryError):
                continue
    raise AssertionError("no bit of it is silent")


def swapped(path: Path) -> str:
    """A valid file of the same size with fewer rows; its metadata is padded."""
    size, rows = path.stat().st_size, pq.read_table(path)

    def write(padding: int) -> int:
        with pq.ParquetWriter(path, rows.schema, store_schema=False) as writer:
            writer.write_table(rows.slice(0, 1))
            writer.add_key_value_metadata({"padding": "x" * padding})
        return path.stat().st_size

    padding = size - write(0)
    while write(padding) > size:
        padding -= 1
    assert path.stat().st_size == size
    return CHECKSUM


DAMAGES = [missing, cut, flipped, swapped]


def test_a_damaged_file_is_found(trained, tmp_path) -> None:
    """For every damage, in narrow tables and in the wide one: one file in each of three tables, and no other is named."""
    for damage in DAMAGES:
        archive = shutil.copytree(trained.archive, tmp_path / damage.__name__)
        paths = [next(iter(Store(archive).shards(name))) for name in ("verdicts", "responses", "draws")]
        expected = {path: damage(archive / path) for path in paths}
        store = Store(archive)
        found = {finding.where: finding for finding in check.files(store, store.versions())}
        assert set(found) == set(paths), damage
        assert {finding.kind for finding in found.values()} == {Kind.DAMAGED}, damage
        assert all(found[path].what.startswith(said) for path, said in expected.items()), damage
        out = invoke("check", "-a", str(archive), code=1).stdout
        assert all(f"{path}: {said}" in out for path, said in expected.items()), damage
        assert "rows were not compared: files they are in are damaged" in out, damage


def test_a_file_that_belongs_to_nothing_is_found(archive) -> None:
    stranger = archive / "verdicts" / "part-0123.parquet"
    shutil.copy(archive / next(iter(Store(archive).shards("verdicts"))), stranger)
    kinds = [(finding.kind, finding.where) for finding in check.check(Store(archive))]
    assert kinds == [(Kind.ORPHAN, "verdicts/part-0123.parquet")]


def test_weights_that_are_others_or_gone_are_found(archive) -> None:
    weights = archive / "weights" / "arithmetic-0001" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    shutil.rmtree(archive / "weights" / "again-0001")
    found = {finding.where: (finding.kind, finding.what) for finding in check.check(Store(archive))}
    assert set(found) == {"arithmetic-0001", "again-0001"}
    assert {kind for kind, _ in found.values()} == {Kind.WEIGHTS}
    assert "are not those that were written" in found["arithmetic-0001"][1]
    assert "is gone" in found["again-0001"][1]


def test_a_snapshot_of_what_never_was_is_found(archive) -> None:
    more(Store(archive), "snapshots", snapshot_id="future", versions=[("verdicts", 999), ("prompts", 1)])
    found = [(finding.kind, finding.where, finding.what) for finding in check.check(Store(archive))]
    assert found == [(Kind.STATE, "snapshot future", "version 999 of verdicts is not there")]


def test_a_state_is_checked_by_its_name(trained, archive) -> None:
    """Damage to later files does not matter to an earlier state."""
    later = set(Store(archive).shards("draws")) - set(
        Store(archive).shards("draws", versions.resolve(Store(archive), trained.first).versions["draws"])
    )
    (archive / sorted(later)[0]).unlink()
    assert "whole" in invoke("check", "--at", trained.first, "-a", str(archive)).stdout
    invoke("check", "-a", str(archive), code=1)


def held(archive: Path) -> set[str]:
    """Digests of the contents of all files of the archive, in any place."""
    passing = {"scratch", "logs", "locks"}
    paths = [path for path in archive.rglob("*") if path.is_file() and not passing & {*path.parts}]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.usefixtures("warm")
def test_verdicts_and_references_are_made_again(trained, archive) -> None:
    """They have the same values as before, from responses and weights; the damaged files are moved away and kept."""
    store, good = Store(archive), Store(trained.archive)
    damaged = {}
    for name, how in (("verdicts", (missing, swapped)), ("references", (cut, flipped))):
        damaged |= dict(zip(store.shards(name), how, strict=False))
    assert len(damaged) == len(DAMAGES), "each of them happened to a file"
    for path, damage in damaged.items():
        damage(archive / path)
    kept = held(archive)
    out = invoke("check", "--repair", "-a", str(archive)).stdout
    assert out.splitlines()[-1].endswith("whole")
    assert contents(Store(archive), "verdicts", ("seconds",)) == contents(good, "verdicts", ("seconds",))
    assert contents(Store(archive), "references", ("pass_id",)) == contents(good, "references", ("pass_id",))
    for path, damage in damaged.items():
        assert (archive / "quarantine" / path).exists() == (damage is not missing), path
    assert kept <= held(archive), "something is nowhere any more"
    again = invoke("check", "--repair", "-a", str(archive)).stdout
    assert again == f"{archive}: whole\n", "there is nothing more to do"


def test_what_cannot_be_made_again_is_said_and_put_aside(archive) -> None:
    store = Store(archive)
    path = next(iter(store.shards("responses")))
    cut(archive / path)
    stranger = archive / "verdicts" / "part-0123.parquet"
    shutil.copy(archive / next(iter(store.shards("verdicts"))), stranger)
    kept = held(archive)
    out = invoke("check", "--repair", "-a", str(archive), code=1).stdout
    assert f"{path}: " in out
    assert "its rows of responses are lost unless a copy is put back" in out
    assert "verdicts/part-0123.parquet: belonged to nothing, put aside" in out
    assert "trajectories_have_responses: and 43 more like these" in out
    assert (archive / "quarantine" / path).exists()
    assert (archive / "quarantine" / "verdicts" / "part-0123.parquet").exists()
    assert not stranger.exists()
    assert kept <= held(archive)
    # A second file of the same name does not take the place of the first.
    stranger.write_bytes(b"other")
    invoke("check", "--repair", "-a", str(archive), code=1)
    assert {*kept, hashlib.sha256(b"other").hexdigest()} <= held(archive)


@pytest.mark.usefixtures("warm")
def test_what_was_made_again_is_made_again_when_it_is_lost_again(trained, archive) -> None:
    for _ in range(2):
        store = Store(archive)
        for name in ("verdicts", "references"):
            store.replace(name, list(store.shards(name)), [])
        assert "computed again" in invoke("check", "--repair", "-a", str(archive)).stdout
        for name, without in (("verdicts", ("seconds",)), ("references", ("pass_id",))):
            assert contents(Store(archive), name, without) == contents(Store(trained.archive), name, without)


def test_references_in_the_precision_of_their_pass_are_missed(archive) -> None:
    """Sums in float32 cannot replace the lost sums of a pass in bfloat16."""
    store = Store(archive)
    assert len(db.query(store, "lost_references")) == 0

    def in_bfloat16(rows: pa.Table) -> pa.Table:
        place = rows.column_names.index("config")
        changed = [
            text.replace('"precision": "float32"', '"precision": "bfloat16"') for text in rows["config"].to_pylist()
        ]
        return rows.set_column(place, "config", pa.array(changed)) if "again" in rows["run_id"].to_pylist() else rows

    edit(store, "runs", in_bfloat16)
    lost = db.query(store, "lost_references").to_pylist()
    drawn = db.connect(store).execute("SELECT DISTINCT trajectory_id FROM draws WHERE pass_id = 'again-0001' ORDER BY 1")
    assert [row["trajectory_id"] for row in lost] == [name for (name,) in drawn.fetchall()]
    assert {row["precision"] for row in lost} == {"bfloat16"}


@pytest.mark.usefixtures("warm")
def test_a_judge_that_is_gone_stops_no_repair(archive, monkeypatch) -> None:
    """If a user's function no longer exists, its verdicts are reported as lost; references are still made again."""
    store = Store(archive)
    for name in ("verdicts", "references"):
        store.replace(name, list(store.shards(name)), [])

    def gone(asked: str) -> None:
        raise UserError(f"no {asked}")

    monkeypatch.setattr("pipeline.upkeep.repair.verifier", gone)
    out = invoke("check", "--repair", "-a", str(archive), code=1).stdout
    assert re.search(r"^[\d,]+ verdicts of run arithmetic are lost: no math$", out, re.M), out
    assert re.search(r"^[\d,]+ rows of reference .*: computed again$", out, re.M), out


def test_repair_finishes_a_shard_half_committed(archive, monkeypatch) -> None:
    """One table of a shard has its rows, the other does not; its file exists and belongs to nothing else."""
    real, done = Store._transact, []

    def dying(self, *args):
        if done:
            raise KeyboardInterrupt
        done.append(real(self, *args))

    store = Store(archive)
    rows = {
        name: db.connect(store).sql(f"SELECT * REPLACE ('new' AS trajectory_id) FROM {name} LIMIT 1").to_arrow_table()
        for name in ("responses", "trajectories")
    }
    monkeypatch.setattr(Store, "_transact", dying)
    with pytest.raises(KeyboardInterrupt):
        store.write("half", rows)
    monkeypatch.undo()
    assert any(f.kind is Kind.ORPHAN and f.where.startswith("trajectories/") for f in check.check(Store(archive)))
    out = invoke("check", "--repair", "-a", str(archive), code=1).stdout
    assert "the rest of a shard half committed, committed" in out
    assert "no response" not in out
    both = "SELECT count(*) FROM trajectories JOIN responses USING (trajectory_id) WHERE trajectory_id = 'new'"
    assert db.connect(Store(archive)).execute(both).fetchone() == (1,)
    assert Store(archive).recover("half", ("responses", "trajectories"))


# What a power failure leaves of the newest commit; each function returns the damaged part.
def emptied(log: Path) -> list[Path]:
    newest = max(log.glob("*.json"))
    os.truncate(newest, 0)
    return [newest]


def cut_mid_line(log: Path) -> list[Path]:
    newest = max(log.glob("*.json"))
    newest.write_bytes(newest.read_bytes()[:-30])
    return [newest]


def two_emptied(log: Path) -> list[Path]:
    newest = sorted(log.glob("*.json"))[-2:]
    for path in newest:
        os.truncate(path, 0)
    return newest


@pytest.mark.parametrize("tear", [emptied, cut_mid_line, two_emptied], ids=lambda tear: tear.__name__)
def test_a_torn_commit_is_made_again_by_going_on(trained, archive, tear) -> None:
    """The archive opens as before the commit; the run continues, and no row is lost or there twice."""
    good = Store(trained.archive)
    log = archive / delta_log("draws")
    before = {path: path.read_bytes() for path in log.iterdir() if path.is_file()}
    gone = tear(log)
    store = Store(archive)
    n_left = 256 if len(gone) == 1 else 128
    assert db.connect(store).execute("SELECT count(*) FROM draws").fetchone() == (n_left,)
    for path in gone:
        assert not path.exists()
        assert (archive / "quarantine" / path.relative_to(archive)).exists()
    assert {path for path in before if path.exists()} == set(before) - set(gone)
    # The shards' names are free again, their files are there: asked for once more, they are committed as they were.
    shards = {"arithmetic/2/draw/draws": "arithmetic-0002", "again/1/draw/draws": "again-0001"}
    for shard in shards:
        assert store.recover(shard, ("draws",))
    assert contents(Store(archive), "draws") == contents(good, "draws")
    assert "whole" in invoke("check", "-a", str(archive)).stdout


@pytest.mark.usefixtures("warm")
def test_a_run_goes_on_over_a_torn_commit(trained, archive) -> None:
    """After a power failure during the commit of the newest rollouts, the same stage commits the same rows once."""
    settings = {**trained.settings, "train.learning_rate": 1e-3}

    def begun(**how):
        return open_run("iterate", recipes.load("arithmetic", settings, iterations=1), archive, name="torn", **how)

    log = archive / delta_log("trajectories")
    real = torn.settle

    def lost(files, table, committed) -> None:
        if table == "trajectories":
            raise KeyboardInterrupt
        real(files, table, committed)

    with pytest.MonkeyPatch.context() as patch, begun() as run:
        patch.setattr(torn, "settle", lost)
        with pytest.raises(KeyboardInterrupt):
            generate.generate(run, 1)
    rollouts = contents(Store(archive), "trajectories")
    assert len(rollouts) == 96 + 48
    os.truncate(max(log.glob("*.json")), 0)
    with begun() as run:
        assert len(contents(run.store, "trajectories")) == 96
        generate.generate(run, 1)
        assert contents(run.store, "trajectories") == rollouts
        for stage in (score.score, replay.draw, reference.reference, train.train, evaluate.evaluate):
            stage(run, 1)
        end(run, 1)
    assert "whole" in invoke("check", "-a", str(archive)).stdout


def test_a_torn_checkpoint_is_read_around(archive) -> None:
    """The note that points to it is removed too; all commits that it summed up still exist."""
    log = archive / delta_log("snapshots")
    store = Store(archive)
    for n in range(30):
        store.snapshot(f"filler/{n}", "test")
    rows = contents(store, "snapshots")
    checkpoint = max(log.glob("*.checkpoint.parquet"))
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    assert contents(Store(archive), "snapshots") == rows
    assert not (log / "_last_checkpoint").exists()
    assert (archive / "quarantine" / checkpoint.relative_to(archive)).exists()
    assert Store(archive).committed("filler/3", "snapshots")
    Store(archive).snapshot("one/more", "test")
    assert len(contents(Store(archive), "snapshots")) == len(rows) + 1


def test_a_torn_note_of_the_checkpoint_is_no_matter(archive) -> None:
    store = Store(archive)
    for n in range(30):
        store.snapshot(f"filler/{n}", "test")
    rows = contents(store, "snapshots")
    for n, left in enumerate((b"", b'{"version":2'), 1):
        (archive / delta_log("snapshots") / "_last_checkpoint").write_bytes(left)
        assert len(contents(Store(archive), "snapshots")) == len(rows) + n - 1, left
        Store(archive).snapshot(f"more/{n}", "test")
        now = contents(Store(archive), "snapshots")
        assert len(now) == len(rows) + n, left
        assert set(map(repr, rows)) <= set(map(repr, now)), left


def test_repair_finishes_what_a_torn_log_left_half(trained, archive) -> None:
    """The first of a shard's two tables lost its commit and the second kept its own: no run would notice this."""
    log = archive / delta_log("responses")
    os.truncate(max(log.glob("*.json")), 0)
    found = list(check.check(Store(archive)))
    assert {finding.kind for finding in found} == {Kind.ORPHAN, Kind.ROW, Kind.STATE}
    out = invoke("check", "--repair", "-a", str(archive)).stdout
    assert "the rest of a shard half committed, committed" in out
    assert contents(Store(archive), "responses") == contents(Store(trained.archive), "responses")


def test_a_commit_is_on_disk_before_it_counts(archive, monkeypatch) -> None:
    """Its own commit, and another process's commit that came between it and the state it was based on."""
    ours, theirs, synced = Store(archive), Store(archive), []
    row = db.connect(ours).sql("SELECT * REPLACE ('a' AS trajectory_id) FROM verdicts LIMIT 1").to_arrow_table()
    before = ours.versions()["verdicts"]
    real = Store._table

    def late(self, name):
        """The other process commits after ours has read its state and before ours commits."""
        table = real(self, name)
        if self is ours and not synced and name == "verdicts":
            synced.append(None)
            monkeypatch.setattr(torn, "sync", lambda path: None)
            theirs.write("theirs", {"verdicts": row})
            monkeypatch.setattr(torn, "sync", synced.append)
        return table

    monkeypatch.setattr(Store, "_table", late)
    ours.write("ours", {"verdicts": row})
    log = archive / delta_log("verdicts")
    assert {log / f"{before + n:020}.json" for n in (1, 2)} <= set(synced)
    assert synced[-1] == log, "and then the folder's entries"


@pytest.mark.parametrize("words", [("check", "--repair"), ("vacuum", "--yes")])
def test_nothing_is_moved_or_deleted_under_a_run(archive, words) -> None:
    store = Store(archive)
    invoke("compact", "-a", str(archive))
    path = next(iter(store.shards("verdicts")))
    (archive / "verdicts" / "part-0123.parquet").write_bytes((archive / path).read_bytes())
    before = sorted(archive.rglob("*.parquet"))
    with lock_held(archive, "run-other", archive.parent) as holder:
        line = refused(*words, "-a", str(archive))
        assert f"run-other is held by process {holder.pid} of " in line
        assert line.endswith("wait until it is done")
    assert sorted(archive.rglob("*.parquet")) == before
    invoke(*words, "-a", str(archive))
    assert sorted(archive.rglob("*.parquet")) != before


def test_a_run_that_is_about_to_begin_is_held_off(archive) -> None:
    shutil.rmtree(archive / "locks")
    store = Store(archive)
    with store.alone("test"), pytest.raises(UserError, match="base is held by"), store.lock("base", wait=False):
        pass


def test_the_names_of_shards_are_read_from_the_log(archive) -> None:
    """All names, also those before a checkpoint; Delta knows each of them."""
    store = Store(archive)
    before = set(store.transactions("snapshots"))
    for n in range(30):
        store.snapshot(f"filler/{n}", "test")
    names = set(store.transactions("snapshots"))
    assert names == before | {f"filler/{n}" for n in range(30)}
    assert all(store.committed(name, "snapshots") for name in names)
    files = {shard_file(name, "snapshots") for name in names}
    assert files == set(store.shards("snapshots")) == store.ever_logged("snapshots")


def test_asking_an_archive_that_lost_a_file_is_one_line(archive) -> None:
    missing(archive / next(iter(Store(archive).shards("verdicts"))))
    assert "verdicts" in refused("status", "-a", str(archive))
    assert "verdicts" in refused("sql", "SELECT count(*) FROM verdicts", "-a", str(archive))
    assert invoke("sql", "--format", "csv", "SELECT count(*) AS n FROM runs", "-a", str(archive)).stdout == "n\n2\n"
