"""Turns errors that a user can fix into one line, in the terminal and in Prefect's logs."""

import errno
import logging

from schemas import Failure, UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def one_line(error: BaseException | None) -> str | None:
    """The message for an error that is not a fault of the program; None: it is one, and its traceback should be shown."""
    if isinstance(error, UserError):
        return str(error)
    if error is not None and _is_full(error):
        what = str(error).split("; its last words")[0]
        return f"no space left ({what}): make some and run the same command again; nothing that was committed is lost"
    return str(error) if isinstance(error, Failure) else None


def _is_full(error: BaseException) -> bool:
    """Whether a disk is full. Delta and child processes report this only in the error's text."""
    return (isinstance(error, OSError) and error.errno in FULL) or "No space left on device" in str(error)


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        line = one_line(record.exc_info[1]) if record.exc_info else None
        if line is None:
            return True
        if record.name != "prefect.flow_runs" or str(record.msg).startswith("Engine execution"):
            return False  # the task's traceback, and the engine's two repetitions
        record.msg, record.args = "%s", (line,)
        record.exc_info = record.exc_text = None
        return True


def errors_on_one_line() -> None:
    """Adds the filter to the loggers that Prefect writes to: a filter on a parent does not see its children's records."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logger = logging.getLogger(name)
        if not any(isinstance(found, _OneLine) for found in logger.filters):
            logger.addFilter(_OneLine())
