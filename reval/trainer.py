"""The training pass: it is given draws and makes a new policy. It does not choose which rows to use.

A pass is a folder (reval/rollouts.py says what it holds). A pass writes the policy's folder, its optimizer state, and
`updates.parquet`, `steps.parquet` and `result.json` in its own folder. Without draws there are no updates, and the
weights do not change. A pass can be killed at any moment: started again, it continues after the last update it saved,
and ends with the same weights.

It needs torch, transformers, accelerate and pyarrow, and of this project only `reval` and `schemas`:

    accelerate launch [--multi_gpu --num_processes N] -m reval.trainer PASS_FOLDER      (--multi_gpu on CPUs too)

The same update gives the same gradient, to float32 rounding, for any split into micro-batches, packed or padded, and for
any number of processes. On CPUs the number of processes changes no bit, if each has one thread.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from reval import model as models
from reval.adapters import adapt, merged
from reval.model import Policy, pick_device, sum_by_trajectory
from reval.objectives import objective
from reval.parallel import World, leave, shard
from reval.rollouts import Pass, Rollouts, read
from reval.state import Checkpoint, moments, restore, save_policy, save_tensors, trained
from reval.tracking import Trackers
from reval.update import OF_A_ROW, batches, update
from reval.weights import weights_digest
from schemas import TABLES, UserError

Progress = Callable[[int, int], None]
KEYS = ("update", "slot")


class Trainer:
    """Keeps the last policy in memory, so that a pass need not load the policy that the pass before it has just saved."""

    def __init__(self) -> None:
        self._location: str | None = None
        self._policy: Policy | None = None
        self._trackers = Trackers()

    def policy(self, location: str, device: torch.device) -> Policy:
        if self._policy is None or location != self._location:
            self._location, self._policy = None, None  # free the old weights before the new ones are loaded
            self._policy = models.policy(location, device)
            self._location = location
        return self._policy

    @torch.no_grad()
    def forward(
        self,
        location: str,
        rollouts: pa.Table,
        *,
        device: str,
        micro_batch_tokens: int,
        precision: str = "float32",
        batching: str = "packed",
        temperature: float = 1.0,
        progress: Progress = lambda done, total: None,
    ) -> pa.Table:
        """Scores of given rollouts under a policy. Each process scores its share; all processes get the whole result.

        Args:
            rollouts: prompt_token_ids and response_token_ids, one row per trajectory.

        Returns:
            logprob_sum, value (float64, nats) and logprobs (a list per response token), in the rows' order.
        """
        world = World(pick_device(device))
        policy = self.policy(location, world.device)
        rows = Rollouts(rollouts)
        n = len(rows)
        sums, values = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        ends = torch.tensor([len(response) for response in rows.responses], dtype=torch.long).cumsum(0)
        logps = torch.zeros(int(ends[-1]) if n else 0, dtype=torch.float32)
        done = 0
        for places, batch in batches(world, policy, rows, torch.arange(n), micro_batch_tokens, batching):
            scores = policy(batch, precision=precision, temperature=temperature)
            sums[places] = sum_by_trajectory(scores.logp_N, batch).cpu()
            values[places] = scores.value_B.double().cpu()
            first_B = torch.tensor([int(ends[row]) - len(rows.responses[row]) for row in places])
            row_N, first_N = batch.row_N.cpu(), batch.first_B.cpu()
            logps[first_B[row_N] + torch.arange(len(row_N)) - first_N[row_N]] = scores.logp_N.cpu()
            done += len(places)
            progress(min(n, done * world.size), n)
        world.add_up([sums, values, logps])
        offsets = pa.array([0, *ends.tolist()], pa.int32())
        return pa.table(
            {
                "logprob_sum": pa.array(sums.numpy()),
                "value": pa.array(values.numpy()),
                "logprobs": pa.ListArray.from_arrays(offsets, pa.array(logps.numpy())),
            }
        )

    def run_pass(self, folder: Path, progress: Progress = lambda done, total: None) -> None:
        """Runs the pass described in `folder`, or the rest of it. Does nothing if the pass has ended.

        Raises:
            UserError: the folder is not one of a pass, or a setting is not possible on this machine.
            FloatingPointError: a loss or a gradient is not finite; the message names the trajectory.
        """
        began = time.perf_counter()
        the_pass = read(folder)
        settings = the_pass.settings
        world = World(pick_device(settings.device), in_step=settings.sharding != "none")
        has_ended = _has_ended(the_pass)
        world.wait()  # or one process might end a pass without updates before another has looked
        if has_ended:
            return
        policy, optimizer = self._prepare(world, the_pass)
        checkpoint = Checkpoint(folder, the_pass.inputs)
        said: dict[str, Any] = {"rows": {name: [] for name in (*KEYS, *OF_A_ROW)}, "steps": [], "seconds": 0.0}
        if saved := checkpoint.load():
            said, tensors = saved
            restore(policy, optimizer, tensors)
        before = said["seconds"]
        chosen = objective(settings.objective, clip_low=settings.clip_low, clip_high=settings.clip_high)
        n_done, n_updates = len(said["steps"]), len(the_pass.updates)
        for number, draws in enumerate(the_pass.updates[n_done:], start=n_done + 1):
            found = update(world, policy, optimizer, chosen, the_pass, draws)
            for name in KEYS:
                said["rows"][name] += draws[name].to_pylist()
            for name, values in found.rows.items():
                said["rows"][name] += values.tolist()
            said["steps"].append(found.step)
            self._trackers.log(world, the_pass, found.step, number)
            progress(number, n_updates)
            if number < n_updates and checkpoint.is_due(world):
                said["seconds"] = before + time.perf_counter() - began
                checkpoint.save(world, said, {**trained(policy), **moments(policy, optimizer)})
        self._end(world, the_pass, policy, optimizer)
        if not world.rank:
            _write(the_pass, policy, said, before + time.perf_counter() - began)
            checkpoint.clear()
        world.wait()

    def _prepare(self, world: World, the_pass: Pass) -> tuple[Policy, torch.optim.Optimizer]:
        """The policy a pass begins with, and an optimizer that continues from its saved state."""
        settings = the_pass.settings
        policy = self.policy(the_pass.policy, world.device)
        self._location = None  # from now on the weights change; they have no folder until they are saved
        policy.compute_again(settings.checkpointing == "layers")
        if settings.lora_rank:
            self._policy = None  # adapters cannot be removed again
            adapt(policy, settings.lora_rank, settings.lora_alpha)
        if world.in_step:
            self._policy = None
            shard(policy, world, offload=settings.sharding == "offloaded")
        optimizer = torch.optim.AdamW(
            [weight for weight in policy.parameters() if weight.requires_grad],
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.weight_decay,
            fused=not world.in_step,
        )
        if settings.optimizer is not None:
            restore(policy, optimizer, models.load_tensors(the_pass.path(settings.optimizer)))
        return policy, optimizer

    def _end(self, world: World, the_pass: Pass, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        """Saves the policy and the optimizer's state."""
        settings = the_pass.settings
        out = the_pass.path(settings.policy_out)
        state = moments(policy, optimizer)
        if settings.lora_rank:
            state |= trained(policy)
        save_policy(world, policy, merged(policy), the_pass.policy, out)
        if not world.rank:
            save_tensors(state, the_pass.path(settings.optimizer_out))
        if self._policy is policy:
            self._location = str(out)


def _has_ended(the_pass: Pass) -> bool:
    result = the_pass.folder / "result.json"
    return (
        result.is_file()
        and json.loads(result.read_text())["inputs"] == the_pass.inputs
        and the_pass.path(the_pass.settings.policy_out).is_dir()
    )


def _write(the_pass: Pass, policy: Policy, said: dict[str, Any], seconds: float) -> None:
    """Writes the results of the pass. `result.json` is last: with it the pass has ended."""
    settings, steps = the_pass.settings, said["steps"]
    rows = {
        name: pa.array(values, pa.int64() if name in KEYS else pa.float64(), from_pandas=True)
        for name, values in said["rows"].items()
        if name != "loss"
    }
    pq.write_table(pa.table(rows), the_pass.folder / "updates.parquet")
    schema = TABLES["steps"].schema
    schema = schema.remove(schema.get_field_index("pass_id"))
    pq.write_table(pa.Table.from_pylist(steps, schema), the_pass.folder / "steps.parquet")
    result = {
        "inputs": the_pass.inputs,
        "batching": policy.batching(settings.batching),
        "n_updates": len(steps),
        "n_draws": len(the_pass.draws),
        "n_tokens": sum(step["n_tokens"] for step in steps),
        "loss": sum(step["loss"] for step in steps) / len(steps) if steps else None,
        "grad_norm": sum(step["grad_norm"] for step in steps) / len(steps) if steps else None,
        "n_parameters": policy.n_parameters,
        "weights_digest": weights_digest(the_pass.path(settings.policy_out)),
        "seconds": seconds,
    }
    temporary = the_pass.folder / "result.tmp"
    temporary.write_text(json.dumps(result))
    temporary.rename(the_pass.folder / "result.json")


def main() -> int:
    """`python -m reval.trainer PASS_FOLDER`, with or without `accelerate launch`."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write("usage: accelerate launch -m reval.trainer PASS_FOLDER\n\n" + (__doc__ or ""))
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    folder, began = Path(sys.argv[1]), time.perf_counter()
    is_first = os.environ.get("RANK", "0") == "0"

    def say(done: int, total: int) -> None:
        left = (time.perf_counter() - began) / done * (total - done)
        if is_first:
            sys.stderr.write(f"update {done}/{total}, {left:.0f} s left\n")

    try:
        Trainer().run_pass(folder, say)
    except (UserError, FloatingPointError) as error:
        sys.stderr.write(f"reval.trainer: {error}\n")
        return 2
    if is_first:
        sys.stderr.write((folder / "result.json").read_text() + "\n")
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
