"""Shared fixtures: an untrained model, and an archive that the real command made."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.children.worker import Worker
from pipeline.engines.base import EngineProcess
from pipeline.runs.processes import Processes
from tests.helpers.archives import SUMS, random_model, run_iteration, run_pass
from tests.helpers.command import QUICK, REVAL, SMALL, environment

pytest_plugins = ["tests.quick"]
# Two processes run the tests. If their children each had as many threads as cores, they would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """`reval up`: one Prefect server with the deployments, for all tests that run a flow.

    `env` is the environment for commands that use it, `log` its output, `process` and `port` are the server's.
    """
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**environment(folder), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    env["PREFECT_HOME"] = env["REVAL_HOME"]
    log = folder / "up.log"
    with log.open("w") as output:
        command = [*REVAL, "up", "--port", str(port)]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + 120
    while "serves reval/iterate and reval/retrain" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield SimpleNamespace(env=env, log=log, process=process, port=port)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, served: SimpleNamespace) -> Path:
    """A user's folder with an archive, in which `prefect deployment run reval/iterate` has run two iterations with vLLM.

    Tests only read it.
    """
    folder = tmp_path_factory.mktemp("home")
    given = {"iterations": 2, "run": "arithmetic", "overrides": SMALL, "archive": str(folder / "archive")}
    words = [word for key, value in given.items() for word in ("-p", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "prefect", "deployment", "run", "reval/iterate", "--watch", *words]
    done = subprocess.run(command, cwd=folder, env=served.env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr + served.log.read_text()
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with the arithmetic tokenizer and random weights, output layer tied to the embedding."""
    return random_model(tmp_path_factory.mktemp("model") / "tied", seed=1, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[..., Any]]]:
    """A real trainer and a real engine, each in its own process, started once, because starting takes seconds.

    `Processes.trainer` and `Processes.engine` return them, by name.
    """
    folder = tmp_path_factory.mktemp("children")
    trainer = Worker("pipeline.runs.trainer_child", log=folder / "trainer.log")
    engines: list[EngineProcess] = []

    def engine(_: Processes, location: str) -> EngineProcess:
        if not engines:
            how = {"log": folder / "engine.log", "device": "cpu", "batch": 256, "gpu_memory_share": 0.5}
            engines.append(EngineProcess("transformers", **how))
        engines[0].load(location)
        return engines[0]

    yield {"trainer": lambda _: trainer, "engine": engine}
    trainer.close()
    for started in engines:
        started.close()


@pytest.fixture
def warm(children: dict[str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Code in this process that needs a trainer or an engine gets the running ones."""
    for name, child in children.items():
        monkeypatch.setattr(f"pipeline.runs.processes.Processes.{name}", child)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, children: dict[str, Callable[..., Any]]) -> SimpleNamespace:
    """An archive of two iterations, with a retraining from the state after the first. Tests read it, or copy it.

    `archive` is its folder, `settings` are those of its runs, `first` is the snapshot at the end of iteration 1.
    """
    from pipeline import recipes
    from pipeline.runs.loop import end
    from pipeline.stages import evaluate
    from tests.helpers.runs import open_run

    folder = tmp_path_factory.mktemp("trained")
    settings = {**QUICK, "policy.base": str(random_model(folder / "base", 1))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.inputs.arithmetic.problems", lambda seed: SUMS)
        for name, child in children.items():
            patch.setattr(f"pipeline.runs.processes.Processes.{name}", child)
        with open_run("iterate", recipes.load("arithmetic", settings, iterations=2), folder / "archive") as run:
            evaluate.evaluate(run, 0)
            for i in (1, 2):
                run_iteration(run, i)
                evaluate.evaluate(run, i)
                end(run, i)
                if i == 1:
                    first = run.store.snapshot(f"{run.run_id}/1/iteration", "iteration")  # its id; it is there already
        again = recipes.load("arithmetic", settings, iterations=1, defaults=recipes.RETRAIN)
        with open_run("retrain", again, folder / "archive", name="again", at=first) as run:
            run_pass(run, 1)
            end(run, 1)
    return SimpleNamespace(archive=folder / "archive", settings=settings, first=first)


@pytest.fixture
def archive(trained: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of that archive, which a test may change."""
    return shutil.copytree(trained.archive, tmp_path / "archive")
