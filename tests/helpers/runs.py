"""Runs as a flow opens them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.recipes.config import Config
from pipeline.runs import run
from pipeline.runs.processes import Processes
from pipeline.runs.request import check


@contextmanager
def open_run(
    flow: str,
    config: Config,
    archive: str | Path,
    *,
    begin: bool = True,
    verbose: bool = False,
    processes: Processes | None = None,
    **asked: Any,
) -> Iterator[run.Run]:
    """`pipeline.runs.run.open_run` of what `check` returns; `asked` is the rest of what `check` takes."""
    request = check(flow, config, archive, **asked)
    with run.open_run(request, begin=begin, verbose=verbose, processes=processes) as found:
        yield found
