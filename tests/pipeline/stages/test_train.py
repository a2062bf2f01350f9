"""Training passes through the pipeline: adapters, trackers, a pass trained elsewhere, memory."""

import importlib.util
import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config

from pipeline import recipes
from pipeline.archive.store import Store
from pipeline.query import db
from pipeline.recipes.config import Config
from pipeline.runs import memory
from pipeline.stages.train import prepare
from reval import attention
from reval.batch import collate
from reval.model import Policy
from reval.rollouts import read
from reval.settings import Algorithm, Execution
from reval.trainer import Trainer
from tests.helpers.archives import run_pass
from tests.helpers.command import invoke, refused
from tests.helpers.runs import open_run

pytestmark = pytest.mark.usefixtures("warm")


def retrain(archive: Path, settings: dict[str, object], n: int = 2, **changes: object) -> Path:
    """Runs `n` passes of a retraining named `more`; returns the folder of weights."""
    config = recipes.load("arithmetic", {**settings, **changes}, iterations=n, defaults=recipes.RETRAIN)
    with open_run("retrain", config, archive, name="more") as run:
        for i in range(1, n + 1):
            run_pass(run, i)
    return archive / "weights"


def words(settings: dict[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


class TestAdapters:
    def test_a_policy_is_its_base_and_what_a_few_ranks_add(self, archive, trained) -> None:
        """The merged policy is an ordinary folder; the second pass continues the same adapters on the same base."""
        how = {"train.lora_rank": 4, "train.reset_every_iterations": 0, "train.learning_rate": 1e-2}
        weights = retrain(archive, trained.settings, **how)
        base = load_file(Path(trained.settings["policy.base"]) / "model.safetensors")
        one, two = (load_file(weights / f"more-000{i}" / "model.safetensors") for i in (1, 2))
        assert one.keys() == base.keys()
        for name, before in base.items():
            linear = "_proj.weight" in name
            for made in (one, two):
                rank = int(torch.linalg.matrix_rank((made[name] - before).double(), rtol=1e-4)) if before.dim() > 1 else 0
                assert rank == (4 if linear else 0), name
            assert torch.equal(one[name], two[name]) != linear, name
            assert linear or torch.equal(two[name], before), name
        found = db.ask(Store(archive), "SELECT DISTINCT reference_id FROM passes WHERE run_id = 'more'").read_all()
        assert found["reference_id"].to_pylist() == [trained_base(archive)]
        AutoModelForCausalLM.from_pretrained(weights / "more-0002")

    def test_the_first_residual_is_calibrated(self, archive, trained) -> None:
        """Fresh adapters change nothing: δ is -target for every row of the first update, as without them."""
        how = {"train.lora_rank": 4, "train.reset_every_iterations": 0}
        retrain(archive, trained.settings, 1, **how)
        rows = db.ask(
            Store(archive), "SELECT residual + target AS gap FROM updates WHERE pass_id = 'more-0001' AND update = 0"
        )
        assert max(map(abs, rows.read_all()["gap"].to_pylist())) < 1e-4


def trained_base(archive: Path) -> str:
    rows = db.ask(Store(archive), "SELECT base_policy_id FROM runs WHERE run_id = 'more'").read_all()
    return rows["base_policy_id"][0].as_py()


def test_trackers_get_every_step_of_a_run(archive, trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    retrain(archive, trained.settings, **{"runtime.trackers": ["tensorboard"]})
    statement = "SELECT grad_norm FROM steps WHERE pass_id LIKE 'more-%' ORDER BY pass_id, update"
    norms = db.ask(Store(archive), statement).read_all()["grad_norm"].to_pylist()
    kept = EventAccumulator(str(archive / "tracking" / "more")).Reload()
    events = kept.Scalars("grad_norm")
    assert [event.step for event in events] == list(range(1, len(norms) + 1))
    assert [event.value for event in events] == pytest.approx(norms, rel=1e-6)


def test_what_is_not_installed_is_said_before_anything_is_made(archive, trained, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else find(name))
    for setting, package in (('runtime.trackers=["wandb"]', "wandb"), ("train.lora_rank=4", "peft")):
        line = refused("retrain", "--archive", str(archive), "--set", setting, "--set", "train.reset_every_iterations=0")
        assert f"pip install {package}" in line


@pytest.mark.parametrize("objective", ["grpo", "reinforce", "tba"])
def test_every_objective_trains_on_what_is_archived(archive, trained, objective) -> None:
    """Also on replayed rows, with the log-probs and the group of the time when they were generated."""
    retrain(archive, trained.settings, 1, **{"train.objective": objective, "replay.rule": "groups"})
    statement = "SELECT clipped_share, entropy, residual FROM updates WHERE pass_id = 'more-0001'"
    rows = db.ask(Store(archive), statement).read_all().to_pylist()
    assert len(rows) >= 40
    assert all((row["clipped_share"] is not None) == (objective == "grpo") for row in rows)
    assert all(0 < row["entropy"] < 4 for row in rows)


def another(default: Any, kind: Any) -> Any:
    """A value for a setting that is not its default."""
    if get_origin(kind) is Literal:
        return next(choice for choice in reversed(get_args(kind)) if choice != default)
    if get_origin(kind) is tuple:
        return [get_args(get_args(kind)[0])[0]]
    return default + 1 if isinstance(default, int) else default / 2 or 0.5


def test_every_setting_of_the_trainer_reaches_it(archive, trained, tmp_path) -> None:
    """From the recipe to pass.json, and back as the trainer reads it. No other setting of the recipe is written there."""
    sections = {"train": Algorithm, "runtime": Execution}
    given = {
        (section, field.name): another(field.default, get_type_hints(declared)[field.name])
        for section, declared in sections.items()
        for field in fields(declared)
    }
    changed = {f"{section}.{name}": value for (section, name), value in given.items()}
    adapters = {"train.reset_every_iterations": 0, "train.reference": "reset"}
    config = recipes.load("arithmetic", {**trained.settings, **adapters, **changed}, defaults=recipes.RETRAIN)
    for (section, name), value in given.items():
        default = getattr(sections[section](), name)
        assert value != default != getattr(getattr(config, section), name), f"{section}.{name} is as ever"
    folder = archive / "scratch" / "more-0001"
    with open_run("retrain", config, archive, name="more") as run:
        prepare(run, 1, folder, archive / "weights" / "more-0001", tmp_path / "moments.safetensors")
    said = json.loads((folder / "pass.json").read_text())
    assert {name: said[name] for _, name in given} == {name: value for (_, name), value in given.items()}
    others = {"policy", "optimizer", "policy_out", "optimizer_out", "tracked", "first_step"}
    assert said.keys() == {name for _, name in given} | others
    read_back = asdict(read(folder).settings)
    assert json.loads(json.dumps(read_back)) == said


def test_a_pass_is_carried_elsewhere_and_its_result_taken_over(archive, trained) -> None:
    """`reval train --dry-run` loads nothing and writes the folder; `reval train` commits a pass trained elsewhere."""
    config = recipes.load("arithmetic", trained.settings, iterations=3)
    name = db.ask(Store(archive), "SELECT run_id FROM runs WHERE flow = 'iterate'").read_all()["run_id"][0].as_py()
    at = ["--archive", str(archive), "--run", name, *words(trained.settings)]
    assert "reference comes first" in refused("train", "--dry-run", *at)
    for stage in ("generate", "score", "draw", "reference"):
        invoke(stage, *at)
    said = invoke("train", "--dry-run", *at).stdout
    folder = archive / "scratch" / f"{name}-0003"
    assert f"accelerate launch -m reval.trainer {folder}" in said
    assert "Memory: the trainer about" in said
    assert not (archive / "weights" / f"{name}-0003").exists()
    assert json.loads((folder / "pass.json").read_text())["policy"].startswith("..")
    Trainer().run_pass(folder)
    made = load_file(archive / "weights" / f"{name}-0003" / "model.safetensors")
    result = (folder / "result.json").stat().st_mtime_ns
    steps = pq.read_table(folder / "steps.parquet")
    with open_run("iterate", config, archive, name=name) as run:
        from pipeline.stages.train import train

        assert (folder / "result.json").stat().st_mtime_ns == result
        train(run, 3)
    kept = db.ask(Store(archive), f"SELECT seconds FROM steps WHERE pass_id = '{name}-0003' ORDER BY update").read_all()
    assert kept["seconds"].to_pylist() == steps["seconds"].to_pylist(), "it was trained again"
    again = load_file(archive / "weights" / f"{name}-0003" / "model.safetensors")
    assert all(torch.equal(made[key], again[key]) for key in made)


@pytest.mark.parametrize(("precision", "compiled"), [("float32", False), ("bfloat16", False), ("bfloat16", True)])
def test_activations_are_estimated_from_sizes(precision, compiled) -> None:
    """Compared with the bytes torch keeps for backward, without weights: within a third, for compiled layers a tenth."""
    sizes, n_tokens = {"hidden_size": 192, "num_hidden_layers": 3, "intermediate_size": 640, "vocab_size": 500}, 1024
    model = AutoModelForCausalLM.from_config(Qwen2Config(num_attention_heads=6, num_key_value_heads=2, **sizes))
    model.set_attn_implementation(attention.NAME)
    kept: dict[int, torch.UntypedStorage] = {}
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    policy, batch = Policy(model), collate([[1, 2]] * 8, [[3] * (n_tokens // 8 - 2)] * 8)
    if compiled:
        policy.fuse("aot_eager_decomp_partition")  # the backend does not change what is kept
        policy.is_fused = False  # the head keeps the same
        policy(batch, precision=precision)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy(batch, precision=precision)
    runtime = {"device": "cuda" if compiled else "cpu", "micro_batch_tokens": n_tokens}
    config = Config(recipe="x", train={"precision": precision}, runtime=runtime)
    shape = memory.Shape(192, 3, 192, 64, 640, 500)
    found = memory.parts(config, 10**9, shape, 10, 1)
    probabilities = 4 * n_tokens * 500  # these are counted among the logits
    real = sum(storage.nbytes() for storage in kept.values()) - probabilities
    least, most = (0.9, 1.1) if compiled else (0.75, 1.33)
    assert least < found["activations"] / real < most, (found["activations"], real)


def test_memory_is_parted_when_weights_are(trained) -> None:
    sizes = memory.shape(trained.settings["policy.base"])
    whole, part = (
        memory.parts(Config(recipe="x", runtime={"device": "cuda", "sharding": how}), 10**9, sizes, 1, 8)
        for how in ("none", "full")
    )
    assert (whole["weights"], whole["gradients"], whole["moments"]) == (4e9, 4e9, 8e9)
    assert (part["weights"], part["gradients"], part["moments"]) == (5e8, 5e8, 1e9)
    adapters = memory.parts(Config(recipe="x", train={"lora_rank": 4, "reset_every_iterations": 0}), 10**9, sizes, 1, 1)
    assert adapters["moments"] < 1e6


def test_two_processes_make_what_one_makes(archive, trained, monkeypatch) -> None:
    """Through the run's own processes, with references: the same bits."""
    monkeypatch.undo()  # the trainer that is running is one process
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = []
    for n in (1, 2):
        settings = {**trained.settings, "runtime.trainer_processes": n, "runtime.micro_batch_tokens": 64}
        config = recipes.load("arithmetic", settings, iterations=1, defaults=recipes.RETRAIN)
        copy = shutil.copytree(archive, archive.with_name(f"copy-{n}"))
        with open_run("retrain", config, copy, name="more") as run:
            run_pass(run, 1)
            assert len(run.processes.trainer().pids) == n
        rows = db.ask(Store(copy), "SELECT * FROM updates WHERE pass_id = 'more-0001' ORDER BY update, slot").read_all()
        made.append((load_file(copy / "weights" / "more-0001" / "model.safetensors"), rows))
    (one, rows_of_one), (two, rows_of_two) = made
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert rows_of_one.equals(rows_of_two)


def test_kl_is_that_of_the_policy_which_made_the_rows(trained) -> None:
    """The second pass first trains on rollouts that its parent has just generated, under the reference of the first pass:
    the mean of their log-ratios estimates KL(parent ‖ reference). The parent of the first pass is its reference."""
    store = Store(trained.archive)
    found = {
        row["pass_id"]: row["kl"] for row in db.ask(store, "SELECT pass_id, kl FROM training").read_all().to_pylist()
    }
    fresh = "SELECT avg(log_ratio) AS kl FROM updates WHERE pass_id = 'arithmetic-0002' AND update = 0"
    assert found["arithmetic-0001"] == pytest.approx(0, abs=1e-6)
    assert found["arithmetic-0002"] == pytest.approx(db.ask(store, fresh).read_all()["kl"][0].as_py())
    assert found["arithmetic-0002"] > 1e-4
