"""What several tests share: a model that knows nothing, and an archive that the real command made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The command as a user runs it, in the environment the tests run in.
REVAL = [sys.executable, "-m", "flows.cli"]
# A run small enough for tests; the base policy stops almost at once and is wrong most of the time.
SMALL = {
    "policy.target_accuracy": 0.1,
    "generate.prompts_per_iteration": 12,
    "generate.samples_per_prompt": 4,
    "replay.updates_per_iteration": 3,
    "replay.batch_trajectories": 40,
    "replay.window_trajectories": 72,
    "train.reset_every_iterations": 2,
    "evaluate.max_prompts": 20,
    "evaluate.samples_per_prompt": 2,
    "runtime.micro_batch_tokens": 256,
}


def settings(**more: object) -> list[str]:
    """`--set` arguments of the small run."""
    return [word for key, value in {**SMALL, **more}.items() for word in ("--set", f"{key}={value}")]


def reval(*words: str, cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command and holds its exit code against `code`."""
    done = subprocess.run(
        [*REVAL, *words], cwd=cwd, env={**environment(cwd), **(env or {})}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def environment(cwd: Path) -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "REVAL_"))}
    return {**kept, "PYTHONPATH": root, "REVAL_HOME": str(cwd / "prefect")}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, where `reval iterate` has run two iterations with vLLM under Prefect. Tests only read it."""
    folder = tmp_path_factory.mktemp("home")
    reval("iterate", "--iterations", "2", *settings(), cwd=folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with the arithmetic tokenizer and random weights, output layer tied to the embedding."""
    return random_model(tmp_path_factory.mktemp("model") / "tied", seed=1, tie_word_embeddings=True)


def random_model(folder: Path, seed: int, **changes: object) -> Path:
    import torch

    from pipeline import arithmetic

    tokenizer = arithmetic.make_tokenizer()
    model = arithmetic.make_model(tokenizer, seed, **changes)
    with torch.no_grad():  # at initialisation all tokens are about as likely; nothing could tell two models apart
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
