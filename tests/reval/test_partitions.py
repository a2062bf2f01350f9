"""A pass gives the same result in any micro-batches, packed or padded, by one process or several, sharded or not."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.children.team import Team
from pipeline.children.worker import WorkerDied
from reval.trainer import Trainer
from schemas import UserError
from tests.helpers.command import environment
from tests.helpers.passes import N, prepare, settings, weights

pytestmark = pytest.mark.slow
ONE_UPDATE = [list(range(N))]
TWO_UPDATES = [list(range(N)), [3, 1, 4, 5, 9, 2, 6]]


class Alone:
    """A team of one: the trainer in this process, which has everything imported."""

    def call(self, method: str, *, folder: str) -> None:
        getattr(Trainer(), method)(Path(folder))


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Any]]:
    """A team of trainers by its size. One thread each: with two, MKL adds up a matrix of few rows in another order."""
    folder = tmp_path_factory.mktemp("teams")
    n_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        started = {n: Team("pipeline.runs.trainer_child", n, log=folder / f"{n}.log") for n in (2, 3)}
        yield {1: Alone(), **started}.__getitem__
        for team in started.values():
            team.close()
        torch.set_num_threads(n_threads)


def run(team: Any, folder: Path, policy: Path, updates: list[list[int]], **changes: object) -> Path:
    prepare(folder, settings(folder, policy, **changes), updates)
    team.call("run_pass", folder=str(folder))
    return folder


def gradient(folder: Path) -> dict[str, torch.Tensor]:
    """The gradient of a pass of one update: AdamW's first moment afterwards is a tenth of it."""
    moments = load_file(folder / "optimizer.safetensors")
    return {name: 10 * value for name, value in moments.items() if name.startswith("exp_avg.")}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5 * value.abs().max().item(), msg=name)


def test_one_gradient_however_it_is_cut(model_folder, tmp_path, teams) -> None:
    """Rows have different weights and are far from the reference, so every term of the loss matters."""
    how = {"max_grad_norm": 1e9}
    whole = gradient(run(teams(1), tmp_path / "whole", model_folder, ONE_UPDATE, micro_batch_tokens=4096, **how))
    assert min(value.abs().max() for value in whole.values()) > 0
    cuts = {1: (20, 60, 4096), 2: (20, 4096), 3: (20,)}
    every = [(n, batching, size) for n, sizes in cuts.items() for batching in ("packed", "padded") for size in sizes]
    for n, batching, budget in every:
        folder = tmp_path / f"{n}-{batching}-{budget}"
        cut = {"micro_batch_tokens": budget, "batching": batching}
        assert_close(gradient(run(teams(n), folder, model_folder, ONE_UPDATE, **cut, **how)), whole)
    for n, sharding in itertools.product((2, 3), ("full", "offloaded")):
        folder = tmp_path / f"{n}-{sharding}"
        cut = {"micro_batch_tokens": 60, "sharding": sharding, "checkpointing": "layers"}
        assert_close(gradient(run(teams(n), folder, model_folder, ONE_UPDATE, **cut, **how)), whole)


@pytest.mark.parametrize("objective", ["reval", "grpo", "tba"])
def test_the_number_of_processes_changes_no_bit(model_folder, tmp_path, teams, objective) -> None:
    made = [
        run(teams(n), tmp_path / str(n), model_folder, TWO_UPDATES, objective=objective, micro_batch_tokens=40)
        for n in (1, 2, 3)
    ]
    for other in made[1:]:
        for name, expected in weights(made[0]).items():
            assert torch.equal(weights(other)[name], expected), name
        assert pq.read_table(other / "updates.parquet").equals(pq.read_table(made[0] / "updates.parquet"))


def test_a_pass_without_updates_keeps_the_weights(model_folder, tmp_path, teams) -> None:
    prepare(tmp_path, settings(tmp_path, model_folder), ONE_UPDATE)
    pq.write_table(pq.read_table(tmp_path / "draws.parquet").slice(0, 0), tmp_path / "draws.parquet")
    for n in (2, 3):
        teams(n).call("run_pass", folder=str(tmp_path))
    before = load_file(model_folder / "model.safetensors")
    assert all(torch.equal(weights(tmp_path)[name], value) for name, value in before.items())


def test_a_sharded_pass_goes_on_as_any_other(model_folder, tmp_path, teams) -> None:
    """Weights and moments are gathered from the parts and split again, for any number of processes."""
    whole = run(teams(1), tmp_path / "whole", model_folder, TWO_UPDATES)
    first = run(teams(2), tmp_path / "first", model_folder, TWO_UPDATES[:1], sharding="full")
    folder = tmp_path / "second"
    prepare(folder, settings(folder, model_folder), TWO_UPDATES[1:])
    going_on = settings(folder, first / "policy", sharding="full", optimizer=str(first / "optimizer.safetensors"))
    prepare(folder, going_on, TWO_UPDATES[1:], reference=model_folder)
    teams(3).call("run_pass", folder=str(folder))
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(folder)[name], expected, rtol=0, atol=2e-4, msg=name)
    assert weights(folder).keys() == weights(whole).keys()


def test_accelerate_launches_it_where_nothing_else_is(model_folder, tmp_path, teams) -> None:
    """Two processes by `accelerate launch`, with only `reval` and `schemas` and the packages that the trainer lists."""
    folder = tmp_path / "pass"
    prepare(folder, settings(folder, model_folder, micro_batch_tokens=40), TWO_UPDATES)
    alone = tmp_path / "alone"
    alone.mkdir()
    root = Path(__file__).parents[2]
    for name in ("reval", "schemas"):
        (alone / name).symlink_to(root / name)
    others = "duckdb deltalake polars prefect pydantic typer rich math_verify vllm pipeline flows obstore"
    (alone / "sitecustomize.py").write_text(
        f"import sys\nfor name in {others.split()!r}:\n    sys.modules[name] = None\n"
    )
    env = {**environment(tmp_path), "PYTHONPATH": str(alone), "OMP_NUM_THREADS": "1"}

    def done(*words: str | Path) -> str:
        """The output, if it ends with success."""
        ended = subprocess.run(words, cwd=alone, env=env, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        return ended.stderr

    launch = [Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
    assert "update 2/2" in done(*launch, "--main_process_port", "0", "-m", "reval.trainer", folder)
    one = tmp_path / "one"
    prepare(one, settings(one, model_folder, micro_batch_tokens=40), TWO_UPDATES)
    teams(1).call("run_pass", folder=str(one))
    assert all(torch.equal(weights(one)[name], value) for name, value in weights(folder).items())


def test_the_end_of_one_is_the_end_of_all(model_folder, tmp_path, teams) -> None:
    """Killed in mid-pass, as by the system when memory is short: an error says so, and the next call continues it."""
    folder = tmp_path / "pass"
    prepare(folder, settings(folder, model_folder), ONE_UPDATE * 8)
    team = teams(2)
    team.call("forward", pq.read_table(folder / "rollouts.parquet"), location=str(model_folder), **HOW)
    second = team.pids[1]
    with pytest.raises(WorkerDied, match="killed by SIGKILL"):
        team.call("run_pass", folder=str(folder), progress=lambda done, total: done == 3 and os.kill(second, 9))
    team.call("run_pass", folder=str(folder))
    whole = run(teams(1), tmp_path / "whole", model_folder, ONE_UPDATE * 8)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(folder).items())


HOW = {"device": "cpu", "micro_batch_tokens": 64}


def test_a_mistake_is_one_line_from_all_of_them(tmp_path, teams) -> None:
    """The last test: it ends the team, as the death above did, and the next call would start another."""
    team = teams(2)
    with pytest.raises(UserError, match="is no folder of a training pass"):
        team.call("run_pass", folder=str(tmp_path))
    assert team.pids == []
