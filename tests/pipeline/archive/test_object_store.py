"""An archive in an object store behaves like one in a folder, and a lock there never has two holders."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from benchmarks.speed.appends import appends
from pipeline import recipes
from pipeline.archive import locks
from pipeline.archive.bucket import Bucket
from pipeline.archive.store import Store
from pipeline.exchange import join
from pipeline.query import db
from pipeline.stages import draw as replay
from pipeline.stages import generate, reference, score, train
from pipeline.upkeep.repeat import repeat
from schemas import TABLES, UserError
from tests.helpers.archives import SUMS, references
from tests.helpers.command import invoke, refused, reval
from tests.helpers.holder import lock_held
from tests.helpers.runs import open_run

pytestmark = pytest.mark.slow
BUCKET = "archives"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of an S3 server on loopback, with one bucket; it holds everything in memory."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = next(found[0] for line in process.stderr if (found := re.search(r"http://127.0.0.1:\d+", line)))
            threading.Thread(target=process.stderr.read, daemon=True).start()
            client(address).create_bucket(Bucket=BUCKET)
            yield address
        finally:
            process.kill()


def client(address: str):
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=address, **keys)


def options(address: str) -> dict[str, str]:
    """Storage options, from the environment or from a recipe's runtime.storage."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture
def remote(server, tmp_path, monkeypatch) -> SimpleNamespace:
    """The `url` of an archive that does not exist yet, its `cache` on this machine, and its `objects`, read by boto."""
    name = uuid.uuid4().hex[:12]
    for key, value in {**options(server), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(key, value)
    at = SimpleNamespace(url=f"s3://{BUCKET}/{name}", cache=tmp_path / "cache", server=server, client=client(server))

    def upload(folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and path.relative_to(folder).parts[0] not in ("logs", "locks", "scratch"):
                at.client.upload_file(str(path), BUCKET, f"{name}/{path.relative_to(folder).as_posix()}")

    def objects() -> dict[str, bytes]:
        pages = at.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{name}/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key.split("/", 1)[1]: at.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def put(path: str, content: bytes) -> None:
        at.client.put_object(Bucket=BUCKET, Key=f"{name}/{path}", Body=content)

    at.upload, at.objects, at.put = upload, objects, put
    return at


@pytest.fixture
def uploaded(remote, trained) -> SimpleNamespace:
    """The trained archive, in the bucket."""
    remote.upload(trained.archive)
    return remote


@pytest.mark.usefixtures("warm")
def test_every_command_that_asks_and_mends(trained, uploaded, tmp_path) -> None:
    """The commands run one after the other, as on a disk. Commands that train have their own tests below."""
    where, first = ("--archive", uploaded.url), trained.first
    assert invoke("tag", first, "good", *where).stdout == f"good is snapshot {first}\n"
    assert "good" in invoke("snapshots", *where).stdout
    assert "arithmetic-0002" in invoke("status", *where).stdout
    query = "SELECT count(*) AS n FROM rollouts"
    assert invoke("sql", "--format", "csv", query, *where).stdout == "n\n96\n"
    assert invoke("sql", "--format", "csv", query, "--at", "good", *where).stdout == "n\n48\n"
    assert invoke("diff", "good", "now", *where, code=1).stdout.endswith("different\n")
    assert "the same, bit for bit" in invoke("repeat", "again-0001", *where).stdout
    assert "verdicts: 2 files merged into 1" in invoke("compact", *where).stdout
    assert invoke("sql", "--format", "csv", query, "--at", "good", *where).stdout == "n\n48\n"
    before = set(uploaded.objects())
    out = invoke("vacuum", "--keep-snapshots", "now", "--yes", *where).stdout
    gone = before - set(uploaded.objects())
    assert f" {len(gone)} files, " in out
    assert all(re.fullmatch(r"\w+/part-[0-9a-f]+\.parquet", path) for path in gone)
    assert "can no longer be read" in refused("sql", query, "--at", "good", *where)
    invoke("export", str(tmp_path / "out"), *where)
    invoke("import", str(tmp_path / "out"), "-a", f"{uploaded.url}-again")
    assert invoke("diff", "now", f"{uploaded.url}-again@now", *where).stdout.endswith("equal\n")
    assert invoke("check", *where).stdout == f"{uploaded.url}: whole\n"
    assert not Path("s3:").exists(), "nothing went to a folder of that name"


def test_the_real_command(uploaded, tmp_path) -> None:
    """In a separate process with an empty cache: everything it needs is in the bucket."""
    env = {key: os.environ[key] for key in options("")} | {"XDG_CACHE_HOME": str(tmp_path / "elsewhere")}
    out = reval(
        "sql",
        "--format",
        "csv",
        "SELECT count(*) AS n FROM rollouts",
        cwd=tmp_path,
        env={**env, "REVAL_ARCHIVE": uploaded.url},
    )
    assert out.stdout == "n\n96\n"


def test_rollouts_come_from_a_bucket_and_go_to_one(trained, uploaded, tmp_path) -> None:
    folder = Store.create(tmp_path / "here")
    assert join.bring_archive(folder, Store(uploaded.url), trained.first).n_added == 48
    bucket = Store.create(f"{uploaded.url}-other")
    assert join.bring_archive(bucket, Store(uploaded.url), trained.first).n_added == 48
    assert contents(bucket)["responses"] == contents(folder)["responses"]
    assert invoke("check", "--archive", f"{uploaded.url}-other").stdout.endswith("whole\n")


def contents(store: Store) -> dict[str, list[tuple]]:
    connection = db.connect(store)
    return {name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in TABLES}


@pytest.mark.usefixtures("warm")
def test_a_lost_cache_changes_nothing(trained, uploaded) -> None:
    """The next iteration starts from weights and moments that are only in the bucket. It ends as on a disk."""
    assert contents(Store(uploaded.url)) == contents(Store(trained.archive))
    with open_run("iterate", recipes.load("arithmetic", trained.settings, iterations=3), uploaded.url) as run:
        for stage in (generate.generate, score.score, replay.draw, reference.reference):
            stage(run, 3)
    shutil.rmtree(uploaded.cache)
    with open_run(
        "iterate", recipes.load("arithmetic", trained.settings, iterations=4), uploaded.url, name="arithmetic"
    ) as run:
        train.train(run, 3)
    shutil.rmtree(uploaded.cache)
    assert repeat(Store(uploaded.url), "arithmetic-0003").equal


def test_a_stale_cache_is_not_used(uploaded) -> None:
    """Objects that another machine wrote or deleted are noticed; objects that did not change are not read again."""
    bucket = Bucket(uploaded.url, {})
    path = "weights/arithmetic-0001/config.json"
    folder = bucket.bring("weights/arithmetic-0001")
    before = (folder / "config.json").read_bytes()
    assert before == uploaded.objects()[path]
    (folder / "config.json").write_text("ours")
    assert (bucket.bring("weights/arithmetic-0001") / "config.json").read_text() == "ours", "it was not fetched again"
    uploaded.put(path, b"theirs")
    assert (bucket.bring("weights/arithmetic-0001") / "config.json").read_bytes() == b"theirs"
    uploaded.put("weights/arithmetic-0001/more.txt", b"more")
    assert (Bucket(uploaded.url, {}).bring("weights/arithmetic-0001") / "more.txt").read_bytes() == b"more"
    assert (
        bucket.bring("optimizer/arithmetic-0001.safetensors").read_bytes()
        == uploaded.objects()["optimizer/arithmetic-0001.safetensors"]
    )
    for name in (
        "optimizer/arithmetic-0001.safetensors",
        *(p for p in uploaded.objects() if p.startswith("weights/arithmetic-0002/")),
    ):
        bucket.bring(name.rsplit("/", 1)[0] if name.startswith("weights") else name)
        uploaded.client.delete_object(Bucket=BUCKET, Key=f"{uploaded.url.rsplit('/', 1)[1]}/{name}")
    assert not bucket.bring("optimizer/arithmetic-0001.safetensors").exists()
    assert not bucket.bring("weights/arithmetic-0002").exists()
    assert "arithmetic-0002: its folder" in invoke("check", "-a", uploaded.url, code=1).stdout


@pytest.mark.usefixtures("warm")
def test_pruning_takes_objects_and_their_copies(uploaded, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.runs.keep.NEWEST", 1)  # there are two iterations only
    bucket, before = Bucket(uploaded.url, {}), uploaded.objects()
    copies = [bucket.bring(name) for name in ("weights/arithmetic-0001", "optimizer/arithmetic-0001.safetensors")]
    words = ("prune", "--policies-every", "2", "--optimizer-states", "1", "--yes", "-a", uploaded.url)
    invoke(*words)
    gone = {path for path in before if path.startswith(("weights/arithmetic-0001/", "optimizer/arithmetic-0001."))}
    added = {"pruned/weights/arithmetic-0001", "pruned/optimizer/arithmetic-0001.safetensors"}
    assert len(gone) > 2
    assert {path for path in uploaded.objects() if not path.startswith("locks/")} == {*before, *added} - gone
    assert not any(copy.exists() for copy in copies)
    assert "pruned, by keep.policies_every = 2" in refused("repeat", "arithmetic-0002", "-a", uploaded.url)
    uploaded.put("weights/arithmetic-0001/config.json", b"left by one that was killed")
    assert "part of it is left" in invoke("check", "-a", uploaded.url, code=1).stdout
    invoke(*words)
    assert invoke("check", "-a", uploaded.url).stdout.endswith("whole\n")


def test_processes_append_at_once(remote) -> None:
    assert appends(remote.url, 3, 8) > 0
    assert Store(remote.url).versions()["references"] == 24


def test_repair_puts_aside_and_makes_again(uploaded, trained) -> None:
    """A missing file, a truncated file and a file that belongs to no table; no object is deleted."""
    store = Store(uploaded.url)
    lost, cut = list(store.shards("verdicts"))
    content = uploaded.objects()[cut]
    uploaded.client.delete_object(Bucket=BUCKET, Key=f"{uploaded.url.rsplit('/', 1)[1]}/{lost}")
    uploaded.put(cut, content[:-100])
    uploaded.put("draws/part-0123.parquet", b"stranger")
    out = invoke("check", "--repair", "-a", uploaded.url).stdout
    assert out.endswith("whole\n")
    there = uploaded.objects()
    assert there[f"quarantine/{cut}"] == content[:-100]
    assert there["quarantine/draws/part-0123.parquet"] == b"stranger"

    def values(where: str | Path) -> list[tuple]:
        query = "SELECT trajectory_id, verifier_id, verdict, reward, extracted_answer FROM verdicts ORDER BY ALL"
        return db.connect(Store(where)).execute(query).fetchall()

    assert values(uploaded.url) == values(trained.archive)


# Locks. Tests change how long a lease lasts instead of waiting.


def test_one_holder_at_a_time(remote) -> None:
    store, other = Store.create(remote.url), Store(remote.url)
    with store.lock("x"):
        with pytest.raises(locks.Held, match=f"x is held by process {os.getpid()} of "), other.lock("x", wait=False):
            pass
        with other.lock("y", wait=False):
            pass
        assert not store.files.lost
    with other.lock("x", wait=False), pytest.raises(locks.Held), store.lock("x", wait=False):
        pass
    assert {"x", "y"} <= set(store.files.locks())


def test_of_many_one_gets_it(remote) -> None:
    Store.create(remote.url)
    for attempt in range(5):
        start, over, got = threading.Barrier(6), threading.Barrier(6), []

        def contend(name=f"lock-{attempt}", start=start, over=over, got=got) -> None:
            store = Store(remote.url)
            start.wait()
            try:
                with store.lock(name, wait=False):
                    got.append("it")
                    over.wait()
            except locks.Held:
                got.append("not")
                over.wait()

        threads = [threading.Thread(target=contend) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == ["it"] + ["not"] * 5


def test_a_lease_that_ran_out_is_anybodys_and_its_holder_writes_no_more(remote, monkeypatch) -> None:
    slow, other, third = Store.create(remote.url), Store(remote.url), Store(remote.url)
    slow.write("before", {"references": references("before")})
    with slow.lock("x"):
        slow.write("while held", {"references": references("held")})
        monkeypatch.setattr(locks, "LEASE_SECONDS", -1.0)  # as if it could not renew for a minute
        with pytest.raises(UserError, match="was away too long and another took its lock"):
            slow.write("late", {"references": references("late")})
        with other.lock("x", wait=False):
            monkeypatch.setattr(locks, "LEASE_SECONDS", 60.0)
            assert not other.files.lost
            # At its next renewal, which is now, the first notices it, whatever its clock shows.
            assert not slow.files.lost
            monkeypatch.setattr(locks, "RENEW_SECONDS", 0.0)
            slow.files._leases[0].renew()
            assert slow.files.lost
            with pytest.raises(UserError, match="was away too long"):
                slow.write("later", {"references": references("later")})
            other.write("other", {"references": references("other")})
            monkeypatch.setattr(locks, "RENEW_SECONDS", 10.0)
            # The first releases a lock that it no longer has; the second keeps it.
            slow_lease = slow.files._leases[0]
            with pytest.raises(Exception, match=r"(?i)precondition|changed|412"):
                slow_lease._put(b"", {"e_tag": slow_lease._tag})
            with pytest.raises(locks.Held), third.lock("x", wait=False):
                pass
    with third.lock("x", wait=False):
        third.write("third", {"references": references("third")})
    assert [row[0] for row in contents(Store(remote.url))["references"]] == ["before", "held", "other", "third"]


def test_the_slow_holder_ends_first_and_frees_nothing(remote, monkeypatch) -> None:
    slow, other, third = Store.create(remote.url), Store(remote.url), Store(remote.url)
    first, second = slow.lock("x"), other.lock("x", wait=False)
    first.__enter__()
    monkeypatch.setattr(locks, "LEASE_SECONDS", -1.0)
    second.__enter__()
    monkeypatch.setattr(locks, "LEASE_SECONDS", 60.0)
    first.__exit__(None, None, None)
    with pytest.raises(locks.Held), third.lock("x", wait=False):
        pass
    second.__exit__(None, None, None)
    with third.lock("x", wait=False):
        pass


def test_renewing_keeps_it(remote, monkeypatch) -> None:
    store = Store.create(remote.url)
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.0)
    tags, seen = set(), threading.Event()
    real = locks.Lease._put

    def counted(self, content, how) -> None:
        real(self, content, how)
        tags.add(self._tag)
        if len(tags) == 5:
            seen.set()

    monkeypatch.setattr(locks.Lease, "_put", counted)
    with store.lock("x"):
        assert seen.wait(60)
        assert not store.files.lost
        with pytest.raises(locks.Held), Store(remote.url).lock("x", wait=False):
            pass


def test_a_killed_holder_of_this_machine_is_replaced_at_once(remote, tmp_path) -> None:
    store = Store.create(remote.url)
    with lock_held(remote.url, "run-mine", tmp_path) as holder:
        with pytest.raises(locks.Held, match=f"held by process {holder.pid} of "), store.lock("run-mine", wait=False):
            pass
        with pytest.raises(UserError, match=f"run-mine is held by process {holder.pid} "), store.alone("vacuum"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock("run-mine", wait=False):
            assert not store.files.lost


def test_a_holder_elsewhere_is_not_taken_for_dead(remote) -> None:
    """A process with that number may run on another machine, so only its lease counts."""
    store = Store.create(remote.url)
    remote.put("locks/x", json.dumps({"pid": 2**22 + 1, "host": "elsewhere", "user": "u", "since": "s"}).encode())
    with pytest.raises(locks.Held, match="of u on elsewhere, since s"), store.lock("x", wait=False):
        pass


@pytest.mark.usefixtures("warm")
def test_storage_may_come_from_the_recipe(trained, remote, tmp_path, monkeypatch) -> None:
    """The options are in `runtime.storage` instead of the environment; the run's record does not hold them."""
    storage = options(remote.server)
    for key in storage:
        monkeypatch.delenv(key)
    monkeypatch.setattr("pipeline.inputs.arithmetic.problems", lambda seed: SUMS)
    words = [f"runtime.storage.{key}={json.dumps(value)}" for key, value in storage.items()]
    settings = [f"{key}={json.dumps(value)}" for key, value in trained.settings.items()]
    arguments = [word for setting in (*words, *settings) for word in ("--set", setting)]
    assert f"{remote.url}: base policy base-" in invoke("init", "-a", remote.url, *arguments).stdout
    assert "generate is done" in invoke("generate", "-a", remote.url, *arguments).stdout
    base = invoke("sql", "-a", remote.url, "SELECT 1", code=2).stderr
    assert remote.url in base, "what has no --set has the environment only"
    ((policy_id,),) = db.connect(Store(remote.url, storage)).execute("SELECT policy_id FROM policies").fetchall()
    assert policy_id in invoke("evaluate", policy_id, "-a", remote.url, *arguments).stdout
    found = db.connect(Store(remote.url, storage)).execute(
        "SELECT temperature, count(*) FROM evaluations GROUP BY 1 ORDER BY 1"
    )
    assert found.fetchall() == [(0.0, 20), (1.0, 40)]
    ((record,),) = db.connect(Store(remote.url, storage)).execute("SELECT config FROM runs").fetchall()
    assert "AWS" not in record


def test_what_cannot_be_reached_is_one_line(remote, monkeypatch) -> None:
    assert "does not exist; make one with" in refused("status", "-a", f"s3://{BUCKET}/nothing-here")
    assert "s3://no-such-bucket/archive" in refused("status", "-a", "s3://no-such-bucket/archive")
    assert "NoSuchBucket" in refused("init", "-a", "s3://no-such-bucket/archive")
    assert "nonsense://x" in refused("status", "-a", "nonsense://x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert remote.url in refused("status", "-a", remote.url)
