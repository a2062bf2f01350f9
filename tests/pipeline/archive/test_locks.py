"""Several processes in one archive: one at a time per run, any number at other runs; no row is lost or doubled."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.speed.appends import appends
from pipeline import recipes
from pipeline.archive import locks
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.runs.loop import end
from schemas import UserError
from tests.helpers.archives import run_iteration
from tests.helpers.command import environment, invoke, refused
from tests.helpers.runs import open_run

# Continues a run in another process until its standard input ends.
HOLD = """
import json, sys
from pipeline import recipes
from tests.helpers.runs import open_run
archive, name, settings = sys.argv[1:]
with open_run("iterate", recipes.load("arithmetic", json.loads(settings)), archive, name=name):
    print("begun", flush=True)
    sys.stdin.read()
"""


def begin(trained, archive: Path, name: str):
    return open_run("iterate", recipes.load("arithmetic", trained.settings), archive, name=name)


@contextmanager
def held_elsewhere(trained, archive: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(archive), name, json.dumps(trained.settings)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(archive.parent)
    ) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def test_a_run_is_one_process_at_a_time(trained, archive) -> None:
    """The second process is told who holds the run. A killed holder loses it at once."""
    with held_elsewhere(trained, archive, "mine") as holder:
        words = f"run mine is being run by process {holder.pid} of .* on {socket.gethostname()}, since .*; wait for it"
        with pytest.raises(UserError, match=words), begin(trained, archive, "mine"):
            pass
        settings = [word for key, value in trained.settings.items() for word in ("--set", f"{key}={value}")]
        line = refused("generate", "--run", "mine", "-a", str(archive), *settings)
        assert line.startswith(f"reval: run mine is being run by process {holder.pid} of ")
        assert "choose another name with --run" in line
        with begin(trained, archive, "other") as run:
            assert run.run_id == "other"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with begin(trained, archive, "mine") as run:
            assert run.run_id == "mine"
    assert db.connect(Store(archive)).execute("SELECT count(*) FROM runs WHERE run_id = 'mine'").fetchone() == (1,)


def test_within_one_process_too(trained, archive) -> None:
    with begin(trained, archive, "mine"):
        words = f"run mine is being run by process {os.getpid()} of "
        with pytest.raises(UserError, match=words), begin(trained, archive, "mine"):
            pass
        with begin(trained, archive, "other"):
            pass
    with pytest.raises(ZeroDivisionError), begin(trained, archive, "mine"):
        raise ZeroDivisionError
    with begin(trained, archive, "mine"):
        pass


@pytest.mark.usefixtures("warm")
def test_questions_are_made_by_one_at_a_time(trained, archive, monkeypatch) -> None:
    """`init` and `evaluate` hold the lock under which a run makes them."""
    seen = []

    def ensure(*asked: object) -> None:
        with pytest.raises(locks.Held), Store(archive).lock("base", wait=False):
            pass
        seen.append(asked)

    monkeypatch.setattr("pipeline.inputs.prompts.ensure", ensure)
    words = [word for key, value in trained.settings.items() for word in ("--set", f"{key}={value}")]
    invoke("init", "-a", str(archive), *words)
    invoke("evaluate", "arithmetic-0002", "-a", str(archive), *words)
    assert len(seen) == 2


def test_a_lock_waits_for_its_holder(archive) -> None:
    """A waiting process says once whom it waits for, and gets the lock as soon as the other releases it."""
    one, two, order = Store(archive), Store(archive), []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with two.lock("x"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with one.lock("x"):
        waiting.start()
        begun.wait()
        with pytest.raises(locks.Held) as found, two.lock("x", wait=False):
            pass
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert found.value.holder["pid"] == os.getpid()
    with two.lock("x", wait=False):
        pass


def test_an_archive_is_made_by_many_at_once(tmp_path) -> None:
    """All processes get the same archive, whichever was first."""
    for attempt in range(5):
        root, failed, start = tmp_path / f"archive-{attempt}", [], threading.Barrier(4)

        def create(root=root, failed=failed, start=start) -> None:
            start.wait()
            try:
                Store.create(root).versions()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert set(Store(root).versions().values()) == {0}


# A retraining, in a process of its own, of an archive that this process works on too.
RETRAIN = """
import json, sys
from pipeline import recipes
from pipeline.runs.loop import end
from tests.helpers.archives import run_pass
from tests.helpers.runs import open_run
archive, settings = sys.argv[1:]
config = recipes.load("arithmetic", json.loads(settings), iterations=1, defaults=recipes.RETRAIN)
with open_run("retrain", config, archive, name="two") as run:
    print("begun", flush=True)
    sys.stdin.read()
    run_pass(run, 1)
    end(run, 1)
"""


@pytest.mark.usefixtures("warm")
def test_two_runs_at_once_do_each_other_no_harm(trained, archive) -> None:
    command = [sys.executable, "-c", RETRAIN, str(archive), json.dumps(trained.settings)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        subprocess.Popen(command, text=True, env=environment(archive.parent), **pipes) as other,
        open_run("iterate", recipes.load("arithmetic", trained.settings, iterations=1), archive, name="one") as run,
    ):
        assert other.stdout.readline() == "begun\n"
        other.stdin.close()
        run_iteration(run, 1)
        end(run, 1)
        said = other.stderr.read()
        assert other.wait() == 0, said
    connection = db.connect(Store(archive))
    assert connection.execute("SELECT run_id, max(iteration) FROM progress GROUP BY 1 ORDER BY 1").fetchall() == [
        ("again", 1),
        ("arithmetic", 2),
        ("one", 1),
        ("two", 1),
    ]
    assert connection.execute("SELECT count(*), count(DISTINCT trajectory_id) FROM trajectories").fetchone() == (144, 144)
    assert connection.execute("SELECT count(*) FROM draws WHERE pass_id IN ('one-0001', 'two-0001')").fetchone() == (248,)
    assert "whole" in invoke("check", "-a", str(archive)).stdout


@pytest.mark.slow
def test_many_appends_at_once_are_all_there_once(tmp_path) -> None:
    """Four processes, one commit per row. `benchmarks/speed/appends.py` does 2,000 commits with ten processes."""
    assert appends(str(tmp_path / "archive"), 4, 50) > 0
    assert Store(tmp_path / "archive").versions()["references"] == 200
