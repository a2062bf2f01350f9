"""train: gives the trainer a folder with all it needs for a pass, and takes over the new policy that it made."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.materialise import Shard, materialise
from pipeline.progress import bar
from pipeline.query.fetch import TOKEN_IDS, fetch
from pipeline.recipes.schedules import at
from pipeline.runs.run import Run
from pipeline.verifiers import verifier_id
from reval.settings import Settings
from reval.weights import tokenizer_digest
from schemas import UserError

# The columns of a pass's record that come from the trainer.
RESULT = ("batching", "n_updates", "n_draws", "n_tokens", "loss", "grad_norm", "seconds")


def train(run: Run, iteration: int) -> None:
    """Runs the pass that the iteration's draws describe, and adds its policy, its rows and its record."""

    def plan() -> Iterator[Shard]:
        yield Shard("pass", ("updates", "steps", "passes", "policies"), compute)

    def compute() -> Mapping[str, pa.Table]:
        pass_id, layout = run.policy_id(iteration), run.store.layout
        folder, weights, moments = layout.scratch(pass_id), layout.weights(pass_id), layout.optimizer(pass_id)
        result = run_pass(run, iteration, folder, weights, moments)
        made = {name: pq.read_table(folder / f"{name}.parquet") for name in ("updates", "steps")}
        for path in (weights, moments):
            run.store.files.persist(path)
        names = {"pass_id": pass_id, "run_id": run.run_id, "iteration": iteration, "policy_id": pass_id}
        record = {
            **names,
            "parent_id": run.policy_id(iteration - 1),
            "reference_id": run.reference_id(iteration),
            "snapshot_id": run.snapshot_id(iteration),
            "objective": run.config.train.objective,
            "config": run.config.record_json(),
            "verifier_id": verifier_id(run.config.score.verifier),
            "micro_batch_tokens": run.config.runtime.micro_batch_tokens,
            **{key: result[key] for key in RESULT},
        }
        policy = {
            **names,
            "parent_id": run.policy_id(iteration - 1),
            "weights_digest": result["weights_digest"],
            "tokenizer_digest": tokenizer_digest(weights),
            "location": layout.relative(weights),
            "n_parameters": result["n_parameters"],
        }
        shutil.rmtree(folder)
        return {
            **{name: rows.append_column("pass_id", pa.array([pass_id] * len(rows))) for name, rows in made.items()},
            "passes": pa.Table.from_pylist([record]),
            "policies": pa.Table.from_pylist([policy]),
        }

    materialise(run.store, run.run_id, iteration, "train", plan)


def run_pass(run: Run, iteration: int, folder: Path, weights: Path, moments: Path) -> dict[str, Any]:
    """Lets the trainer run an iteration's pass in `folder`, from rows alone: its draws, their tokens, their references.

    A pass that was begun in the folder, here or by `accelerate launch -m reval.trainer`, is continued.

    Returns:
        the trainer's `result.json`; `updates.parquet` and `steps.parquet` stay in the folder.
    """
    prepare(run, iteration, folder, weights, moments)
    with bar(f"train, iteration {iteration}") as progress:
        run.processes.trainer().call("run_pass", progress=progress, folder=str(folder))
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def prepare(run: Run, iteration: int, folder: Path, weights: Path, moments: Path) -> None:
    """Writes the files that the trainer needs for an iteration's pass into `folder` (reval/rollouts.py lists them).

    Raises:
        UserError: the objective needs something that the drawn rollouts or the run do not have.
    """
    pass_id, parent_id = run.policy_id(iteration), run.policy_id(iteration - 1)
    settings, runtime = run.config.train, run.config.runtime
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(run.query("pass_draws", pass_id=pass_id), folder / "draws.parquet")
    rollouts = run.query(
        "pass_references", pass_id=pass_id, reference_id=run.reference_id(iteration), precision=settings.precision
    )
    wanted = (*TOKEN_IDS, "behaviour_logprobs") if settings.objective == "grpo" else TOKEN_IDS
    tokens = fetch(run.store, rollouts["trajectory_id"].to_pylist(), wanted)
    for name in wanted:
        rollouts = rollouts.append_column(name, tokens[name])
    pq.write_table(rollouts, folder / "rollouts.parquet")
    n_before = run.query("steps_before", run_id=run.run_id, iteration=iteration)["n_steps"][0].as_py()
    stands_on = run.base_policy_id if settings.lora_rank else parent_id

    def there(path: str | Path) -> str:
        """A path relative to the folder, so that both can be moved together; a hub name is not changed."""
        return os.path.relpath(path, folder) if Path(path).exists() or Path(path).is_absolute() else str(path)

    declared = {field.name: getattr(section, field.name) for section in (settings, runtime) for field in fields(section)}
    written = Settings(
        policy=there(run.location(stands_on)),
        # A run continues only with its own moments, never with those of another run or of its base policy.
        optimizer=there(_moments(run, parent_id)) if iteration > 1 else None,
        policy_out=there(weights),
        optimizer_out=there(moments),
        tracked=(there(run.store.layout.tracking), run.run_id),
        first_step=n_before,
        **declared | {"learning_rate": at(settings.learning_rate, iteration)},
    )
    (folder / "pass.json").write_text(json.dumps(asdict(written), indent=1))


def _moments(run: Run, policy_id: str) -> str:
    """The path of the optimizer's state of a policy of the run.

    Raises:
        UserError: it is missing, or was pruned.
    """
    address = run.store.layout.relative(run.store.layout.optimizer(policy_id))
    if (rule := run.store.pruned(address)) is not None:
        raise UserError(
            f"the optimizer state of {policy_id} was pruned, by {rule}, so the pass after it cannot be repeated; "
            "`--set keep.optimizer_states=0` keeps all to come"
        )
    path = run.store.files.bring(address)
    if not path.exists():
        raise UserError(
            f"run {run.run_id}: the optimizer state of {policy_id}, {path}, is not there, so the run cannot go on; "
            "begin another with --run (`reval export --weights` takes it along)"
        )
    return str(path)
