"""What a person sees of a run: log lines, and progress bars with rate and time left in a terminal."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True)
log = logging.getLogger("reval")
log.setLevel(logging.INFO)


class ConsoleHandler(logging.Handler):
    """Log records as plain lines beside the bars; a line is never broken where the output is not a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work named `what`; call the result with (done, total). It vanishes when the work ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


SHOWN = 5


def listed(names: Sequence[str]) -> str:
    """The first few names, and that there are more."""
    return ", ".join([*names[:SHOWN], *([f"… {len(names):,} in all"] if len(names) > SHOWN else [])])
