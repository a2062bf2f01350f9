"""The tasks and arms that `benchmarks.learning` compares, and each arm's grid for tuning. Only names and settings."""

from dataclasses import dataclass, field
from typing import Any

RecipeSettings = dict[str, Any]

TUNING_SEED, SEEDS = 0, (1, 2, 3, 4, 5)
# Eight tries per arm: eight rates if there is no β, else three rates and two β, and one try below the smallest of each.
# A reference that stays the same needs a smaller β than one that moves with the policy, because the policy moves away
# from it over a whole run. Tries are numbered: new ones are added at the end.
RATES = (5e-5, 1e-4, 2e-4, 4e-4, 2.5e-5, 1.5e-4, 1.25e-5, 3.5e-5)
RATES_WITH_BETA = (1e-4, 2e-4, 5e-5)
BETAS, BETAS_NEVER_RESET = (0.3, 1.0), (0.05, 0.2)


@dataclass(frozen=True)
class Task:
    """`iterations` of a reported run and of a tuning run; `reach`: the report says when a run reaches these accuracies.

    `tuned_on`: the task whose tuning counts for this one; None: its own. `base`: the policy all its runs begin from, by
    the name of its folder in results/start; None: the policy in its settings.
    """

    iterations: int
    tuning_iterations: int
    reach: tuple[float, ...]
    settings: RecipeSettings = field(default_factory=dict)
    tuned_on: str | None = None
    base: str | None = "arithmetic"


@dataclass(frozen=True)
class Arm:
    """An arm has `times` as many iterations as the task, so that a slow arm can reach the accuracies of the others."""

    objective: str
    settings: RecipeSettings = field(default_factory=dict)
    times: int = 1

    @property
    def grid(self) -> tuple[tuple[float, float], ...]:
        """Learning rate and β of each try. For grpo and reinforce β is only the unit of the residuals."""
        if self.objective in ("grpo", "reinforce"):
            return tuple((rate, 1.0) for rate in RATES)
        betas = BETAS_NEVER_RESET if self.settings.get("train.reset_every_iterations") == 0 else BETAS
        least = min(RATES_WITH_BETA), min(betas)
        beyond = ((least[0] / 2, least[1]), (least[0], least[1] / 3))
        return tuple((rate, beta) for rate in RATES_WITH_BETA for beta in betas) + beyond


def _sizes(prompts: int, samples: int) -> RecipeSettings:
    """Rollouts per iteration. An update has the same size, and the window is five times as large."""
    return {
        "generate.prompts_per_iteration": prompts,
        "generate.samples_per_prompt": samples,
        "replay.batch_trajectories": prompts * samples,
        "replay.window_trajectories": 5 * prompts * samples,
    }


# The paper's single-prompt setting: 64 rollouts an iteration of one question, easy, medium or hard for the base policy.
_SINGLE = {name: {**_sizes(1, 64), "prompts.source": f"single-{name}"} for name in ("easy", "medium", "hard")}
_COLUMNS = {**_sizes(16, 8), "prompts.source": "columns", "generate.max_response_tokens": 80}

TASKS = {
    "arithmetic": Task(15, 9, (0.45, 0.5, 0.55), _sizes(32, 8)),
    "columns": Task(15, 9, (0.4, 0.5, 0.6), _COLUMNS, base="columns"),
    "single-medium": Task(12, 12, (0.5, 0.8, 0.95), _SINGLE["medium"]),
    "single-easy": Task(12, 0, (0.8, 0.9, 0.95), _SINGLE["easy"], tuned_on="single-medium"),
    "single-hard": Task(12, 0, (0.2, 0.5, 0.8), _SINGLE["hard"], tuned_on="single-medium"),
}

_NEVER: RecipeSettings = {"train.reset_every_iterations": 0}
# The parts of updates, other than by a draw rule (as in the paper's appendix A: first the fresh batch, then draws from
# the window, which includes that batch). `mixed`: after one update on the fresh batch, half of each update is older.
_SHARES = {"fresh": [{"fresh": 1.0}], "mixed": [{"fresh": 1.0}, {"fresh": 0.5, "fifo": "rest"}]}


def _updates(how: str, n_updates: int) -> RecipeSettings:
    """This number of updates per iteration: of fresh rows, half of fresh rows, or drawn by a draw rule."""
    found: RecipeSettings = {"replay.updates_per_iteration": n_updates}
    if how in _SHARES:
        return {**found, "replay.schedule": "shares", "replay.shares": _SHARES[how][:n_updates]}
    return {**found, "replay.rule": how}


def _arms() -> dict[str, Arm]:
    found = {"reval-fresh": Arm("reval", _updates("fresh", 1))}
    for k in (4, 8):
        found |= {f"reval-{how}-k{k}": Arm("reval", _updates(how, k)) for how in _SHARES}
    for rule in ("fifo", "keep_correct", "fresh_priority"):
        for k in (4, 2, 8):
            found[f"reval-{rule}-k{k}"] = Arm("reval", _updates(rule, k))
            found[f"reval-{rule}-k{k}-noreset"] = Arm("reval", {**_updates(rule, k), **_NEVER})
    for k in (4, 8):  # each row has its own reference
        found[f"reval-own-k{k}"] = Arm("reval", {**_updates("fifo", k), "train.reference": "behaviour"})
    # Targets halfway between the reward and the reward minus the group's mean.
    found["reval-half-k8"] = Arm("reval", {**found["reval-own-k8"].settings, "train.baseline": "half_mean"})
    found["reval-recency-k4"] = Arm("reval", {**_updates("recency", 4), "replay.recency.gamma": 0.5})
    found["tbrm-fifo-k4"] = Arm("tbrm", {**_updates("fifo", 4), **_NEVER, "train.baseline": "raw"})
    for objective in ("grpo", "reinforce"):  # their reference is used in reports only: it never changes
        times = 2 if objective == "grpo" else 1
        found[f"{objective}-fresh"] = Arm(objective, {**_updates("fresh", 1), **_NEVER}, times=times)
        for k in (4, 8):
            for how in ("fresh", "mixed", "fifo"):
                found[f"{objective}-{how}-k{k}"] = Arm(objective, {**_updates(how, k), **_NEVER})
    found["grpo-keep_correct-k8"] = Arm("grpo", {**_updates("keep_correct", 8), **_NEVER})
    return found


ARMS = _arms()
# The arms that `--quick` compares.
CORE = ("grpo-fresh", "grpo-fresh-k8", "grpo-fifo-k8", "reval-fresh-k8", "reval-own-k8", "reval-half-k8")
