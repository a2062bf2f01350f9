"""All settings of a run, with types, defaults and meanings; reval/settings.py has the trainer's. Imports no torch.

Every section except `runtime` and `keep` decides which rows a run makes, and is recorded with the run. `runtime` says
where and how fast it runs; another engine or batch size samples other tokens of the same distribution, and the engine is
recorded for every rollout. `keep` says which weights stay on disk.
"""

import ast
import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, model_validator

from pipeline.recipes.schedules import STRICT, Ramp, Schedule, check_shares, positive
from reval.settings import Algorithm, Execution


class Section(BaseModel):
    model_config = STRICT

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Settings inherited from the trainer keep their docstrings too: pydantic reads only those of the section."""
        for declared in (base for base in cls.__bases__ if not issubclass(base, BaseModel)):
            for name, meaning in _docstrings(declared).items():
                cls.model_fields[name].description = cls.model_fields[name].description or meaning
            cls.model_rebuild(force=True)  # so that the JSON schema has them


def _docstrings(declared: type) -> dict[str, str]:
    """The docstring below each field of a class."""
    [node] = ast.parse(inspect.getsource(declared)).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


class Prompts(Section):
    """The questions a run trains on."""

    source: str = "arithmetic"
    """Where questions come from: `arithmetic` (sums that reval makes itself), or the source name of imported ones."""
    seed: int = Field(0, ge=0, lt=2**31)
    """`arithmetic` only: the seed that decides which problems are kept for evaluation."""
    template: str = Field("{problem}", pattern=r"\{problem\}")
    """The prompt that the policy gets; `{problem}` stands for the question."""


class BasePolicy(Section):
    """The policy a run starts from."""

    base: str = "arithmetic"
    """`arithmetic` (a small model that reval trains itself), or a Hugging Face folder or hub name."""
    seed: int = Field(0, ge=0, lt=2**31)
    """`arithmetic` only: the seed of its first weights and of the order of its worked examples."""
    target_accuracy: float = Field(0.4, ge=0, le=0.55)
    """`arithmetic` only: pre-training stops when the model solves about this share of problems greedily."""


class Generate(Section):
    """How rollouts are generated."""

    prompts_per_iteration: int = Field(64, ge=1)
    """Questions asked in an iteration."""
    samples_per_prompt: int = Field(8, ge=1)
    """Responses to each question; together they are a group."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of rollouts, and of the sampled answers in evaluation."""
    max_response_tokens: int = Field(16, ge=1)
    """The longest response, in tokens; a longer one is cut there."""
    shard_trajectories: int = Field(4096, ge=1)
    """Rollouts generated between two commits; a crash loses at most so many. The engine is seeded once per shard."""


class Score(Section):
    """How rollouts are judged."""

    verifier: str = "math"
    """The verifier, one of those `reval verifiers` lists. A retraining can also use `imported` (the labels of an imported
    file) or NAME@VERSION (the verdicts of an older version)."""
    max_seconds: float = Field(5.0, gt=0)
    """A check that takes longer than this, in seconds, is killed; its rollout gets no reward."""


class Reward(Section):
    """The reward of each verdict. It is applied when rollouts are drawn, so changing it needs no new judging. A verdict
    that is not set has the verifier's reward: 1 for correct, 0 for wrong and no_answer. The other verdicts have no reward
    then, and their rollouts are not trained on."""

    correct: float | None = None
    """Reward of a correct answer."""
    wrong: float | None = None
    """Reward of a wrong answer."""
    no_answer: float | None = None
    """Reward of a response in which no answer was found."""
    bad_gold: float | None = None
    """Reward where the gold answer itself cannot be read."""
    timeout: float | None = None
    """Reward where the check took longer than score.max_seconds."""
    crashed: float | None = None
    """Reward where the check crashed."""
    length_penalty: float = Field(0.0, ge=0)
    """A response of n tokens loses length_penalty · clip((n − (L − c)) / c, 0, 1), where L is the limit it was generated
    under and c is length_buffer_tokens: nothing up to L − c, all of it at L (arXiv 2503.14476, Eq. 13)."""
    length_buffer_tokens: int = Field(1024, ge=1)
    """The last so many tokens before the limit, over which the length penalty grows from nothing to all of it."""


class Recency(Section):
    """The draw rule `recency`: newer rollouts are drawn more often."""

    gamma: float = Field(0.8, gt=0, le=1)
    """A rollout weighs gamma^age, age in iterations."""


class FreshPriority(Section):
    """The draw rule `fresh_priority`: a rollout weighs (|residual| + epsilon)^alpha · exp(−age / tau)."""

    alpha: float = Field(0.6, ge=0)
    """How strongly the residual counts; 0: not at all."""
    epsilon: float = Field(0.01, gt=0)
    """Added to |residual|, in nats, so that a rollout with residual 0 can still be drawn."""
    tau_windows: float = Field(0.5, gt=0)
    """tau, as a multiple of the iterations that the window spans."""


class KeepCorrect(Section):
    """The draw rule `keep_correct`: a part of the window is kept for older correct rollouts."""

    share: float = Field(0.3, gt=0, lt=1)
    """That part of the window."""


class Balanced(Section):
    """The draw rule `balanced`: prompts that are solved about half of the time are drawn most."""

    sigma: float = Field(0.25, gt=0)
    """A prompt with pass rate p weighs exp(−(p − 1/2)² / (2 sigma²))."""
    rest: Literal["nothing", "solved", "unsolved", "both"] = "nothing"
    """Prompts that are left out: those whose rollouts in the window are all correct (solved), none correct (unsolved), or
    both kinds."""


class Custom(Section):
    """The draw rule `custom`: a SQL expression of yours says how much a rollout weighs."""

    weight: str = ""
    """The expression, over the columns of pipeline/replay/sql/candidates.sql."""


Rule = Literal["fifo", "recency", "fresh_priority", "keep_correct", "balanced", "groups", "custom"]
RULES: tuple[str, ...] = get_args(Rule)
FRESH = "fresh"


class Replay(Section):
    """Which rollouts each update trains on."""

    schedule: Literal["paper_appendix_a", "paper_algorithm_1", "shares"] = "paper_appendix_a"
    """What the updates of an iteration are made of. paper_appendix_a: the first update takes all new rollouts, the others
    draw from the window. paper_algorithm_1: every update draws from the window. shares: as replay.shares says."""
    rule: Rule = "fifo"
    """The draw rule of the paper's two schedules; docs/replay.md explains each."""
    updates_per_iteration: int = Field(2, ge=1)
    """Optimizer steps in an iteration."""
    batch_trajectories: int = Field(512, ge=1)
    """Rollouts in an update. The first update of paper_appendix_a takes all new rollouts of the iteration instead."""
    window_trajectories: Annotated[int, Field(gt=0)] | Literal["all"] = 2560
    """The replay window: draws take from the newest so many rollouts."""
    max_age_iterations: int | None = Field(None, ge=0)
    """Rollouts older than so many iterations are never drawn. Not set: only the window limits their age."""
    shares: list[dict[str, Schedule | Literal["rest"]]] = []
    """For each update, which part of it is `fresh` (rollouts of this iteration) and which part each draw rule draws, as
    numbers from 0 to 1; "rest" is what the others leave. The last entry also counts for all updates after it. In an
    update that names `fresh`, the rules draw from earlier iterations only."""
    importance: Schedule = Ramp(kind="linear", start=0.4, end=1.0, iterations=100)
    """Exponent of the importance weights of rules that draw some rollouts more often than others: 0: no weights; 1: the
    loss estimates the plain mean over the window."""
    if_short: Literal["smaller", "wait", "refuse"] = "smaller"
    """What happens when there are too few rollouts for an update. smaller: the update is smaller. wait: it is left out.
    refuse: the run stops."""
    recency: Recency = Recency()
    fresh_priority: FreshPriority = FreshPriority()
    keep_correct: KeepCorrect = KeepCorrect()
    balanced: Balanced = Balanced()
    custom: Custom = Custom()

    def rules(self) -> set[str]:
        """The draw rules that some update uses."""
        used: set[str] = {name for shares in self.shares for name in shares} if self.shares else {self.rule}
        return used - {FRESH}

    @model_validator(mode="after")
    def _consistent(self) -> "Replay":
        if (self.schedule == "shares") != bool(self.shares):
            raise ValueError('schedule = "shares" and a list of `shares` go together')
        if len(self.shares) > self.updates_per_iteration:
            raise ValueError(
                f"shares has {len(self.shares)} updates, updates_per_iteration is {self.updates_per_iteration}"
            )
        for number, shares in enumerate(self.shares, start=1):
            if wrong := check_shares(shares, (FRESH, *RULES)):
                raise ValueError(f"shares, update {number}: {wrong}")
        if "custom" in self.rules() and not self.custom.weight.strip():
            raise ValueError("the rule custom wants a weight: set replay.custom.weight to a SQL expression")
        drawing = self.schedule != "paper_appendix_a" or self.updates_per_iteration > 1
        if drawing and self.window_trajectories != "all" and self.window_trajectories < self.batch_trajectories:
            raise ValueError(
                f"a window of {self.window_trajectories:,} rows is smaller than an update, {self.batch_trajectories:,}: "
                "make window_trajectories larger or batch_trajectories smaller"
            )
        return self


class Retrain(Section):
    """Which rollouts `reval retrain` may draw. Empty: all whose token ids the policy can read."""

    runs: list[str] = []
    """Only rollouts of these runs."""
    policies: list[str] = []
    """Only rollouts that these policies generated."""
    where: str = ""
    """Only rollouts for which this SQL condition over the view `rollouts` is true, written as after WHERE."""


class Train(Section, Algorithm):
    """The loss and the optimizer."""

    # A pass has one learning rate; a recipe can change it from iteration to iteration.
    learning_rate: Schedule = Algorithm.learning_rate  # type: ignore[assignment]
    """Learning rate of AdamW: one number, or a schedule over iterations."""
    baseline: Literal["group_mean", "half_mean", "raw"] = "group_mean"
    """What is subtracted from a reward: the mean reward of the rollout's group, half of that mean, or nothing (raw)."""
    reference: Literal["reset", "behaviour"] = "reset"
    """The reference policy π_ref. reset: one policy for all rollouts, renewed as reset_every_iterations says. behaviour:
    for each rollout, the policy that generated it; what training has already moved on a replayed rollout then counts."""
    reset_every_iterations: int = Field(1, ge=0)
    """Every so many iterations the current policy becomes the reference; 0: never. Unused with reference = behaviour."""

    @model_validator(mode="after")
    def _consistent(self) -> "Train":
        if self.lora_rank and (self.reset_every_iterations or self.reference == "behaviour"):
            raise ValueError(
                "adapters stand on the policy the run began from, which is the reference then: "
                "set train.reset_every_iterations=0 with train.lora_rank, and train.reference=reset"
            )
        if self.objective == "grpo" and self.baseline != "group_mean":
            raise ValueError(
                "grpo divides by the deviation around the group's mean: set train.baseline=group_mean with it"
            )
        if not positive(self.learning_rate):
            raise ValueError("learning_rate is a schedule of numbers above 0")
        return self


class Evaluate(Section):
    """When and on what a run's policies are evaluated."""

    every_iterations: int = Field(1, ge=1)
    """Held-out problems are answered greedily every so many iterations, and before the first and after the last."""
    benchmarks: list[str] = []
    """Sources whose held-out problems are answered; each source is a benchmark of its own. Empty: prompts.source."""
    max_prompts: Annotated[int, Field(ge=1)] | Literal["all"] = 400
    """At most so many problems of each benchmark, the first by id. Ids are digests, so this is a random sample."""
    samples_per_prompt: int = Field(4, ge=0)
    """Sampled answers to each problem, at generate.temperature: the k of avg@k, pass@k and maj@k. 0: none."""
    sampled_every_iterations: int = Field(0, ge=0)
    """The sampled answers are given every so many iterations, and before the first and after the last; 0: only then."""


class Keep(Section):
    """Which weights stay in the archive while a run goes on. Rows always stay, and so do weights the run still needs."""

    optimizer_states: int = Field(2, ge=0)
    """The newest so many optimizer states stay; 0: all. `reval repeat` needs the state its pass began with."""
    policies_every: int = Field(1, ge=1)
    """The weights of every so-many-th iteration stay; 1: all. These stay too: the newest two, those a run began with, the
    reference of the next pass, and the newest in each labelled snapshot."""


class Runtime(Section, Execution):
    """Where and how fast it runs. None of this changes what a run makes, except for rounding and sampled tokens."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """What generates: vLLM, or transformers' own generation, which is slow but needs no vLLM."""
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    """Part of a GPU's memory that vLLM takes."""
    engine_batch: int = Field(256, ge=1)
    """Rollouts that the engine generates at the same time."""
    trainer_processes: int = Field(0, ge=0)
    """Processes that train together; 0: one per GPU, and one on a CPU. Their number changes only rounding."""
    verifier_workers: int = Field(0, ge=0)
    """Processes that check answers; 0: one per core."""
    storage: dict[str, str] = {}
    """Storage options of Delta for an archive in an object store, in addition to those in the environment."""


class Config(Section):
    recipe: str
    """The recipe's name, which is its file's; it cannot be set."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the choice of questions and of sampling."""
    iterations: int = Field(10, ge=1)
    """Iterations of the run in all. It may be raised later to go on."""
    prompts: Prompts = Prompts()
    policy: BasePolicy = BasePolicy()
    generate: Generate = Generate()
    score: Score = Score()
    reward: Reward = Reward()
    replay: Replay = Replay()
    retrain: Retrain = Retrain()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    keep: Keep = Keep()
    runtime: Runtime = Runtime()

    def record(self) -> dict[str, Any]:
        """The settings that decide the rows: all except `runtime`, `keep` and the number of iterations."""
        return self.model_dump(exclude={"runtime", "keep", "iterations", "recipe"})

    def record_json(self) -> str:
        return json.dumps(self.record(), sort_keys=True)


def recorded(recipe: str, record: str) -> Config:
    """The settings of a run from its record; settings that do not decide rows have their defaults."""
    return Config(recipe=recipe, **json.loads(record))


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Each setting in which two records differ, as `section.key old → new`."""
    for key in sorted({*ours, *theirs}):
        old, new = theirs.get(key), ours.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(new, old, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} {old} → {new}"
