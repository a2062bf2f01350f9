"""The stages as Prefect tasks. Prefect keeps no results: the archive shows which work is done."""

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from pipeline.stages.order import STAGES


def stage(function: Callable[..., None]) -> Any:
    """A task for a stage. Its argument, the run, holds processes, so it is never hashed, stored or pickled."""
    name = function.__name__
    return task(name=name, task_run_name=name + "-{iteration}", cache_policy=NO_CACHE, persist_result=False)(function)


generate, score, draw, reference, train, evaluate = map(stage, STAGES.values())
