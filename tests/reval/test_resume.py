"""A pass that is killed goes on after the last saved update and ends with the same weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from reval.rollouts import read
from reval.state import Checkpoint
from reval.trainer import Trainer
from schemas import UserError
from tests.helpers.command import environment
from tests.helpers.passes import N, prepare, settings, weights

pytestmark = pytest.mark.slow
N_UPDATES, N_KILLS = 60, 10


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], int]]:
    """Starts the pass of a folder in a process of its own and says its pid."""
    cwd = tmp_path_factory.mktemp("runner")
    runner = subprocess.Popen(
        [sys.executable, "-m", "tests.reval.pass_runner"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment(cwd), "OMP_NUM_THREADS": "1"},
        text=True,
    )

    def begin(folder: Path) -> int:
        runner.stdin.write(f"{folder}\n")
        runner.stdin.flush()
        return int(runner.stdout.readline())

    yield begin
    runner.stdin.close()
    runner.wait()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def progress(folder: Path) -> int:
    """The number of checkpoints saved so far."""
    return max((int(path.name.rpartition("-")[2]) for path in folder.glob("state-*")), default=0)


def ended(folder: Path) -> bool:
    return (folder / "result.json").exists()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {**weights(folder), **load_file(folder / "optimizer.safetensors")}


def test_killed_ten_times_it_makes_the_same_weights(model_folder, tmp_path, start) -> None:
    """Each kill comes at a random moment after one more checkpoint: while it computes, or while it saves."""
    updates = [random.Random(u).sample(range(N), 7) for u in range(N_UPDATES)]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        prepare(folder, settings(folder, model_folder), updates)
    start(undisturbed)
    chance = random.Random(5)
    reached = []
    for _ in range(N_KILLS):
        child = start(killed)
        before = progress(killed)
        wait_for(lambda before=before: progress(killed) > before or ended(killed))
        time.sleep(0.05 * chance.random())
        assert not ended(killed), "the pass was over before it could be killed as often"
        os.kill(child, signal.SIGKILL)
        reached.append(progress(killed))
    assert reached == sorted(reached)
    assert reached[-1] >= N_KILLS
    start(killed)
    wait_for(lambda: ended(killed))
    expected = tensors(undisturbed)
    assert tensors(killed).keys() == expected.keys()
    for name, value in tensors(killed).items():
        assert torch.equal(value, expected[name]), name
    rows = pq.read_table(killed / "updates.parquet")
    assert rows.equals(pq.read_table(undisturbed / "updates.parquet"))
    assert len(rows) == 7 * N_UPDATES
    assert pq.read_table(killed / "steps.parquet")["update"].to_pylist() == list(range(N_UPDATES))
    assert not list(killed.glob("state-*"))


def test_what_was_saved_for_other_inputs_is_not_gone_on_with(model_folder, tmp_path) -> None:
    updates = [list(range(N)), [1, 2, 3]]
    plain, folder = tmp_path / "plain", tmp_path / "pass"
    for each in (plain, folder):
        prepare(each, settings(each, model_folder), updates)
    Trainer().run_pass(plain)
    # The same pass stopped after its first update, and then asked for at another learning rate.
    with pytest.raises(KeyboardInterrupt):
        Trainer().run_pass(folder, stop_after_one)
    assert Checkpoint(folder, read(folder).inputs).load() is not None
    prepare(folder, settings(folder, model_folder, learning_rate=2e-3), updates)
    assert Checkpoint(folder, read(folder).inputs).load() is None
    Trainer().run_pass(folder)
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(folder).items())
    steps = pq.read_table(folder / "steps.parquet").to_pylist()
    assert [step["learning_rate"] for step in steps] == [2e-3, 2e-3]


def stop_after_one(done: int, total: int) -> None:
    if done == 2:
        raise KeyboardInterrupt


def test_a_pass_that_has_ended_is_not_run_again(model_folder, tmp_path) -> None:
    prepare(tmp_path, settings(tmp_path, model_folder), [list(range(N))])
    Trainer().run_pass(tmp_path)
    first = (tmp_path / "result.json").read_text()
    calls: list[int] = []
    Trainer().run_pass(tmp_path, lambda done, total: calls.append(done))
    assert not calls
    assert (tmp_path / "result.json").read_text() == first
    assert json.loads(first)["n_updates"] == 1


def test_the_folder_moves_with_what_it_names(model_folder, tmp_path) -> None:
    """Paths in pass.json may be relative to the folder, so the folder can be moved."""
    home = tmp_path / "home"
    folder = home / "pass"
    how = settings(folder, model_folder)
    prepare(folder, how, [list(range(N))])
    said = json.loads((folder / "pass.json").read_text())
    (home / "base").symlink_to(model_folder)
    said |= {"policy": "../base", "policy_out": "../out", "optimizer_out": "../moments.safetensors"}
    (folder / "pass.json").write_text(json.dumps(said))
    home.rename(tmp_path / "elsewhere")
    Trainer().run_pass(tmp_path / "elsewhere" / "pass")
    assert (tmp_path / "elsewhere" / "out" / "model.safetensors").is_file()
    assert (tmp_path / "elsewhere" / "moments.safetensors").is_file()


def test_a_pass_of_an_older_version_lacks_newer_settings(model_folder, tmp_path) -> None:
    """They have their defaults then; an unknown setting is an error that names it."""
    how = settings(tmp_path, model_folder, adam_beta2=0.99)
    prepare(tmp_path, how, [list(range(N))])
    said = json.loads((tmp_path / "pass.json").read_text())
    for name in ("clip_low", "precision", "batching", "sharding", "trackers", "tracked", "first_step"):
        del said[name]
    (tmp_path / "pass.json").write_text(json.dumps(said))
    assert read(tmp_path).settings == how
    (tmp_path / "pass.json").write_text(json.dumps({**said, "momentum": 0.9}))
    with pytest.raises(UserError, match=r"pass\.json: unknown setting momentum; known: adam_beta1"):
        read(tmp_path)
