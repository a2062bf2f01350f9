"""One frozen tree of settings, loaded from a recipe's TOML. Imports no torch.

What and how are apart: every section but `runtime` decides which rows come out and enters a run's record. `runtime` says
what to run it on and how fast; another engine or batch samples other tokens of the same distribution, and every rollout
says which engine made it.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas import UserError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
    verifier: Literal["math", "imported"] = "math"
    """`imported`: the labels that came with imported rollouts, to retrain on them."""
    max_seconds: float = Field(5.0, gt=0)
    """A check is killed after this long, and its rollout has no reward."""


class Replay(Section):
    schedule: Literal["paper_appendix_a", "paper_algorithm_1"] = "paper_appendix_a"
    """appendix A: one update on the fresh batch, then draws from the window. Algorithm 1: every update draws from it."""
    rule: Literal["fifo"] = "fifo"
    """How a replayed row is chosen: `fifo` is uniform over the newest `window_trajectories`."""
    updates_per_iteration: int = Field(2, ge=1)
    batch_trajectories: int = Field(512, ge=1)
    """Rows in an update drawn from the window; the fresh batch is all of an iteration's new rollouts."""
    window_trajectories: Annotated[int, Field(gt=0)] | Literal["all"] = 2560


class Train(Section):
    objective: Literal["reval", "tbrm"] = "reval"
    baseline: Literal["group_mean", "raw"] = "group_mean"
    """What is subtracted from a reward: the mean reward of the prompt's group, or nothing."""
    beta: float = Field(1.0, gt=0)
    """Weight of KL to the reference; a reward of 1 is worth 1/beta nats."""
    learning_rate: float = Field(3e-4, gt=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    reset_every_iterations: int = Field(1, ge=0)
    """The reference becomes the current policy every so many iterations; 0 is never."""


class Evaluate(Section):
    every_iterations: int = Field(1, ge=1)
    """Greedy accuracy on the held-out problems is taken every so many iterations, and at the first and last."""
    max_prompts: int = Field(400, ge=1)
    """Held-out problems used, the first so many by id."""
    samples_per_prompt: int = Field(4, ge=0)
    """avg@k: answers per problem at generation's temperature, at the first and the last iteration; 0 is none."""


class Runtime(Section):
    engine: Literal["vllm", "transformers"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    """vLLM's share of a GPU's memory."""
    engine_batch: int = Field(256, ge=1)
    """Rollouts the engine works on at once."""
    micro_batch_tokens: int = Field(16384, ge=1)
    """Padded tokens in one forward pass of the trainer."""
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
    replay: Replay = Replay()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    def record(self) -> dict[str, Any]:
        """What decides the rows: all settings but `runtime`, and not how long the run goes on."""
        return self.model_dump(exclude={"runtime", "iterations", "recipe"})

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
