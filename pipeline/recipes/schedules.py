"""Numbers that change from iteration to iteration, and the shares of an update, which are made of them.

Imports no torch.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from schemas import did_you_mean

FORMS = (
    "write a number, a list with a number for each iteration (the last one stays), "
    '{kind = "linear" or "cosine", start = 1.0, end = 0.25, iterations = 20}, '
    'or {kind = "steps", values = [1.0, 0.5], at = [10]}'
)


REST = "rest"


STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Ramp(BaseModel):
    """From `start` at iteration 1 to `end` at iteration `iterations`, and `end` from then on."""

    model_config = STRICT

    kind: Literal["linear", "cosine"]
    start: float
    end: float
    iterations: int = Field(ge=2)


class Steps(BaseModel):
    """`values[0]` until iteration `at[0]`, which has `values[1]`, and so on."""

    model_config = STRICT

    kind: Literal["steps"]
    values: list[float]
    at: list[int]


def _explained(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Checks a schedule and reports an error in one sentence; pydantic would report one for every form."""
    try:
        schedule = handler(value)
    except ValidationError:
        raise ValueError(f"it is no schedule; {FORMS}") from None
    if isinstance(schedule, list) and not schedule:
        raise ValueError(f"an empty list is no schedule; {FORMS}")
    if isinstance(schedule, Steps) and not (
        len(schedule.values) == len(schedule.at) + 1 and schedule.at == sorted({*schedule.at})
    ):
        raise ValueError("steps want one value more than places, and the places in order")
    if not all(map(math.isfinite, _values(schedule))):
        raise ValueError("a schedule is made of finite numbers")
    return schedule


Schedule = Annotated[float | list[float] | Ramp | Steps, WrapValidator(_explained)]


def _values(schedule: Any) -> list[float]:
    if isinstance(schedule, Ramp):
        return [schedule.start, schedule.end]
    if isinstance(schedule, Steps):
        return schedule.values
    return schedule if isinstance(schedule, list) else [schedule]


def positive(schedule: float | list[float] | Ramp | Steps) -> bool:
    """Whether every value of the schedule is above 0."""
    return min(_values(schedule)) > 0


def at(schedule: float | list[float] | Ramp | Steps, iteration: int) -> float:
    """The value at an iteration; the first is 1."""
    if isinstance(schedule, Ramp):
        done = min(1.0, (iteration - 1) / (schedule.iterations - 1))
        if schedule.kind == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return schedule.start + (schedule.end - schedule.start) * done
    if isinstance(schedule, Steps):
        return schedule.values[sum(place <= iteration for place in schedule.at)]
    if isinstance(schedule, list):
        return schedule[min(iteration, len(schedule)) - 1]
    return schedule


def n_iterations(schedule: float | list[float] | Ramp | Steps) -> int:
    """The iteration from which on the value does not change."""
    if isinstance(schedule, Ramp):
        return schedule.iterations
    if isinstance(schedule, Steps):
        return max(schedule.at, default=1)
    return len(schedule) if isinstance(schedule, list) else 1


def check_shares(shares: dict[str, Any], known: tuple[str, ...]) -> str | None:
    """The error in the shares of an update; None: there is none."""
    for name in shares:
        if name not in known:
            return f"unknown rule {name!r}; " + did_you_mean(name, known, f"known: {', '.join(known)}")
    counted = [schedule for schedule in shares.values() if schedule != REST]
    if len(shares) - len(counted) > 1:
        return "only one share can be the rest"
    for iteration in range(1, max(map(n_iterations, counted), default=1) + 1):
        values = [at(schedule, iteration) for schedule in counted]
        if min(values, default=0.0) < 0:
            return f"at iteration {iteration} a share is {min(values):g}; shares go from 0 to 1"
        total = math.fsum(values)
        if total > 1 + 1e-9 or (len(counted) == len(shares) and total < 1 - 1e-9):
            return f"at iteration {iteration} the shares sum to {total:g} and not to 1"
    return None


def rows(shares: dict[str, Any], iteration: int, n: int) -> dict[str, int]:
    """The shares of an update as whole numbers of rows that sum to `n`; the largest remainders are rounded up."""
    values = {name: at(schedule, iteration) for name, schedule in shares.items() if schedule != REST}
    exact = {name: n * values.get(name, 1 - math.fsum(values.values())) for name in shares}
    found = {name: math.floor(part + 1e-9) for name, part in exact.items()}
    by_remainder = sorted(found, key=lambda name: found[name] - exact[name])
    for name in by_remainder[: n - sum(found.values())]:
        found[name] += 1
    return found
