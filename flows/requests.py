"""The requests of the two flows, loaded and checked once in a process.

A command checks the request before it starts Prefect, and passes it to the flow. The flow of a deployment does the check
itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from pipeline.archive.layout import ARCHIVE
from pipeline.exchange.join import bring_archives
from pipeline.recipes import RETRAIN, Overrides, load
from pipeline.runs.request import Request, check

_handed: ContextVar[Request | None] = ContextVar("handed", default=None)


@contextmanager
def handed(request: Request) -> Iterator[None]:
    """Inside this context, a flow that is called uses this request, which has the same parameters."""
    token = _handed.set(request)
    try:
        yield
    finally:
        _handed.reset(token)


def iterating(recipe: str, iterations: int | None, run: str | None, overrides: Overrides, archive: str | None) -> Request:
    """The request of an `iterate`; the flow explains the parameters.

    Raises:
        UserError: see `load` and `check`.
    """
    if (request := _handed.get()) is not None:
        return request
    return check("iterate", load(recipe, overrides, iterations=iterations), archive or ARCHIVE, name=run)


def retraining(
    recipe: str,
    passes: int,
    run: str | None,
    policy: str | None,
    at: str | None,
    more_archives: Sequence[str],
    overrides: Overrides,
    archive: str | None,
) -> Request:
    """The request of a `retrain`; first brings the rollouts of `more_archives` into the archive.

    Raises:
        UserError: see `load`, `bring_archives` and `check`.
    """
    if (request := _handed.get()) is not None:
        return request
    config, archive = load(recipe, overrides, iterations=passes, defaults=RETRAIN), archive or ARCHIVE
    bring_archives(archive, more_archives, at, config.runtime.storage)
    return check("retrain", config, archive, name=run, policy_id=policy, at=at)
