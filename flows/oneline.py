"""A user's mistake is one line in Prefect's logs, not four tracebacks."""

import logging

from schemas import UserError


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, UserError):
            return True
        if record.name != "prefect.flow_runs" or str(record.msg).startswith("Engine execution"):
            return False  # the task's traceback, and the engine's two repetitions
        record.msg, record.args = "%s", (str(error),)
        record.exc_info = record.exc_text = None
        return True


def user_errors_on_one_line() -> None:
    """Filters the very loggers that Prefect writes to: a filter on a parent does not see its children's records."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logger = logging.getLogger(name)
        if not any(isinstance(found, _OneLine) for found in logger.filters):
            logger.addFilter(_OneLine())
