"""Checks that benchmarks/soak.py notices faults. `make soak` runs it; test_flow.py kills a run once and compares."""

from benchmarks.soak import Soak
from pipeline.archive.store import Store


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
