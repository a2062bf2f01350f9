"""One update of a policy: the gradient of a loss over given rows, in any number of parts, and the optimizer step.

Every process works on its share of the micro-batches. Their gradients add up to the gradient of the update, because the
loss of each part is divided by the number of trajectories of the whole update.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from reval import bellman
from reval.batch import Batch, micro_batches, sent, share_out
from reval.bellman import Sample
from reval.gradients import Gradients
from reval.head import Scores
from reval.model import Policy, sum_by_trajectory
from reval.objectives import Objective
from reval.parallel import World
from reval.rollouts import Pass, Rollouts, column
from schemas import UserError

# The results for each row of an update, in float64.
OF_A_ROW = ("loss", "residual", "value_gap", "log_ratio", "target", "entropy", "clipped_share")


class Update(NamedTuple):
    """The results of an update, from the weights before its step."""

    rows: dict[str, Tensor]  # OF_A_ROW; clipped_share is NaN if the objective does not clip
    step: dict[str, Any]  # the row of the table `steps`, without pass_id


class Trajectories:
    """The rows of one update, with the values of each that the objective needs."""

    def __init__(self, the_pass: Pass, draws: pa.Table) -> None:
        self.settings, self.rollouts, self.draws = the_pass.settings, the_pass.rollouts, draws
        self.row_B = self.rollouts.rows(draws["trajectory_id"].to_pylist())
        self.weight_B, self.reward_B = column(draws, "weight"), column(draws, "reward")
        self.advantage_B = self.reward_B - column(draws, "baseline")
        nobody_says = torch.full_like(self.reward_B, torch.nan)
        self.deviation_B = column(draws, "deviation") if "deviation" in draws.column_names else nobody_says
        if self.settings.objective == "grpo" and self.deviation_B.isnan().any():
            raise UserError("objective grpo: draws.parquet has no deviation of the rewards of each row's group")
        table = self.rollouts.table
        self.ref_logp_sum_B = column(table, "ref_logprob_sum")[self.row_B]
        self.ref_value_B = column(table, "ref_value")[self.row_B]
        self.centre_B = torch.zeros_like(self.reward_B)
        self.n_tokens = [self.rollouts.n_tokens[row] for row in self.row_B.tolist()]

    def __len__(self) -> int:
        return len(self.row_B)

    def sample(self, places: list[int], batch: Batch, scores: Scores) -> Sample:
        """The inputs of the objective for the rows at these places."""
        device, beta = scores.logp_N.device, self.settings.beta

        def here(values_B: Tensor) -> Tensor:
            return sent(values_B[places], device)

        behaviour_N = torch.empty(0, device=device)
        if self.settings.objective == "grpo":
            stored = [self.rollouts.behaviour[row] for row in self.row_B[places].tolist()]
            behaviour_N = sent(torch.cat([torch.from_numpy(part.copy()) for part in stored]).float(), device)
        return Sample(
            logp_N=scores.logp_N,
            behaviour_N=behaviour_N,
            row_N=batch.row_N,
            logp_sum_B=sum_by_trajectory(scores.logp_N, batch),
            value_B=scores.value_B.double(),
            ref_logp_sum_B=here(self.ref_logp_sum_B),
            ref_value_B=here(self.ref_value_B),
            target_B=here(self.advantage_B) / beta,
            advantage_B=here(self.advantage_B),
            deviation_B=here(self.deviation_B),
            centre_B=here(self.centre_B),
            raw_B=here(self.reward_B) / beta,
        )


def batches(
    world: World, policy: Policy, rollouts: Rollouts, row_B: Tensor, budget: int, batching: str
) -> Iterator[tuple[list[int], Batch]]:
    """This process's micro-batches of the given rows, each with the places of its rows among them.

    With a sharded policy all processes need the same number of batches. A process with fewer gets a batch again, without
    places.
    """
    n_tokens = [rollouts.n_tokens[row] for row in row_B.tolist()]
    groups = micro_batches(n_tokens, budget, policy.batching(batching))
    shares = share_out(groups, n_tokens, world.size)
    mine = [groups[number] for number in shares[world.rank]]
    idle = max(map(len, shares)) - len(mine) if world.in_step else 0
    for places in [*mine, *([None] * idle)]:
        rows = row_B[groups[-1] if places is None else places].tolist()
        batch = policy.collate(
            [rollouts.prompts[row] for row in rows], [rollouts.responses[row] for row in rows], batching
        )
        yield places or [], batch.to(world.device)


def update(
    world: World, policy: Policy, optimizer: torch.optim.Optimizer, objective: Objective, the_pass: Pass, draws: pa.Table
) -> Update:
    """One optimizer step on the rows of `draws`.

    Raises:
        FloatingPointError: a loss or the gradient is not finite; the message names the trajectory. No weight was changed.
    """
    began = time.perf_counter()
    settings, rows = the_pass.settings, Trajectories(the_pass, draws)
    if objective.centres:
        rows.centre_B = _centre(world, policy, rows)
    n_response_B = torch.tensor([len(rows.rollouts.responses[row]) for row in rows.row_B.tolist()], dtype=torch.float64)
    of_rows: list[tuple[list[int], list[Tensor | None]]] = []  # stays on its device: copying from a GPU would wait for it
    counts = torch.zeros(2, dtype=torch.float64)  # padding tokens, floating-point operations
    gradients = Gradients(world, policy)
    for places, batch in _micro_batches(world, policy, rows):
        scores = policy(batch, precision=settings.precision, entropy=True)
        if not places:
            gradients.backward(scores.logp_N.sum() * 0)
            continue
        terms = objective.terms(rows.sample(places, batch, scores))
        gradients.backward(bellman.loss(terms.loss_B, sent(rows.weight_B[places], world.device), len(rows)))
        entropy_B = sum_by_trajectory(scores.entropy_N, batch) / sent(n_response_B[places], world.device)
        said = [*terms[:5], entropy_B, terms.clipped_share_B]
        of_rows.append((places, [None if values_B is None else values_B.detach() for values_B in said]))
        counts += torch.tensor([batch.n_padding, policy.flops(batch)], dtype=torch.float64)
    found = {name: torch.zeros(len(rows), dtype=torch.float64) for name in OF_A_ROW}
    for places, said in of_rows:
        for name, values_B in zip(OF_A_ROW, said, strict=True):
            found[name][places] = torch.nan if values_B is None else values_B.cpu().double()
    world.add_up([*found.values(), counts])
    _check(rows, found)
    gradients.finish()
    norm = gradients.clip(settings.max_grad_norm)
    if norm != norm or norm == float("inf"):
        raise FloatingPointError(f"update {draws['update'][0]}: gradient norm is {norm}; the pass changed nothing")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    peak = world.peak_flops(settings.precision)
    step = {
        "update": draws["update"][0].as_py(),
        "n_trajectories": len(rows),
        "n_tokens": sum(rows.n_tokens),
        "n_padding_tokens": int(counts[0]),
        "loss": float((rows.weight_B * found["loss"]).sum() / len(rows)),
        "grad_norm": norm,
        "learning_rate": settings.learning_rate,
        "entropy": float((found["entropy"] * n_response_B).sum() / n_response_B.sum()),
        "log_ratio": float(found["log_ratio"].mean()),
        "seconds": seconds,
        "peak_memory_bytes": world.peak_memory_bytes(),
        "flop_utilisation": float(counts[1]) / seconds / peak if peak else None,
    }
    return Update(found, step)


def _micro_batches(world: World, policy: Policy, rows: Trajectories) -> Iterator[tuple[list[int], Batch]]:
    settings = rows.settings
    return batches(world, policy, rows.rollouts, rows.row_B, settings.micro_batch_tokens, settings.batching)


@torch.no_grad()
def _centre(world: World, policy: Policy, rows: Trajectories) -> Tensor:
    """For each row the mean, over the update's rows that answer its prompt, of log-ratio − reward/β."""
    value_B = torch.zeros_like(rows.reward_B)
    for places, batch in _micro_batches(world, policy, rows):
        logp_N = policy(batch, precision=rows.settings.precision).logp_N
        if places:
            value_B[places] = sum_by_trajectory(logp_N, batch).cpu()
    world.add_up([value_B])
    value_B -= rows.ref_logp_sum_B + rows.reward_B / rows.settings.beta
    prompt_B = rows.rollouts.prompt_numbers[rows.row_B]
    sums = torch.zeros(int(prompt_B.max()) + 1, dtype=torch.float64).index_add(0, prompt_B, value_B)
    return (sums / torch.bincount(prompt_B))[prompt_B]


def _check(rows: Trajectories, found: dict[str, Tensor]) -> None:
    """
    Raises:
        FloatingPointError: a value is not finite.
    """
    # The log-ratio is checked first: if an objective centres, one bad log-ratio makes all residuals of its prompt bad.
    suspects = {"weight": rows.weight_B, **{name: found[name] for name in ("log_ratio", "residual", "loss")}}
    for name, values_B in suspects.items():
        if len(bad := (~torch.isfinite(values_B)).nonzero()):
            slot = int(bad[0])
            who, update = rows.draws["trajectory_id"][slot], rows.draws["update"][slot]
            raise FloatingPointError(
                f"update {update}, trajectory {who}: {name} is {float(values_B[slot])}; the pass changed nothing"
            )
