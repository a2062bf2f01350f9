"""What several tests share: a model that knows nothing, and an archive that the real command made."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive.layout import shard_file
from pipeline.archive.parquet import write_parquet
from pipeline.archive.store import Store
from pipeline.children.worker import Worker
from pipeline.engines.base import EngineProcess
from pipeline.runs.processes import Processes
from schemas.enums import Split

# Two processes run the tests, and theirs as many threads as there are cores each: they would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The command as a user runs it, in the environment the tests run in.
REVAL = [sys.executable, "-m", "flows.cli"]
# A run small enough for tests; the base policy stops almost at once and is wrong most of the time.
SMALL = {
    "policy.target_accuracy": 0.1,
    "generate.prompts_per_iteration": 12,
    "generate.samples_per_prompt": 4,
    "replay.updates_per_iteration": 3,
    "replay.batch_trajectories": 40,
    "replay.window_trajectories": 72,
    "train.reference": "reset",
    "train.baseline": "group_mean",
    "train.reset_every_iterations": 2,
    "train.beta": 1.0,
    "train.learning_rate": 1.5e-4,
    "evaluate.max_prompts": 20,
    "evaluate.samples_per_prompt": 2,
    "runtime.micro_batch_tokens": 256,
}


def settings(**more: object) -> list[str]:
    """`--set` arguments of the small run."""
    return [word for key, value in {**SMALL, **more}.items() for word in ("--set", f"{key}={value}")]


def reval(*words: str, cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command and holds its exit code against `code`."""
    done = subprocess.run(
        [*REVAL, *words], cwd=cwd, env={**environment(cwd), **(env or {})}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def environment(cwd: Path) -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "REVAL_"))}
    return {**kept, "PYTHONPATH": root, "REVAL_HOME": str(cwd / "prefect")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests go to one process, and whatever wants `home` to the same, first: it takes longest."""
    for item in items:
        group = "home" if "home" in getattr(item, "fixturenames", ()) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("home",))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, where `reval iterate` has run two iterations with vLLM under Prefect. Tests only read it."""
    folder = tmp_path_factory.mktemp("home")
    reval("iterate", "--iterations", "2", *settings(), cwd=folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with the arithmetic tokenizer and random weights, output layer tied to the embedding."""
    return random_model(tmp_path_factory.mktemp("model") / "tied", seed=1, tie_word_embeddings=True)


def random_model(folder: Path, seed: int, **changes: object) -> Path:
    import torch

    from pipeline.inputs import arithmetic

    tokenizer = arithmetic.make_tokenizer()
    model = arithmetic.make_model(tokenizer, seed, **changes)
    with torch.no_grad():  # at initialisation all tokens are about as likely; nothing could tell two models apart
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# What makes the small run quick and ordinary: no vLLM, no GPU, one process that checks answers. Answers are short, so that
# a model that knows nothing is right now and then about questions whose answers are one digit.
QUICK = {
    **SMALL,
    "runtime.engine": "transformers",
    "runtime.device": "cpu",
    "runtime.verifier_workers": 1,
    "generate.max_response_tokens": 4,
}


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[..., Any]]]:
    """A real trainer and a real engine, each in its process, started once: to start another takes seconds.

    They are what `Processes.trainer` and `Processes.engine` give, by name.
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
    """Whatever wants a trainer or an engine in this process gets those that are running."""
    for name, child in children.items():
        monkeypatch.setattr(f"pipeline.runs.processes.Processes.{name}", child)


# Questions whose answers are one digit.
SUMS = [(f"{a}+{b}=", "67"[a % 2], Split.HELDOUT if b < 20 else Split.TRAIN) for a in range(9) for b in range(50)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, children: dict[str, Callable[..., Any]]) -> SimpleNamespace:
    """An archive of two iterations, with a retraining from the state after the first. Tests read it, or copy it.

    `archive` is its folder, `settings` what its runs were begun with, `first` the snapshot that ended iteration 1.
    """
    from pipeline import recipes
    from pipeline.runs.report import end
    from pipeline.runs.run import open_run
    from pipeline.stages import evaluate

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


def run_pass(run: Any, iteration: int) -> None:
    """The stages of a training pass."""
    from pipeline.stages import draw as replay
    from pipeline.stages import reference, train

    replay.draw(run, iteration)
    reference.reference(run, iteration)
    train.train(run, iteration)


def run_iteration(run: Any, iteration: int) -> None:
    """The stages of an iteration, but for what evaluates and ends it."""
    from pipeline.stages import generate, score

    generate.generate(run, iteration)
    score.score(run, iteration)
    run_pass(run, iteration)


@pytest.fixture
def archive(trained: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of that archive, to do anything with."""
    return shutil.copytree(trained.archive, tmp_path / "archive")


def edit(store: Store, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes rows of a table behind the pipeline's back: in the files of its newest version, one by one."""
    for path in store.shards(name):
        rows = pq.read_table(store.layout.local / path)
        new = shard_file(f"edited/{path}", name)
        store.files.make(new, partial(write_parquet, change(rows), name))
        assert store.replace(name, [path], [new])


def invoke(*words: str, code: int = 0) -> SimpleNamespace:
    """Runs the command within this process and holds its exit code against `code`; gives `stdout` and `stderr`."""
    from typer.testing import CliRunner

    from flows.cli.main import app

    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, f"{words}: exit {done.exit_code} {done.exception!r}\n{done.output}"
    return SimpleNamespace(stdout=done.stdout, stderr=done.stderr)


def refused(*words: str) -> str:
    """The one line in which the command says what is wrong with what it was asked."""
    done = invoke(*words, code=2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("reval: ")
    return lines[0]
