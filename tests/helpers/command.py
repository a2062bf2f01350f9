"""The `reval` command: in this process, which is quick, or as a user runs it; and runs small enough for tests."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
# The command as a user runs it, in the environment the tests run in.
REVAL = [sys.executable, "-m", "flows.cli"]
# The embedded base policy as the learning benchmark began from it: to train one takes a minute.
BASE = ROOT / "benchmarks" / "learning" / "results" / "start" / "arithmetic"
# A run small enough for tests.
SMALL = {
    "policy.base": str(BASE),
    "generate.prompts_per_iteration": 12,
    "generate.samples_per_prompt": 4,
    "replay.updates_per_iteration": 3,
    "replay.batch_trajectories": 40,
    "replay.window_trajectories": 72,
    "train.reference": "reset",
    "train.baseline": "group_mean",
    "train.reset_every_iterations": 2,
    "train.beta": 1.0,
    "train.learning_rate": 1.5e-4,
    "evaluate.max_prompts": 20,
    "evaluate.samples_per_prompt": 2,
    "runtime.micro_batch_tokens": 256,
}
# What makes the small run quick and ordinary: no vLLM, no GPU, one process that checks answers. Answers are short, so that
# a model that knows nothing is right now and then about questions whose answers are one digit.
QUICK = {
    **SMALL,
    "runtime.engine": "transformers",
    "runtime.device": "cpu",
    "runtime.verifier_workers": 1,
    "generate.max_response_tokens": 4,
}


def settings(**more: object) -> list[str]:
    """`--set` arguments of the small run."""
    return [word for key, value in {**SMALL, **more}.items() for word in ("--set", f"{key}={value}")]


def reval(*words: str, cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command and compares its exit code with `code`."""
    done = subprocess.run(
        [*REVAL, *words], cwd=cwd, env={**environment(cwd), **(env or {})}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def environment(cwd: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "REVAL_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "REVAL_HOME": str(cwd / "prefect")}


def invoke(*words: str, code: int = 0) -> SimpleNamespace:
    """Runs the command within this process and compares its exit code with `code`; returns `stdout` and `stderr`."""
    from typer.testing import CliRunner

    from flows.cli.main import app

    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, f"{words}: exit {done.exit_code} {done.exception!r}\n{done.output}"
    return SimpleNamespace(stdout=done.stdout, stderr=done.stderr)


def refused(*words: str) -> str:
    """The command's error about a bad request, which must be one line."""
    done = invoke(*words, code=2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("reval: ")
    return lines[0]
