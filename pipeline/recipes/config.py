"""One frozen tree of settings, loaded from a recipe's TOML. Imports no torch.

What and how are apart: every section but `runtime` and `keep` decides which rows come out and enters a run's record.
`runtime` says what to run it on and how fast; another engine or batch samples other tokens of the same distribution, and
every rollout says which engine made it. `keep` says which weights stay.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from pipeline.recipes.schedules import STRICT, Ramp, Schedule, check_shares, positive
from schemas import UserError


class Section(BaseModel):
    model_config = STRICT


class Prompts(Section):
    source: str = "arithmetic"
    """Where questions come from: `arithmetic` (made here), or the source of imported ones."""
    seed: int = Field(0, ge=0, lt=2**31)
    """`arithmetic` only: which problems are set aside for evaluation."""
    template: str = Field("{problem}", pattern=r"\{problem\}")
    """The prompt around a problem."""


class Policy(Section):
    base: str = "arithmetic"
    """The policy a run starts from: `arithmetic` (trained here), or a Hugging Face folder or hub name."""
    seed: int = Field(0, ge=0, lt=2**31)
    """`arithmetic` only: its first weights and the order of its worked examples."""
    target_accuracy: float = Field(0.4, ge=0, le=0.55)
    """`arithmetic` only: its pre-training stops when it solves about this share of problems greedily."""


class Generate(Section):
    prompts_per_iteration: int = Field(64, ge=1)
    samples_per_prompt: int = Field(8, ge=1)
    temperature: float = Field(1.0, gt=0)
    max_response_tokens: int = Field(16, ge=1)
    shard_trajectories: int = Field(4096, ge=1)
    """Rollouts generated between two commits: what a crash can cost. The engine is seeded once a shard."""


class Score(Section):
    verifier: str = "math"
    """Who judges, as `reval verifiers` lists them. To retrain on: also `imported`, labels that came with a file, and
    NAME@VERSION, what an older version said."""
    max_seconds: float = Field(5.0, gt=0)
    """A check is killed after this long, and its rollout has no reward."""


class Reward(Section):
    """What a verdict is worth to training; judging knows nothing of it. Null: what the verifier says, 1 for correct, 0
    for wrong and no_answer, and for the others nothing: they are not trained on."""

    correct: float | None = None
    wrong: float | None = None
    no_answer: float | None = None
    bad_gold: float | None = None
    timeout: float | None = None
    crashed: float | None = None
    length_penalty: float = Field(0.0, ge=0)
    """A response of n tokens loses length_penalty · clip((n − (L − c)) / c, 0, 1), where L is the limit it was generated
    under and c is length_buffer_tokens: nothing up to L − c, all of it at L (arXiv 2503.14476, Eq. 13)."""
    length_buffer_tokens: int = Field(1024, ge=1)


class Recency(Section):
    gamma: float = Field(0.8, gt=0, le=1)
    """A rollout weighs gamma^age, age in iterations."""


class FreshPriority(Section):
    alpha: float = Field(0.6, ge=0)
    epsilon: float = Field(0.01, gt=0)
    tau_windows: float = Field(0.5, gt=0)
    """The scale of the age term, in units of the time a rollout spends in the window."""


class KeepCorrect(Section):
    share: float = Field(0.3, gt=0, lt=1)
    """Part of the window that is kept for correct rollouts older than the rest."""


class Balanced(Section):
    sigma: float = Field(0.25, gt=0)
    """Deviation of the Gaussian around a pass rate of one half by which prompts weigh."""
    rest: Literal["nothing", "solved", "unsolved", "both"] = "nothing"
    """Prompts that are left out: those whose rollouts in the window are all right, all wrong, or both."""


class Custom(Section):
    weight: str = ""
    """A SQL expression over the columns of candidates (pipeline/sql/candidates.sql) that says how much a row weighs."""


Rule = Literal["fifo", "recency", "fresh_priority", "keep_correct", "balanced", "groups", "custom"]
RULES: tuple[str, ...] = get_args(Rule)
FRESH = "fresh"


class Replay(Section):
    schedule: Literal["paper_appendix_a", "paper_algorithm_1", "shares"] = "paper_appendix_a"
    """appendix A: one update on the fresh batch, then draws from the window. Algorithm 1: every update draws from it.
    shares: as `shares` says."""
    rule: Rule = "fifo"
    """How the paper's schedules choose replayed rows: one of pipeline/sql/draw_*.sql, which say what they do."""
    updates_per_iteration: int = Field(2, ge=1)
    batch_trajectories: int = Field(512, ge=1)
    """Rows in an update. Only the paper's update on the fresh batch has another size: all of an iteration's rollouts."""
    window_trajectories: Annotated[int, Field(gt=0)] | Literal["all"] = 2560
    max_age_iterations: int | None = Field(None, ge=0)
    """Rollouts older than this are never drawn; without it, the window alone bounds age."""
    shares: list[dict[str, Schedule | Literal["rest"]]] = []
    """For each update, what part of it is `fresh` and what part each rule draws; "rest" is what the others leave. The
    last entry counts for all updates after it. Where `fresh` is named, rules draw from the past alone."""
    importance: Schedule = Ramp(kind="linear", start=0.4, end=1.0, iterations=100)
    """Exponent of importance weights, for rules that favour some rows: 0 is none, 1 takes the bias out of the loss."""
    if_short: Literal["smaller", "wait", "refuse"] = "smaller"
    """What becomes of an update for which there are too few rows: it is smaller, it is left out, or the run stops."""
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
    """What a retraining draws from, of the state it pins. Empty: everything its policy can read."""

    runs: list[str] = []
    policies: list[str] = []
    """The policies whose rollouts."""
    where: str = ""
    """A SQL condition over the view rollouts, as behind WHERE."""


class Train(Section):
    objective: Literal["reval", "tbrm", "grpo", "reinforce", "tba"] = "reval"
    """reval/objectives.py says what each is."""
    baseline: Literal["group_mean", "half_mean", "raw"] = "group_mean"
    """What is subtracted from a reward: the mean reward of the prompt's group, half of it, or nothing."""
    beta: float = Field(1.0, gt=0)
    """Weight of KL to the reference; a reward of 1 is worth 1/beta nats."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """`grpo` only: its ratios are clipped to between 1 - clip_low and 1 + clip_high."""
    clip_high: float = Field(0.2, gt=0)
    learning_rate: Schedule = 3e-4
    """A number, or how it goes from iteration to iteration, written as in replay.shares."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    reference: Literal["reset", "behaviour"] = "reset"
    """What π_ref is: one policy for all rows, set anew as reset_every_iterations says; or for each row the policy that
    generated it, so that a replayed row is worth what is left of its target."""
    reset_every_iterations: int = Field(1, ge=0)
    """The reference becomes the current policy every so many iterations; 0 is never. Not with reference = behaviour."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrix products are computed in. Weights, their sums and the optimizer's state are float32 either way."""
    lora_rank: int = Field(0, ge=0)
    """0 trains all weights; otherwise low-rank adapters on every linear layer (peft), under a reference that stays."""
    lora_alpha: int = Field(16, ge=1)
    """Adapters count lora_alpha / lora_rank times."""

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
    every_iterations: int = Field(1, ge=1)
    """Greedy accuracy on the held-out problems is taken every so many iterations, and at the first and last."""
    benchmarks: list[str] = []
    """The sources whose held-out problems these are, each a benchmark by itself; empty: that of `prompts`."""
    max_prompts: Annotated[int, Field(ge=1)] | Literal["all"] = 400
    """Held-out problems used of each benchmark, the first so many by id: ids are digests, so it is a random sample."""
    samples_per_prompt: int = Field(4, ge=0)
    """k of avg@k, pass@k, maj@k: answers per problem at generation's temperature; 0 is none."""
    sampled_every_iterations: int = Field(0, ge=0)
    """These answers are given every so many iterations, and at the first and last; 0: at these alone."""


class Keep(Section):
    """Which of a run's weights stay in the archive as it goes on; rows all do. What the run still needs always stays."""

    optimizer_states: int = Field(2, ge=0)
    """The newest so many; 0 is all. To repeat a pass takes the state of the policy it began from."""
    policies_every: int = Field(1, ge=1)
    """The weights of every so-many-th iteration; 1 is all. So do the newest two, what a run began from, the reference of
    the next pass, and the newest in each labelled snapshot."""


class Runtime(Section):
    engine: Literal["vllm", "transformers"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    """vLLM's share of a GPU's memory."""
    engine_batch: int = Field(256, ge=1)
    """Rollouts the engine works on at once."""
    micro_batch_tokens: int = Field(16384, ge=1)
    """Tokens in one forward pass of the trainer, padding included; a longer trajectory is one by itself."""
    batching: Literal["packed", "padded"] = "packed"
    """How trajectories share a forward pass: end to end without padding, or side by side with those about as long. A
    model whose attention cannot be told where one ends is padded either way."""
    trainer_processes: int = Field(0, ge=0)
    """Processes that train together; 0 is one per GPU, and one on a CPU. Their number changes no result but rounding."""
    sharding: Literal["none", "full", "offloaded"] = "none"
    """Whether each process has all weights, gradients and optimizer state, or its part of them (FSDP), on the GPU or
    the CPU's memory."""
    checkpointing: Literal["none", "layers"] = "none"
    """What the backward pass computes again instead of keeping: nothing, or every layer's activations."""
    trackers: list[Literal["tensorboard", "wandb"]] = []
    """Who else gets each step's figures."""
    verifier_workers: int = Field(0, ge=0)
    """Processes that check answers; 0 is one per core."""
    storage: dict[str, str] = {}
    """Delta's storage options of an archive in an object store, on top of what the environment says."""


class Config(Section):
    recipe: str
    seed: int = Field(0, ge=0, lt=2**31)
    iterations: int = Field(10, ge=1)
    prompts: Prompts = Prompts()
    policy: Policy = Policy()
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
        """What decides the rows: all settings but `runtime` and `keep`, and not how long the run goes on."""
        return self.model_dump(exclude={"runtime", "keep", "iterations", "recipe"})

    def record_json(self) -> str:
        return json.dumps(self.record(), sort_keys=True)


def recorded(recipe: str, record: str) -> Config:
    """The settings of a run from its record; those that do not decide rows are at their defaults."""
    return Config(recipe=recipe, **json.loads(record))


def load(recipe: Path, overrides: Iterable[tuple[str, Any]] = ()) -> Config:
    """The settings of a recipe file with overrides on top: dotted names and their values.

    Raises:
        UserError: the file is not TOML, a key is unknown (the nearest valid name is given), or a value is out of range.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(recipe.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {recipe}: {error}") from None
    for dotted, value in overrides:
        *sections, key = dotted.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise UserError(f"override {dotted}: {section} is a value, not a section")
        branch[key] = value
    if "recipe" in tree:
        raise UserError(f"recipe {recipe.stem}: its name is its file's, so it cannot set 'recipe'")
    try:
        return Config(recipe=recipe.stem, **tree)
    except ValidationError as error:
        raise UserError(_explain(error, f"recipe {recipe.stem}")) from None


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Each setting in which two records differ, as `section.key old → new`."""
    for key in sorted({*ours, *theirs}):
        old, new = theirs.get(key), ours.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(new, old, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} {old} → {new}"


def parse(line: str) -> tuple[str, Any]:
    """`section.key=value` as a dotted name and a value, written as in TOML; a bare word is text.

    Raises:
        UserError: there is no `=` in it.
    """
    dotted, equals, text = line.partition("=")
    if not equals:
        raise UserError(f"override {line!r}: write it as section.key=value, for example train.beta=0.5")
    try:
        return dotted.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return dotted.strip(), text.strip()


def _explain(error: ValidationError, where: str) -> str:
    """The first thing wrong, in one line, with the way out."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part in _names(first["loc"])]
    dotted = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(_fields(path[:-1]))
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown setting {dotted}; {hint}"
    if first["type"] == "value_error":
        return f"{where}: {dotted}: {first['ctx']['error']}"
    return f"{where}: {dotted} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _names(loc: tuple[int | str, ...]) -> list[int | str]:
    """The parts of a pydantic location that are settings; behind a leaf it names the branch of a union it tried."""
    names: list[int | str] = []
    fields: Any = Config.model_fields
    for part in loc:
        names.append(part)
        kind = fields[part].annotation if part in fields else None
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            break
        fields = kind.model_fields
    return names


def _fields(path: Sequence[str]) -> Iterator[str]:
    fields: Any = Config.model_fields
    for part in path:
        fields = fields[part].annotation.model_fields
    yield from (name for name in fields if name != "recipe")
