"""The soak of benchmarks/soak.py in short, and that it would notice."""

import subprocess
import sys
from pathlib import Path

from benchmarks.soak import Soak
from pipeline.archive.store import Store
from tests.helpers.command import environment


def test_killed_at_random_moments_it_ends_as_if_nobody_had(home, tmp_path) -> None:
    base = next((home / "archive" / "weights").glob("arithmetic-base-*"))
    command = [sys.executable, "-m", "benchmarks.soak", "--kills", "1", "--iterations", "2", "--seed", "3"]
    done = subprocess.run(
        [*command, "--base", base, "--folder", tmp_path / "soak"],
        cwd=Path(__file__).parents[2],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kills" in done.stdout


def test_it_would_notice(home, tmp_path) -> None:
    same, empty = (Soak(tmp_path / name, 0, 2, [], 0, set()) for name in ("same", "empty"))
    for soak in (same, empty):
        (soak.calm / "archive").symlink_to(home / "archive")
    (same.storm / "archive").symlink_to(home / "archive")
    Store.create(empty.storm / "archive")
    assert all(line.endswith("the same") for line in same.compare())
    assert same.problems == []
    empty.compare()
    assert any(problem.startswith("trajectories: 96 missing, 0 more") for problem in empty.problems)
    empty.problems.clear()
    empty.rows = empty.look(empty.calm, "before")
    empty.look(empty.storm, "after")
    assert any("trajectories lost or changed 96 rows" in problem for problem in empty.problems)
