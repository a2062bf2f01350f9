"""The training pass: given draws in, a new policy out. It decides nothing about which rows to use.

A pass is a folder. In: `pass.json` (see `Settings`), `draws.parquet` (update, slot, trajectory_id, weight, reward,
baseline) and `rollouts.parquet` (trajectory_id, prompt_token_ids, response_token_ids, ref_logprob_sum, ref_value).
No draws are no updates: the weights stay as they are.
Out: the policy's folder, its optimizer state, and `updates.parquet` and `result.json` in the pass's folder.

The same update gives the same gradient, to float32 rounding, however it is cut into micro-batches.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reval import bellman
from reval.batch import Batch, collate, micro_batches
from reval.bellman import Sums
from reval.model import load, pick_device, score, sum_by_trajectory
from reval.objectives import OBJECTIVES
from reval.weights import weights_digest

Progress = Callable[[int, int], None]
COUNTED = ("update", "slot")


@dataclass(frozen=True)
class Settings:
    """The contents of `pass.json`. Paths are absolute; `optimizer` is null for a start from zero moments."""

    policy: str
    optimizer: str | None
    policy_out: str
    optimizer_out: str
    objective: str
    beta: float
    learning_rate: float
    adam_beta1: float
    adam_beta2: float
    weight_decay: float
    max_grad_norm: float
    micro_batch_tokens: int
    device: str


class Trainer:
    """Holds the last model used, so that a pass need not load what the one before has just saved."""

    def __init__(self) -> None:
        self._location: str | None = None
        self._model: Any = None

    def model(self, location: str, device: torch.device) -> Any:
        if location != self._location:
            self._location, self._model = None, None  # let go of the old weights before the new ones come
            self._model = load(location, device)
            self._location = location
        return self._model

    @torch.no_grad()
    def forward(
        self,
        location: str,
        rollouts: pa.Table,
        *,
        device: str,
        micro_batch_tokens: int,
        temperature: float = 1.0,
        progress: Progress = lambda done, total: None,
    ) -> pa.Table:
        """Scores of given rollouts under a policy.

        Args:
            rollouts: prompt_token_ids and response_token_ids, one row per trajectory.

        Returns:
            logprob_sum, value (float64, nats) and logprobs (a list per response token), in the rows' order.
        """
        target = pick_device(device)
        model = self.model(location, target)
        found: list[tuple[float, float, list[float]]] = [(0.0, 0.0, [])] * len(rollouts)
        done = 0
        for rows, batch in _batches(rollouts, list(range(len(rollouts))), micro_batch_tokens):
            batch = batch.to(target)
            scores = score(model, batch, temperature)
            sums = sum_by_trajectory(scores.logp_N, batch).tolist()
            ends = [*batch.first_B.tolist()[1:], len(batch.target_N)]
            logps = scores.logp_N.tolist()
            for i, row in enumerate(rows):
                found[row] = (sums[i], float(scores.value_B[i]), logps[int(batch.first_B[i]) : ends[i]])
            done += len(rows)
            progress(done, len(rollouts))
        logprob_sum, value, logprobs = zip(*found, strict=True) if found else ((), (), ())
        return pa.table(
            {
                "logprob_sum": pa.array(logprob_sum, pa.float64()),
                "value": pa.array(value, pa.float64()),
                "logprobs": pa.array(logprobs, pa.list_(pa.float32())),
            }
        )

    def run_pass(self, folder: Path, progress: Progress = lambda done, total: None) -> None:
        """Runs the pass described in `folder`. Whatever it left there or at its outputs before is replaced.

        Raises:
            FloatingPointError: a residual or a gradient is not finite; the message names the trajectory.
        """
        began = time.perf_counter()
        settings = Settings(**json.loads((folder / "pass.json").read_text()))
        draws = pq.read_table(folder / "draws.parquet").sort_by([("update", "ascending"), ("slot", "ascending")])
        rollouts = pq.read_table(folder / "rollouts.parquet")
        row_of = {name: row for row, name in enumerate(rollouts["trajectory_id"].to_pylist())}

        device = pick_device(settings.device)
        model = self.model(settings.policy, device)
        self._location = None  # from here on the weights are no policy's until they are saved
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.weight_decay,
        )
        if settings.optimizer is not None:
            load_optimizer(optimizer, model, Path(settings.optimizer))

        columns: dict[str, list[Any]] = {name: [] for name in (*COUNTED, *bellman.Residual._fields)}
        losses, norms, n_tokens = [], [], 0
        updates = _by_update(draws)
        for done, rows in enumerate(updates):
            drawn = [row_of[name] for name in rows["trajectory_id"].to_pylist()]
            loss, norm, residual, tokens = self._update(model, optimizer, settings, rollouts, rows, drawn)
            losses.append(loss)
            norms.append(norm)
            n_tokens += tokens
            columns["update"] += rows["update"].to_pylist()
            columns["slot"] += rows["slot"].to_pylist()
            for name, values in residual._asdict().items():
                columns[name] += values.tolist()
            progress(done + 1, len(updates))

        save_policy(model, settings.policy, Path(settings.policy_out))
        save_optimizer(optimizer, model, Path(settings.optimizer_out))
        self._location = settings.policy_out
        arrays = {
            name: pa.array(values, pa.int64() if name in COUNTED else pa.float64()) for name, values in columns.items()
        }
        updates_table = pa.table({name.removesuffix("_B"): values for name, values in arrays.items()})
        pq.write_table(updates_table, folder / "updates.parquet")
        result = {
            "n_updates": len(updates),
            "n_draws": len(draws),
            "n_tokens": n_tokens,
            "loss": sum(losses) / len(losses) if updates else None,
            "grad_norm": sum(norms) / len(norms) if updates else None,
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "weights_digest": weights_digest(Path(settings.policy_out)),
            "seconds": time.perf_counter() - began,
        }
        (folder / "result.json").write_text(json.dumps(result))

    def _update(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        rollouts: pa.Table,
        draws: pa.Table,
        drawn: list[int],
    ) -> tuple[float, float, bellman.Residual, int]:
        """One optimizer step on the rows `drawn`; returns the loss before it, the gradient norm, residuals, tokens."""
        device = next(model.parameters()).device
        target_B = (column(draws, "reward") - column(draws, "baseline")) / settings.beta
        weight_B = column(draws, "weight")
        ref_logp_sum_B = column(rollouts, "ref_logprob_sum")[drawn]
        ref_value_B = column(rollouts, "ref_value")[drawn]
        parts: list[Tensor] = [torch.zeros(len(drawn), dtype=torch.float64) for _ in bellman.Residual._fields]
        total, n_tokens = 0.0, 0
        optimizer.zero_grad(set_to_none=True)
        for rows, batch in _batches(rollouts, drawn, settings.micro_batch_tokens):
            batch = batch.to(device)
            scores = score(model, batch)
            sums = Sums(
                sum_by_trajectory(scores.logp_N, batch),
                scores.value_B.double(),
                *(tensor[rows].to(device) for tensor in (ref_logp_sum_B, ref_value_B, target_B)),
            )
            residual = OBJECTIVES[settings.objective](sums)
            loss = bellman.loss(residual.residual_B, weight_B[rows].to(device), len(drawn))
            for whole, part in zip(parts, residual, strict=True):
                whole[rows] = part.detach().cpu()
            if not bool(torch.isfinite(loss)):
                self._blame(draws, parts[0])
            loss.backward()
            total += loss.item()
            n_tokens += int((batch.position_N[batch.first_B] + 1).sum()) + len(batch.target_N)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm))
        if norm != norm or norm == float("inf"):
            raise FloatingPointError(f"update {draws['update'][0]}: gradient norm is {norm}; the pass changed nothing")
        optimizer.step()
        return total, norm, bellman.Residual(*parts), n_tokens

    @staticmethod
    def _blame(draws: pa.Table, residual_B: Tensor) -> None:
        slot = int((~torch.isfinite(residual_B)).nonzero()[0])
        name, update = draws["trajectory_id"][slot], draws["update"][slot]
        raise FloatingPointError(f"update {update}, trajectory {name}: residual is {float(residual_B[slot])}")


def column(rows: pa.Table, name: str) -> Tensor:
    """A numeric column as float64."""
    return torch.from_numpy(rows[name].to_numpy().astype("float64"))


def save_policy(model: Any, parent: str, folder: Path) -> None:
    """Writes a Hugging Face folder: the weights as safetensors, and everything else as in the parent's folder.

    The folder appears whole or not at all.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    for path in Path(parent).iterdir():
        if path.is_file() and path.name != "config.json" and not is_weights(path.name):
            shutil.copy2(path, temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".pt", ".pth", ".index.json"))


def save_optimizer(optimizer: torch.optim.Optimizer, model: Any, path: Path) -> None:
    """Writes AdamW's moments as `state.parameter` tensors in one safetensors file, which appears whole or not at all."""
    state = {
        f"{key}.{name}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(state, temporary)
    temporary.rename(path)


def load_optimizer(optimizer: torch.optim.Optimizer, model: Any, path: Path) -> None:
    """Restores what `save_optimizer` wrote."""
    stored = load_file(path)
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if (value := stored.get(f"{key}.{name}")) is None:
                break  # it has had no gradient yet
            optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)


def _by_update(draws: pa.Table) -> list[pa.Table]:
    """The draws cut into updates; they come sorted."""
    numbers = draws["update"].to_pylist()
    starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1]]
    return [draws.slice(a, b - a) for a, b in pairwise([*starts, len(numbers)])]


def _batches(rollouts: pa.Table, drawn: list[int], budget: int) -> Iterator[tuple[list[int], Batch]]:
    """Micro-batches over the rows `drawn` of `rollouts`, each with the places in `drawn` that it holds."""
    taken = rollouts.take(pa.array(drawn, pa.int64()))
    prompts, responses = taken["prompt_token_ids"].to_pylist(), taken["response_token_ids"].to_pylist()
    n_tokens = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    for places in micro_batches(n_tokens, budget):
        yield places, collate([prompts[i] for i in places], [responses[i] for i in places])
