"""Requests: loaded, checked and drawn for the check once, and held against the archive again where it may have changed."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipes
from pipeline.runs.request import Request, check
from pipeline.runs.run import open_run
from pipeline.stages.order import STAGES
from schemas import UserError
from tests.helpers.command import invoke


@pytest.fixture
def counted(monkeypatch) -> Counter[str]:
    """Counts calls that make a request or draw. The two flows run without Prefect, which would start a server."""
    counts: Counter[str] = Counter()

    def count(module: str, name: str) -> None:
        real: Callable[..., Any] = getattr(import_module(module), name)

        def counting(*args: Any, **how: Any) -> Any:
            counts[name] += 1
            return real(*args, **how)

        monkeypatch.setattr(f"{module}.{name}", counting)

    monkeypatch.setattr("flows.server.reporting", nullcontext)
    for flow in ("iterate", "retrain"):
        page = import_module(f"flows.{flow}")
        monkeypatch.setattr(page, flow, getattr(page, flow).fn)
        for name in STAGES.keys() & vars(page).keys():
            monkeypatch.setattr(page, name, STAGES[name])
    count("flows.requests", "load")
    count("flows.requests", "check")
    count("pipeline.replay.draws", "rows")
    return counts


def words(trained) -> list[str]:
    return [word for key, value in trained.settings.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.usefixtures("warm")
def test_a_retraining_is_checked_once_and_drawn_once_more_than_it_has_passes(trained, archive, counted) -> None:
    """The check makes the first draw, so an impossible one leaves no run. A run was checked when it began."""
    command = ("retrain", "--archive", str(archive), "--run", "retrain", *words(trained))
    assert "run retrain made retrain-0002" in invoke(*command, "--passes", "2").stdout
    assert counted == {"load": 1, "check": 1, "rows": 1 + 2}
    counted.clear()
    assert "run retrain made retrain-0003" in invoke(*command, "--passes", "3").stdout
    assert counted == {"load": 1, "check": 1, "rows": 1}


@pytest.mark.usefixtures("warm")
def test_an_iterate_is_checked_once(trained, archive, counted) -> None:
    said = invoke("iterate", "--archive", str(archive), "-n", "2", "--run", "arithmetic", *words(trained))
    assert "arithmetic-0002" in said.stdout
    assert counted == {"load": 1, "check": 1}


def test_a_request_says_what_was_asked_with_the_state_pinned(trained) -> None:
    config = recipes.load("arithmetic", trained.settings, defaults=recipes.RETRAIN)
    found = check("retrain", config, trained.archive, name="mine", policy_id="arithmetic-0001", at=trained.first)
    base = Path(config.policy.base)
    assert found == Request("retrain", config, trained.archive, base, "mine", "arithmetic-0001", trained.first)
    assert check("retrain", config, trained.archive).snapshot_id is None


@pytest.mark.usefixtures("warm")
def test_a_name_that_another_took_after_the_check_is_refused(trained, archive) -> None:
    """If the other run has other settings or another policy."""
    config = recipes.load("arithmetic", trained.settings)
    first = check("iterate", config, archive, name="mine")
    other = recipes.load("arithmetic", {**trained.settings, "train.beta": 0.5})
    second = check("iterate", other, archive, name="mine")
    with open_run(first):
        pass
    with pytest.raises(UserError, match=r"run mine: train\.beta 1\.0 → 0\.5 since it began"), open_run(second):
        pass
    retrain = recipes.load("arithmetic", trained.settings, defaults=recipes.RETRAIN)
    third, fourth = (check("retrain", retrain, archive, name="ours", policy_id=f"arithmetic-000{i}") for i in (1, 2))
    with open_run(third):
        pass
    with pytest.raises(UserError, match="run ours: base_policy"), open_run(fourth):
        pass
