"""README stays true: what it lists exists, what exists is listed, and its query runs."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline.verifiers import IMPORTED, NAMES
from schemas.enums import Verdict
from tests.helpers.command import invoke, reval

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_commands_exist() -> None:
    help_text = reval("--help", cwd=ROOT).stdout
    for name in set(re.findall(r"`reval (\w+)", README)) | set(re.findall(r"bin/reval (\w+)", README)):
        assert name in help_text, name


def test_the_query_runs(home) -> None:
    block = README.split("## Ask the archive")[1].split("$ .venv/bin/reval sql ")[1].split("    iteration  ")[0]
    (statement,) = shlex.split(block)
    out = reval("sql", statement, cwd=home).stdout
    assert out.split()[:4] == ["iteration", "worked_out", "reward_worked_out", "reward_at_once"]


def test_the_script_runs(home) -> None:
    """Polars, pyarrow and DuckDB read the tables without us."""
    block = README.split("Other readers have them directly:\n")[1].split("\n\n**Every state")[0]
    script = textwrap.dedent(block) + "\nprint(verdicts['len'].sum(), lengths.num_rows, len(by_policy))"
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["96", "96", "2"]


def test_constraints_name_no_place() -> None:
    for name in ("constraints.txt", "pyproject.toml", "Makefile", ".ci/run", "prefect.yaml"):
        urls = re.findall(r"\b\w+://[^\s\"']+", (ROOT / name).read_text())
        assert all(url.startswith("http://127.0.0.1") for url in urls), name


def test_the_plan_is_what_plan_says() -> None:
    """Line by line; an ellipsis stands for lines left out."""
    shown = textwrap.dedent(
        re.search(r"\$ .venv/bin/reval plan --recipe paper-1.5b\n(.*?)\n\nWith", README, re.S).group(1)
    )
    said = [line.rstrip() for line in invoke("plan", "--recipe", "paper-1.5b").stdout.splitlines()]
    lines = [line.strip() for line in shown.splitlines() if line.strip() not in ("…", "")]
    assert len(lines) > 8
    assert [line for line in said if line in lines] == lines


def test_judging_again_says_what_it_shows(tmp_path) -> None:
    """Seconds aside, which are the machine's."""
    data = ROOT.parent / "shared" / "data" / "gsm8k"
    if not data.exists():
        pytest.skip("no labelled solutions here")
    block = README.split("reval rescore --verifier gsm8k ")[1].split("\n\n")[0]
    archive = ("--archive", str(tmp_path / "archive"))
    invoke("import", "prompts", str(data / "test.jsonl"), *archive)
    invoke("import", "rollouts", str(data / "example_model_solutions.jsonl"), *archive)
    said = invoke("rescore", "--verifier", "gsm8k", *archive).stdout

    def counts(text: str) -> list[list[str]]:
        rows = [line.split() for line in text.splitlines()]
        return [row[:2] for row in rows if row and row[0] in set(Verdict)] + [
            row for row in rows if row[:1] == ["imported"]
        ]

    assert counts(said) == counts(block)
    assert len(counts(block)) == 4


def test_every_verifier_is_explained() -> None:
    section = README.split("## Judge again")[1].split("\n## ")[0]
    named = {name.split(":")[0] for name in re.findall(r"^\| `([\w:.]+)`", section, re.M)}
    assert named == {*NAMES, IMPORTED}
