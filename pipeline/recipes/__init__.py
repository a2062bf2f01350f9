"""The settings of a run, and the recipes that come with reval. A recipe is a TOML file that sets some settings and
leaves the others at their defaults. docs/settings.md lists all of them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.recipes import toml
from pipeline.recipes.config import Config
from schemas import UserError, did_you_mean

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


# One line of text, a list of lines from a command line, or a mapping from Prefect's form.
Overrides = dict[str, Any] | list[str] | str

# Defaults of a retraining. Policies of its rollouts may be missing in the archive, so they cannot be the reference.
RETRAIN = {"replay.window_trajectories": "all", "replay.if_short": "refuse", "train.reference": "reset"}
# Defaults for evaluating a policy that no run here made. They are the paper's.
BENCHMARK = {
    "prompts.template": "{problem} Let's think step by step and output the final answer within \\boxed{}.",
    "generate.temperature": 1.0,
    "generate.max_response_tokens": 8192,
    "evaluate.samples_per_prompt": 16,
    "evaluate.max_prompts": "all",
}


def load(
    name: str,
    overrides: Overrides = (),  # type: ignore[assignment]
    *,
    iterations: int | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """The settings of a recipe: one of `names()`, or the path of a TOML file.

    Args:
        overrides: `section.key=value` or a mapping of dotted names to values, on top of the recipe.
        iterations: set after everything else; None: as the recipe and the overrides say.
        defaults: like overrides, but overrides go before them.

    Raises:
        UserError: there is no recipe of that name (the message suggests the nearest), or a setting is wrong.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        hint = did_you_mean(name, names(), f"known: {', '.join(names())}, or a path that ends in .toml")
        raise UserError(f"unknown recipe {name!r}; {hint}")
    last = {} if iterations is None else {"iterations": iterations}
    return toml.load(path, [*_pairs(defaults or {}), *_pairs(overrides), *_pairs(last)])


def _pairs(overrides: Overrides | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values, from lines or from a mapping that may be nested."""
    if not isinstance(overrides, Mapping):
        for line in [overrides] if isinstance(overrides, str) else overrides:
            yield toml.parse(line)
        return
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
