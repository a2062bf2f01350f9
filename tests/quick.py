"""Quick and slow tests: `make quick` runs tests without the mark `slow`, which start no process.

A test is slow if it is in tests/whole, if one of its fixtures starts processes, or if it is marked: `@pytest.mark.slow`,
or `pytestmark = pytest.mark.slow` for a file. Mark a test that starts a process itself or takes seconds. A test that is
not marked and starts a process fails, in every run.

It also says which tests run in the same one of the two test processes.
"""

import subprocess
from collections.abc import Generator
from typing import Any, NoReturn

import pytest

# Fixtures of conftest.py that start an engine, a trainer or a Prefect server; others stand on these.
STARTING = {"children", "served"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: starts a process, or takes seconds; `make quick` leaves it out")


def pytest_itemcollected(item: pytest.Item) -> None:
    if "whole" in item.path.parts or STARTING & set(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of a file go to one process. So do all of tests/whole, and all others that share running processes.

    These two groups begin at once, because they take longest. That each starts a trainer and an engine of its own costs
    less than that one test process waits for the other in the end.
    """
    for item in items:
        group = str(item.path)
        if "whole" in item.path.parts:
            group = "whole"
        elif STARTING & set(getattr(item, "fixturenames", ())):
            group = "sharing"
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args[0] not in ("whole", "sharing"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("slow") is None:
            patch.setattr(subprocess.Popen, "__init__", _refuse)
        return (yield)


def _refuse(self: subprocess.Popen, args: Any, *more: Any, **how: Any) -> NoReturn:
    raise AssertionError(f"a test that starts a process is marked slow (tests/quick.py); it would start {args}")
