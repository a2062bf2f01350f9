"""Settings: every recipe loads; unknown and wrong settings are refused with a hint; schedules."""

import pytest

from pipeline import recipes
from pipeline.recipes.config import differences, recorded
from pipeline.recipes.schedules import at
from schemas import UserError


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_loads(name) -> None:
    assert recipes.load(name).recipe == name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.bta=1", "unknown setting train.bta; did you mean train.beta?"),
        ("trian.beta=1", "unknown setting trian; did you mean train?"),
        ("zzz=1", "unknown setting zzz; known here: seed, iterations"),
        ("train.beta=0", "train.beta = 0: input should be greater than 0"),
        ("train.beta=lots", "train.beta = 'lots'"),
        ("train.beta", "write it as section.key=value"),
        ("seed.x.y=1", "unknown setting|should be a valid integer|is a value"),
        ("recipe=other", "cannot set 'recipe'"),
        ("train.learning_rate=0", "train: learning_rate is a schedule of numbers above 0"),
        (
            "train.learning_rate={kind = 'linear', start = 1e-3, end = 0, iterations = 10}",
            "train: learning_rate is a schedule of numbers above 0",
        ),
        ("train.lora_rank=8", "train: .* set train.reset_every_iterations=0 with train.lora_rank"),
        ("train.clip_low=1", "train.clip_low = 1: input should be less than 1"),
        ("train.precision=float16", "train.precision = 'float16'"),
        ("runtime.trackers=['mail']", "runtime.trackers = 'mail'|runtime.trackers"),
        ("runtime.trackers=wandb", "runtime.trackers = 'wandb': input should be a valid list"),
        ("replay.window_trajectories=0", "replay.window_trajectories = 0"),
        ("replay.rule=lifo", "replay.rule = 'lifo'"),
        ("prompts.template=hello", "prompts.template = 'hello'"),
    ],
)
def test_mistakes_are_one_line_with_the_way_out(override, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        recipes.load("arithmetic", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean arithmetic"):
        recipes.load("arithmetics")


def test_a_recipe_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[train]\nbeta = 0.5\n")
    config = recipes.load(str(path), {"replay.window_trajectories": "all"}, iterations=7)
    assert (config.recipe, config.seed, config.iterations, config.train.beta) == ("mine", 3, 7, 0.5)
    assert config.replay.window_trajectories == "all"
    nested = {"train": {"beta": 0.25}, "prompts.template": "😀 {problem}"}
    assert recipes.load(str(path), nested).train.beta == 0.25
    assert recipes.load(str(path), nested).prompts.template == "😀 {problem}"
    path.write_text("seed = [")
    with pytest.raises(UserError, match=r"mine\.toml"):
        recipes.load(str(path))


def test_a_learning_rate_follows_the_iteration() -> None:
    written = "{kind = 'linear', start = 1e-3, end = 1e-4, iterations = 10}"
    config = recipes.load("arithmetic", [f"train.learning_rate={written}"])
    found = [at(config.train.learning_rate, iteration) for iteration in (1, 4, 10, 99)]
    assert found == pytest.approx([1e-3, 7e-4, 1e-4, 1e-4])
    assert recorded("arithmetic", config.record_json()).train == config.train
    assert (
        recipes.load(
            "arithmetic", ["train.lora_rank=8", "train.reset_every_iterations=0", "train.reference=reset"]
        ).train.lora_rank
        == 8
    )


def test_how_fast_is_not_what() -> None:
    base = recipes.load("arithmetic")
    how = {"engine_batch": 3, "micro_batch_tokens": 9, "batching": "padded", "trainer_processes": 2, "sharding": "full"}
    how |= {"checkpointing": "layers", "trackers": ["tensorboard"]}
    faster = recipes.load("arithmetic", {f"runtime.{key}": value for key, value in how.items()}, iterations=999)
    assert faster.record() == base.record()
    other = recipes.load("arithmetic", ["generate.temperature=0.8", "seed=2"])
    assert list(differences(other.record(), base.record())) == ["generate.temperature 1.0 → 0.8", "seed 0 → 2"]
